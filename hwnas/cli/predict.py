"""`hwnas predict`."""

from pathlib import Path
from typing import Any

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.options import json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.predict import (
    Predicted,
    PredictedFigure,
    PredictOptions,
    predict_networks,
    require_all_inside,
)
from hwnas.space import SPACES

_SHOWN = ("onnxruntime", "tensorrt", "torch", "cuda", "driver", "memory_format")
"""Facts of an environment that an answer is printed with; all stand on the card."""


@click.command()
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--device", default="auto", show_default=True, help="The device; it need not be here.")
@click.option("--metric", "metrics", multiple=True, default=("latency_ms",), help="latency_ms, throughput and so on.")
@click.option("--space", help="The space of TARGETs that are archs alone.")
@click.option("--batch", type=click.IntRange(min=1), help="Images at once, where predictors of several are there.")
@click.option("--runtime", help="The runtime, where predictors of several are there.")
@click.option("--precision", help="The precision, where predictors of several are there.")
@click.option("--threads", type=click.IntRange(min=1), help="The threads, where predictors of several are there.")
@click.option("--confidence", type=float, help="Of the intervals: 0.9, or the most that the predictor supports.")
@click.option("--predictors", type=click.Path(path_type=Path), help="Look in this folder alone (HWNAS_PREDICTORS).")
@click.option("--allow-outside", is_flag=True, help="Answer for networks unlike all fitted ones, too.")
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
    """Say what networks would take on a device, and how sure that is.

    TARGET is timm:NAME, SPACE:ARCH (a published name, min, max, random:SEED, a JSON file or inline JSON; with --space
    an arch alone), or a .jsonl file with an arch, or {"space": ..., "arch": ...}, on each line.
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
        print_ending(_following(targets, options))


def _print(predicted: Predicted) -> None:
    share = f"{predicted.confidence:.0%} interval"
    columns: list[Column | str] = [
        "network",
        "network_id",
        Column("predicted", numeric=True),
        Column(share, numeric=True),
        "metric",
    ]
    marked = ["outside"] if predicted.outside else []
    print_table([*columns, *marked], [(*_row(figure), *_mark(figure, marked)) for figure in predicted.figures])
    for note in predicted.notes:
        print_line(f"note: {note}")
    for used in predicted.predictors:
        print_line()
        print_line(f"{used.note}")
        facts = [f"{name} {used.environment[name]}" for name in _SHOWN if name in used.environment]
        source = used.environment.get("source") or ", ".join(used.sources)
        print_line(f"  measured in {source}{' with ' if facts else ''}{', '.join(facts)}")
        print_line(f"  {used.path}/card.md says how good it is")


def _following(targets: tuple[str, ...], options: PredictOptions) -> tuple[object, ...]:
    """A search of the space whose network was asked about first."""
    space = options.space or targets[0].partition(":")[0]
    if space not in SPACES:
        return ()
    device = options.deployment.device or "auto"
    return ("hwnas", "search", "--space", space, "--device", device, "--objective", options.metrics[0])


def _row(figure: PredictedFigure) -> tuple[str, ...]:
    interval = f"{figure.lower:.4g} to {figure.upper:.4g}"
    return (figure.label, figure.network_id, f"{figure.mean:.4g} {figure.unit}", interval, figure.metric)


def _mark(figure: PredictedFigure, marked: list[str]) -> tuple[str | None, ...]:
    return (("; ".join(figure.outside[:2]) or None),) if marked else ()
