"""`hwnas predict`: print predicted latencies with intervals."""

from typing import Any

import click

from hwnas.cli.following import search_command
from hwnas.cli.options import BATCH, CONFIDENCE, THREADS, json_option, predictors_option, profiles_option
from hwnas.cli.output import Column, print_footer, print_json, print_line, print_table
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.predict import (
    NetworkPredictions,
    PredictOptions,
    predict_networks,
    require_all_inside,
)
from hwnas.space import SPACES

_PRINTED_FACTS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch", "cuda", "driver", "memory_format")
"""Facts of the environment that are printed with a prediction; the card has all of them."""


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option(
    "--device", default="auto", show_default=True, help="Device to predict for; it need not be in this machine."
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("latency_ms",),
    help="latency_ms, throughput, memory_mb or energy_j (repeatable).",
)
@click.option("--space", help="Space of TARGETs that are archs without a space.")
@click.option("--batch", type=BATCH, help="Batch size of the predictor, if there are several.")
@click.option("--runtime", help="Runtime of the predictor, if there are several.")
@click.option("--precision", help="Precision of the predictor, if there are several.")
@click.option("--threads", type=THREADS, help="CPU threads of the predictor, if there are several.")
@click.option("--confidence", type=CONFIDENCE, show_default="at most 0.9", help="Confidence of the intervals.")
@predictors_option
@profiles_option
@click.option("--allow-outside", is_flag=True, help="Also predict networks that differ from all measured ones.")
@json_option
def predict(
    *,
    targets: tuple[str, ...],
    device: str,
    runtime: str | None,
    precision: str | None,
    batch: int | None,
    threads: int | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Predict the latency of networks on a device.

    For a device without measurements, those of other devices of its kind are scaled by their datasheets, and the
    output says so.

    TARGET is timm:NAME, SPACE:ARCH, or with --space just ARCH: the name of a published network, min, max, random:SEED,
    a JSON file or inline JSON. It may also be a .jsonl file with one arch, or {"space": ..., "arch": ...}, per line.
    """
    deployment = Deployment(device=device, runtime=runtime, precision=precision, batch=batch, threads=threads)
    options = PredictOptions(deployment=deployment, **values)
    predicted = predict_networks(targets, options)
    if as_json:
        print_json(predicted)
    else:
        _print(predicted)
    if not options.allow_outside:
        require_all_inside(predicted)
    if not as_json:
        print_line()
        print_footer(_next_command(targets, options))


def _print(predicted: NetworkPredictions) -> None:
    interval = f"{predicted.confidence:.0%} interval"
    columns: list[Column | str] = [
        "network",
        "network_id",
        Column("predicted", numeric=True),
        Column(interval, numeric=True),
        "metric",
    ]
    rows: list[list[str | None]] = [
        [
            item.label,
            item.network_id,
            f"{item.mean:.4g} {item.unit}",
            f"{item.lower:.4g} to {item.upper:.4g}",
            item.metric,
        ]
        for item in predicted.predictions
    ]
    if predicted.outside:
        columns.append("outside")
        for row, item in zip(rows, predicted.predictions, strict=True):
            row.append("; ".join(item.outside[:2]) or None)
    print_table(columns, rows)
    for note in predicted.notes:
        print_line(f"note: {note}")
    for used in predicted.predictors:
        print_line()
        print_line(f"{used.note}")
        facts = [f"{name} {used.environment[name]}" for name in _PRINTED_FACTS if name in used.environment]
        source = used.environment.get("source") or ", ".join(used.sources)
        print_line(f"  measured in {source}{' with ' if facts else ''}{', '.join(facts)}")
        if used.measured and (used.path / "card.md").is_file():
            print_line(f"  card: {used.path}/card.md")


def _next_command(targets: tuple[str, ...], options: PredictOptions) -> tuple[object, ...]:
    """Search the space of the first target."""
    space = options.space or targets[0].partition(":")[0]
    if space not in SPACES:
        return ()
    device = options.deployment.device or "auto"
    return search_command(SPACES.resolve(space), device, objective=options.metrics[0])
