"""`hwnas query`: print the front of a finished search for other objectives, constraints or devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hwnas.cli.following import commands_for
from hwnas.cli.front import short_names
from hwnas.cli.options import CONFIDENCE, NAMES, PATH, json_option, predictors_option
from hwnas.cli.output import Column, print_footer, print_json, print_line, print_table
from hwnas.cli.project import project_run
from hwnas.metrics import METRICS, QUALITIES, parse_metric
from hwnas.pipeline.search.query import MissedConstraint, QueryResult
from hwnas.pipeline.search.query import query as query_search
from hwnas.report.front import reference_origin
from hwnas.search.record import ReferenceNetwork, read_record


@click.command()
@click.argument("run", type=PATH, required=False)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="METRIC",
    help="Objective instead of those of the search (repeatable).",
)
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="METRIC<=BOUND",
    help="Constraint instead of those of the search (repeatable).",
)
@click.option("--device", help="Another device that has predictors.")
@click.option(
    "--precision", "precisions", type=NAMES, default=(), metavar="NAMES", help="Networks in these precisions only."
)
@click.option("--runtime", "runtimes", type=NAMES, default=(), metavar="NAMES", help="Networks in these runtimes only.")
@click.option(
    "--confidence", type=CONFIDENCE, help="Apply constraints to the worse end of intervals of this confidence."
)
@predictors_option
@json_option
def query(
    run: Path | None,
    *,
    objectives: tuple[str, ...],
    constraints: tuple[str, ...],
    device: str | None,
    precisions: tuple[str, ...],
    runtimes: tuple[str, ...],
    confidence: float | None,
    predictors: Path | None,
    as_json: bool,
) -> None:
    """Show a front under other objectives or constraints.

    Print the front of all networks that the search in RUN evaluated, for other objectives, other constraints or another
    device. Nothing is searched or evaluated again. Constraints are checked on the measured value of a network, and on
    the predicted one if it was not measured; if no network meets them, the closest are named. Without RUN, it is the
    search of hwnas.toml.
    """
    run = project_run() if run is None else run
    found = query_search(
        run,
        objectives=objectives,
        constraints=constraints,
        device=device,
        runtimes=runtimes,
        precisions=precisions,
        confidence=confidence,
        predictors=predictors,
    )
    if as_json:
        print_json(found)
        return
    _print(found)
    best = found.balanced
    print_footer(*(() if best is None else commands_for(run, read_record(run), best.arch_id)))


def _print(found: QueryResult) -> None:
    if not found.networks:
        wanted = (
            f"meets {', '.join(short_names(found.constraints))}" if found.constraints else "has all of these metrics"
        )
        print_line(f"None of the {found.candidates:,} candidates {wanted}.")
        for network in found.closest:
            print_line(f"closest: {network.arch_id}, {'; '.join(map(_missed, network.missed))}")
    else:
        names = list(found.networks[0].metrics)
        measured = [name for name in names if any(name in network.measured for network in found.networks)]
        exact = ["accuracy in fp32"] if any(network.float_accuracy is not None for network in found.networks) else []
        titles = short_names([*names, *exact, *(f"{name} measured" for name in measured)])
        is_outside = any(network.outside for network in found.networks)
        is_predicted = any(network.predicted for network in found.networks)
        rows = [
            [
                network.arch_id,
                *(_format(name, network.metrics[name]) for name in names),
                *([None if network.float_accuracy is None else f"{network.float_accuracy:.2%}"] if exact else []),
                *(_format(name, network.measured[name]) if name in network.measured else None for name in measured),
                *([network.outside or None] if is_outside else []),
                *([network.predicted or None] if is_predicted else []),
            ]
            for network in found.networks
        ]
        marks = [Column("outside the fitted range")] if is_outside else []
        marks += [Column("checked on its prediction")] if is_predicted else []
        print_table([Column("arch_id"), *(Column(title, numeric=True) for title in titles), *marks], rows)
        _print_references(found.reference_networks, names)
    print_line()
    held = "" if found.confidence is None else f", constraints held with confidence {found.confidence:g}"
    print_line(f"{len(found.networks)} on the front of {found.candidates:,} candidates{held}")
    for note in found.notes:
        print_line(f"note: {note}")


def _missed(item: MissedConstraint) -> str:
    origin = {None: "", True: " measured", False: " predicted"}[item.measured]
    value = parse_metric(item.metric).shown(item.value) if item.metric in METRICS else f"{item.value:,.6g}"
    return f"{item.metric} {value}{origin}"


def _print_references(networks: Sequence[ReferenceNetwork], names: Sequence[str]) -> None:
    """Print reference networks with those of some metrics that are known."""
    if networks:
        print_line()
        rows = [
            [network.name, *(_format(name, network.value(name)) for name in names), reference_origin(network)]
            for network in networks
        ]
        columns = [Column("network"), *(Column(name, numeric=True) for name in names), Column("origin")]
        print_table(columns, rows)


def _format(name: str, value: float | None) -> Any:
    if value is None:
        return None
    if name in QUALITIES and parse_metric(name).quantity.is_share:
        return f"{value:.2%}"
    return int(value) if name in ("macs", "params") else f"{value:,.5g}"
