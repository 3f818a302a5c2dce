"""`hwnas query`."""

from pathlib import Path
from typing import Any

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.options import json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.pipeline.search.query import QueriedNetwork, QueryResult
from hwnas.pipeline.search.query import query as ask


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--objective", "objectives", multiple=True, metavar="METRIC", help="In place of the search's; repeats.")
@click.option("--constraint", "constraints", multiple=True, metavar="METRIC<=BOUND", help="In place of its; repeats.")
@click.option("--device", help="Another device, for which there are predictors.")
@click.option("--confidence", type=float, help="Hold constraints for the unfavourable end of such intervals.")
@click.option("--predictors", type=click.Path(path_type=Path), help="A folder of predictors to look in alone.")
@json_option
def query(
    run: Path,
    *,
    objectives: tuple[str, ...],
    constraints: tuple[str, ...],
    device: str | None,
    confidence: float | None,
    predictors: Path | None,
    as_json: bool,
) -> None:
    """Ask a search that has ended for other constraints or another device: nothing is searched or judged again.

    The answer is the front of all that the search in RUN evaluated.
    """
    found = ask(
        run,
        objectives=objectives,
        constraints=constraints,
        device=device,
        confidence=confidence,
        predictors=predictors,
    )
    if as_json:
        print_json(found)
        return
    _print(found)
    best = found.networks[0].arch_id if found.networks else None
    print_ending(() if best is None else ("hwnas", "export", run, "--arch", best, "--out", "exported"))


def _print(found: QueryResult) -> None:
    if not found.networks:
        wanted = f"meets {', '.join(found.constraints)}" if found.constraints else "has all of these metrics"
        print_line(f"None of the {found.candidates:,} candidates {wanted}.")
    else:
        names = list(found.networks[0].metrics)
        measured = [name for name in names if any(name in network.measured for network in found.networks)]
        titles = [*names, *(f"{name} measured" for name in measured)]
        rows = [_row(network, names, measured) for network in found.networks]
        print_table([Column("arch_id"), *(Column(title, numeric=True) for title in titles)], rows)
    print_line()
    held = "" if found.confidence is None else f", constraints held with confidence {found.confidence:g}"
    print_line(f"{len(found.networks)} on the front of {found.candidates:,} candidates{held}")
    for note in found.notes:
        print_line(f"note: {note}")


def _row(network: QueriedNetwork, names: list[str], measured: list[str]) -> list[object]:
    values = [_shown(name, network.metrics[name]) for name in names]
    again = [_shown(name, network.measured[name]) if name in network.measured else None for name in measured]
    return [network.arch_id, *values, *again]


def _shown(name: str, value: float) -> Any:
    if name == "accuracy":
        return f"{value:.2%}"
    return int(value) if name in ("macs", "params") else f"{value:,.5g}"
