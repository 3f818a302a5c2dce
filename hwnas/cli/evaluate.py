"""`hwnas evaluate`."""

from pathlib import Path

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.options import json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.pipeline.evaluate import Evaluation
from hwnas.pipeline.evaluate import evaluate as evaluate_networks
from hwnas.train.evaluation import Split


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("archs", nargs=-1)
@click.option(
    "--split",
    type=click.Choice(["heldout", "test"]),
    default="heldout",
    help="Held-out images (for choosing), or test images (once, at the end).",
)
@click.option("--data", help="Other images than the run's; needed where RUN is a file of weights.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that load images.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the networks run.")
@json_option
def evaluate(
    run: Path, archs: tuple[str, ...], *, split: Split, data: str | None, workers: int, device: str, as_json: bool
) -> None:
    """Judge networks with the weights of RUN, a run of `hwnas train` or a file of weights.

    ARCHS are networks of the supernet in RUN: published names, min, max, random:SEED, JSON files, inline JSON, or ids
    of networks that were judged in RUN before; without any, the smallest and the largest. A run of one network takes
    none.
    """
    evaluation = evaluate_networks(run, archs, split=split, data=data, workers=workers, device=device)
    if as_json:
        print_json(evaluation)
        return
    _print(evaluation)
    print_ending(_following(evaluation))


def _print(evaluation: Evaluation) -> None:
    numbers = ("params", "macs", "top-1", "top-5", "loss")
    columns = [Column("network"), Column("arch_id"), *(Column(name, numeric=True) for name in numbers)]
    rows = [
        (
            network.name,
            network.arch_id,
            network.params,
            network.macs,
            f"{network.top1:.2%}",
            f"{network.top5:.2%}",
            f"{network.loss:.3f}",
        )
        for network in evaluation.networks
    ]
    print_table(columns, rows)
    print_line()
    images = evaluation.networks[0].count
    print_line(f"{images:,} {evaluation.split} images of {evaluation.data}; weights of {evaluation.weights}")
    for note in evaluation.notes:
        print_line(f"note: {note}")


def _following(evaluation: Evaluation) -> tuple[object, ...]:
    """A supernet's space is measured next, and a network of its own exported."""
    if evaluation.space is None:
        return ()
    if evaluation.kind == "supernet":
        return ("hwnas", "profile", "--space", evaluation.space)
    return ("hwnas", "export", evaluation.space, "--weights", evaluation.weights, "--out", "exported")
