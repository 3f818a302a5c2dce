"""`hwnas search`."""

from pathlib import Path
from typing import Any

import click

from hwnas.cli.front import print_found
from hwnas.cli.options import given_options, json_option, with_options
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.config import to_mapping
from hwnas.errors import GateError, UsageError
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchRehearsal, SearchRun, rehearse_search, search_networks
from hwnas.profile.timing import PAIRS
from hwnas.search.spec import PostSearch

_WHAT = (
    click.option("--space", help="The space (autoformer-tiny)."),
    click.option("--supernet", type=click.Path(path_type=Path), help="A run of hwnas train, or a file of weights."),
    click.option("--data", help="Other pictures than the supernet's run has; needed with a file of weights."),
    click.option("--device", help="The device of metrics that name none (auto)."),
    click.option("--predictors", type=click.Path(path_type=Path), help="A folder of predictors to look in alone."),
)
_WANTED = (
    click.option(
        "--objective", "objectives", multiple=True, metavar="METRIC", help="Beside accuracy and MACs; repeats."
    ),
    click.option("--constraint", "constraints", multiple=True, metavar="METRIC<=BOUND", help="Must hold; repeats."),
    click.option("--confidence", type=float, help="Hold constraints for the unfavourable end of such intervals."),
    click.option("--no-accuracy", is_flag=True, help="Search without accuracy: no supernet is needed."),
    click.option("--no-macs", is_flag=True, help="MACs are no objective."),
)
_HOW = (
    click.option("--strategy", help="rounds, nsga2, hierarchical, random, autoformer, resnas, vitas, glit."),
    click.option("--budget", type=click.IntRange(min=1), help="True evaluations (500)."),
    click.option("--minutes", type=float, help="Search for so long, in place of --budget or beside it."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides every draw."),
    click.option(
        "--seeds", "num_seeds", type=click.IntRange(min=1), default=1, help="So many searches, for the spread."
    ),
    click.option("--random-baseline", is_flag=True, help="Random search beside it where evaluations are dear, too."),
    click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that load pictures."),
)
_AFTER = (
    click.option("--no-verify", is_flag=True, help="Do not measure the front again."),
    click.option("--pairs", type=click.IntRange(min=8), default=PAIRS, show_default=True, help="Runs of each network."),
    click.option(
        "--export-top", type=click.IntRange(min=0), default=1, show_default=True, help="Export the K best networks."
    ),
    click.option(
        "--retrain", type=click.IntRange(min=0), default=0, help="Winners that are trained on, and tested once."
    ),
    click.option("--retrain-epochs", type=click.IntRange(min=1), help="In place of the recipe's."),
)
_RUN = (
    click.option("--out", type=click.Path(path_type=Path), help="The run folder; default: a new one under runs/."),
    click.option("--resume", type=click.Path(path_type=Path), help="Go on with the search in this run; goes alone."),
    click.option("--dry-run", is_flag=True, help="Say what would be searched, and evaluate nothing."),
    json_option,
)
_BESIDE_RESUME = ("resume", "as_json", "workers")


@click.command()
@with_options(_WHAT, _WANTED, _HOW, _AFTER, _RUN)
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    workers: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Search a space for the best networks for a device, and measure them there.

    The front has accuracy, MACs and each --objective: throughput, latency_ms, params, memory_mb, energy_j, on any
    device as in throughput@h200. A bound is written as in 'latency_ms<=8' or 'macs<=1.4G'. Without --supernet the
    newest one under runs/ is taken. A search that was stopped goes on with --resume RUN, to the same front.
    """
    if resume is not None:
        _require_alone(context)
    options = None if resume is not None else _options(**given)
    if dry_run and options is not None:
        rehearsal = rehearse_search(options)
        print_json(rehearsal) if as_json else _print_rehearsal(rehearsal)
        return
    with console_reporter() as reporter:
        found = search_networks(options, out=out, resume=resume, workers=workers, reporter=reporter)
    if as_json:
        print_json({"run": found.run, **to_mapping(found.record)})
    else:
        print_found(found.run, found.record)
    _require_good(found)


def _options(
    *,
    no_accuracy: bool,
    no_macs: bool,
    no_verify: bool,
    pairs: int,
    export_top: int,
    retrain: int,
    retrain_epochs: int | None,
    **given: Any,
) -> SearchOptions:
    post_search = PostSearch(
        verify=not no_verify, pairs=pairs, export_top=export_top, retrain=retrain, retrain_epochs=retrain_epochs
    )
    return SearchOptions(accuracy=not no_accuracy, macs=not no_macs, post_search=post_search, **given)


def _require_alone(context: click.Context) -> None:
    """A run that is gone on with says itself what is searched for."""
    given = given_options(context, except_for=_BESIDE_RESUME)
    if given:
        hint = f"hwnas search --resume {context.params['resume']}"
        raise UsageError("--resume goes on as the run was begun", got=" ".join(given), hint=hint)


def _require_good(found: SearchRun) -> None:
    """What was searched is kept and printed; a gate that failed still shows in the exit code."""
    verification = found.record.verification
    if verification is not None and verification.status == "failed":
        hint = f"hwnas search --resume {found.run}"
        raise GateError(
            "the front could not be measured again; the searched one is kept", got=verification.reason, hint=hint
        )
    broken = [f"{item.arch_id}: {item.failure}" for item in found.record.winners if item.failure]
    if broken:
        raise GateError("a winner could not be exported", got="; ".join(broken))


def _print_rehearsal(rehearsal: SearchRehearsal) -> None:
    spec, supernet = rehearsal.spec, rehearsal.spec.supernet
    rows: list[tuple[str, object]] = [
        ("space", f"{spec.space}, {rehearsal.space_size:.3g} networks"),
        ("supernet", None if supernet is None else supernet.path),
        ("held-out images", None if supernet is None else supernet.num_images),
        ("objectives", ", ".join(spec.objectives)),
        ("constraints", ", ".join(spec.constraints) or None),
        ("confidence", spec.confidence),
        ("strategy", spec.strategy),
        ("evaluations", spec.budget.evaluations),
        ("minutes", spec.budget.minutes),
    ]
    if rehearsal.seconds_per_evaluation is not None:
        rows.append(("an evaluation", f"{rehearsal.seconds_per_evaluation:.2g} s for the largest network"))
    print_table(["", ""], rows)
    print_line(str(rehearsal.satisfiable))
    for note in spec.notes:
        print_line(f"note: {note}")
