"""`hwnas fit`: fit predictors and print their errors."""

from itertools import groupby
from pathlib import Path
from typing import Any

import click

from hwnas.cli.following import search_command, trained_space
from hwnas.cli.options import BATCH, COUNT, PATH, json_option, predictors_option, profiles_option
from hwnas.cli.output import Column, print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.data_paths import PREDICTORS
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.fit import FitOptions, FitReport, FittedPredictor, fit_predictors

_CONFIDENCE = 0.9
"""Confidence of the intervals whose coverage is printed."""

_COLUMNS: tuple[Column | str, ...] = (
    "metric",
    "model",
    *(
        Column(name, numeric=True)
        for name in (
            "networks",
            "MAPE",
            "noise floor",
            "MAPE/floor",
            "Spearman (max)",
            f"{_CONFIDENCE:.0%} coverage",
        )
    ),
)


@click.command()
@click.option("--device", default="auto", show_default=True, help="Device whose profiles are used.")
@click.option("--space", help="Use profiles of this space only.")
@click.option("--metric", "metrics", multiple=True, help="latency_ms, throughput, memory_mb or energy_j (repeatable).")
@click.option("--runtime", help="Use profiles of this runtime only.")
@click.option("--precision", help="Use profiles in this precision only.")
@click.option("--batch", type=BATCH, help="Use profiles at this batch size only.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="DEVICE",
    help="Transfer from this device's predictors, or from another deployment's, as cpu/onnxruntime/fp32 (repeatable).",
)
@click.option(
    "--samples",
    type=COUNT,
    help="Use this many networks: of a profile those measured first, of a table usual ones that differ.",
)
@click.option("--mixed", is_flag=True, help="Allow profiles of different environments in one fit.")
@profiles_option
@predictors_option
@click.option("--out", type=PATH, default=PREDICTORS, show_default=True, help="Folder to write predictors to.")
@json_option
def fit(
    *,
    device: str,
    runtime: str | None,
    precision: str | None,
    batch: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit latency predictors to measured profiles.

    Each profile gives one predictor per metric for the networks of its space; all profiles with the same runtime,
    precision, batch size and threads together give one for any network. The model with the smallest error on held-out
    networks is chosen. Errors are printed next to the noise floor of the measurements, which is the smallest error that
    is possible.
    """
    deployment = Deployment(device=device, runtime=runtime, precision=precision, batch=batch)
    with console_reporter() as reporter:
        report = fit_predictors(FitOptions(deployment=deployment, **options), reporter=reporter)
    if as_json:
        print_json(_values(report))
        return
    _print(report)
    elsewhere = () if options["out"] == Path(PREDICTORS) else ("--predictors", options["out"])
    print_footer((*_next_command(report, deployment), *elsewhere))


def _print(report: FitReport) -> None:
    for (fitted_to, folder), group in groupby(report.fitted, key=lambda item: (item.fitted_to, item.path.parent)):
        items = list(group)
        print_line(fitted_to)
        print_table(_COLUMNS, map(_row, items))
        for fitted in items:
            if fitted.card.unlike is not None:
                error = f"{fitted.card.unlike.scores.mape:.2%}"
                print_line(f"{fitted.card.metric.name} of families that were not fitted: MAPE {error}")
        print_line(f"written to {folder}")
        print_line()
    for item in report.left_out:
        print_line(f"not fitted: {item.name}: {item.reason}")
    for text in dict.fromkeys(note for item in report.fitted for note in item.card.notes):
        print_line(f"note: {text}")


def _next_command(report: FitReport, fitted: Deployment) -> tuple[object, ...]:
    """Search the space with the predictors, or the one that was trained last; predict a network without a space."""
    spaces = list(dict.fromkeys(item.card.space for item in report.fitted if item.card.space is not None))
    if not spaces:
        return ("hwnas", "predict", "timm:deit_tiny_patch16_224", "--device", report.device)
    space = trained_space(spaces)
    names = [item.card.metric.name for item in report.fitted if item.card.space == space]
    objective = "throughput" if "throughput" in names else names[0]
    given = (("--runtime", fitted.runtime), ("--precision", fitted.precision))
    options = [word for name, value in given if value is not None for word in (name, value)]
    return search_command(space, report.device, objective=objective, options=options)


def _row(item: FittedPredictor) -> tuple[object, ...]:
    card = item.card
    scores, floor, ratio = card.scores, card.noise_floor, card.error_over_floor
    best = "" if card.best_spearman is None else f" ({card.best_spearman:.4f})"
    return (
        card.metric.name,
        card.model,
        card.data.num_networks,
        f"{scores.mape:.2%}",
        None if floor is None else f"{floor:.2%}",
        None if ratio is None else f"{ratio:.2f}",
        None if scores.spearman is None else f"{scores.spearman:.4f}{best}",
        f"{card.coverage_at(_CONFIDENCE):.1%}",
    )


def _values(report: FitReport) -> dict[str, Any]:
    """Return the main figures of each card as plain values; the files of the cards have the others."""
    return {
        "device": report.device,
        "fitted": [
            {
                "fitted_to": item.fitted_to,
                "path": item.path,
                "metric": str(item.card.metric),
                "space": item.card.space,
                "model": item.card.model,
                "num_rows": item.card.data.num_rows,
                "num_networks": item.card.data.num_networks,
                "scores": item.card.scores,
                "noise_floor": item.card.noise_floor,
                "error_over_floor": item.card.error_over_floor,
                "best_spearman": item.card.best_spearman,
                "coverage": item.card.coverage,
                "unlike": item.card.unlike,
                "notes": item.card.notes,
            }
            for item in report.fitted
        ],
        "left_out": report.left_out,
    }
