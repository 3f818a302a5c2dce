"""`hwnas evaluate`: print the accuracy of networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwnas.cli.following import export_command, finished_search
from hwnas.cli.options import PATH, WORKERS, evaluate_on_option, json_option
from hwnas.cli.output import Column, print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.errors import InputError
from hwnas.metrics import QUALITIES, QualityMetric
from hwnas.runs import MANIFEST, MODEL, NETWORK
from hwnas.train.options import open_train_config

if TYPE_CHECKING:
    from hwnas.pipeline.evaluate import Evaluation
    from hwnas.train.evaluation import Split

_FIGURES: Mapping[QualityMetric, tuple[tuple[str, str, str], ...]] = {
    "accuracy": (("top-1", "top1", ".2%"), ("top-5", "top5", ".2%"), ("loss", "loss", ".3f")),
    "knn_accuracy": (("accuracy of nearest images", "knn_accuracy", ".2%"),),
    "divergence": (("divergence, nats", "divergence", ".4g"),),
    "mAP": (("mAP", "mAP", ".2%"),),
    "mIoU": (("mIoU", "mIoU", ".2%"),),
}
"""Printed columns by metric, each with its field and format."""


@click.command()
@click.argument("run", type=PATH)
@click.argument("archs", nargs=-1)
@click.option(
    "--split",
    type=click.Choice(["heldout", "test"]),
    default="heldout",
    show_default=True,
    help="Images to evaluate on: held-out ones to choose a network, test ones once at the end.",
)
@click.option(
    "--metric",
    type=click.Choice(QUALITIES),
    show_default="accuracy, mAP or mIoU by the task; divergence on images without classes",
    help="Of networks inside a pretrained model also knn_accuracy or divergence, as for hwnas search.",
)
@click.option(
    "--data",
    help="Images to use instead of those of the run, all of them unless they have train/ and test/; required if RUN "
    "is a file of weights.",
)
@click.option("--workers", type=WORKERS, default=0, show_default=True, help="Processes that load images.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Device to run on."
)
@evaluate_on_option
@json_option
def evaluate(
    run: Path,
    archs: tuple[str, ...],
    *,
    split: "Split",
    metric: QualityMetric | None,
    data: str | None,
    workers: int,
    device: str,
    evaluate_on: str | None,
    as_json: bool,
) -> None:
    """Evaluate networks on held-out or test images.

    RUN is a run of hwnas train or a file of weights. If it holds a supernet, ARCHS are the networks to evaluate with
    its weights: names of published networks, min, max, random:SEED, JSON files, inline JSON, or ids of networks that
    were evaluated in RUN before (default: min and max). If it holds a single network, leave ARCHS out.
    """
    open_train_config(run)
    from hwnas.pipeline.evaluate import evaluate as evaluate_networks  # torch, which takes seconds

    with console_reporter() as reporter:
        evaluation = evaluate_networks(
            run,
            archs,
            split=split,
            metric=metric,
            data=data,
            workers=workers,
            device=device,
            evaluate_on=evaluate_on,
            reporter=reporter,
        )
    if as_json:
        print_json(evaluation)
        return
    _print(evaluation)
    print_footer(_next_command(evaluation))


def _print(evaluation: "Evaluation") -> None:
    figures = _FIGURES[evaluation.metric]
    names = ("params", "macs", *(name for name, _, _ in figures))
    columns = [Column("network"), Column("arch_id"), *(Column(name, numeric=True) for name in names)]
    rows = [
        (
            network.name,
            network.arch_id,
            network.params,
            network.macs,
            *(format(getattr(network, field), form) for _, field, form in figures),
        )
        for network in evaluation.networks
    ]
    print_table(columns, rows)
    print_line()
    num_images = evaluation.networks[0].count
    print_line(f"{num_images:,} {evaluation.split} images of {evaluation.data}; weights of {evaluation.weights}")
    for note in evaluation.notes:
        print_line(f"note: {note}")


def _next_command(evaluation: "Evaluation") -> tuple[object, ...]:
    """After a supernet, measure its space, or read the report if it was searched; after a single network, export it."""
    run = evaluation.weights.parent
    if evaluation.kind == "network" and evaluation.weights.name in (NETWORK, MODEL) and (run / MANIFEST).is_file():
        return export_command(run)
    if evaluation.space is None:
        return ()
    if evaluation.kind == "supernet":
        from hwnas.pipeline.run_network import space_of_run

        searched = finished_search(run)
        if searched is not None:
            return ("hwnas", "report", searched)
        try:
            space_of_run(run)
        except InputError:  # a file of weights alone
            return ("hwnas", "profile", "--space", evaluation.space)
        return ("hwnas", "profile", "--supernet", run)  # at the image size and classes of the run
    return ("hwnas", "export", evaluation.space, "--weights", evaluation.weights, "--out", "exported")
