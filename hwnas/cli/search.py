"""`hwnas search`: search for the best networks, and print their front."""

from pathlib import Path
from typing import Any, Literal

import click

from hwnas.cli.front import print_search_result
from hwnas.cli.options import (
    CONFIDENCE,
    EPOCHS,
    MINUTES,
    NAMES,
    PAIRS,
    PATH,
    SEED,
    WORKERS,
    Number,
    Whole,
    evaluate_on_option,
    given_options,
    json_option,
    predictors_option,
    with_options,
)
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.config import to_mapping
from hwnas.errors import CheckFailedError, UsageError
from hwnas.metrics import QUALITIES, QUANTISED
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchDryRun, SearchRun, dry_run_search, search_networks
from hwnas.profile.timing import PAIRS as DEFAULT_PAIRS
from hwnas.search.spec import PostSearch

_BUDGET = Whole(1, 1_000_000)
_WINNERS = Whole(0, 10_000)

_SOURCES = (
    click.option("--space", show_default="autoformer-tiny", help="Space to search."),
    click.option(
        "--supernet",
        type=PATH,
        show_default="newest under runs/",
        help="Run of hwnas train or file of weights.",
    ),
    click.option(
        "--data", help="Images to use instead of those of the supernet's run; required with a file of weights."
    ),
    click.option("--device", show_default="auto", help="Device of metrics that do not name one."),
    click.option(
        "--precision",
        "precisions",
        type=NAMES,
        default=(),
        metavar="NAMES",
        help="Precision of device metrics; of several, as in fp32,bf16, the search chooses one for each network.",
    ),
    click.option(
        "--runtime",
        "runtimes",
        type=NAMES,
        default=(),
        metavar="NAMES",
        help="Runtime of device metrics; of several, as in onnxruntime,torch, the search chooses one for each network.",
    ),
    predictors_option,
    click.option(
        "--unmeasured",
        is_flag=True,
        help="Predict a device without measurements from other devices, scaled by their datasheets.",
    ),
)
_OBJECTIVES = (
    click.option(
        "--objective", "objectives", multiple=True, metavar="METRIC", help="Additional objective (repeatable)."
    ),
    click.option(
        "--constraint", "constraints", multiple=True, metavar="METRIC<=BOUND", help="Constraint (repeatable)."
    ),
    click.option(
        "--confidence", type=CONFIDENCE, help="Apply constraints to the worse end of intervals of this confidence."
    ),
    click.option("--no-accuracy", is_flag=True, help="Leave out accuracy, so that no supernet is needed."),
    click.option("--no-macs", is_flag=True, help="Leave out MACs."),
)
_STRATEGY = (
    click.option(
        "--strategy",
        show_default="rounds; nsga2 without accuracy; hierarchical for GLiT",
        help="rounds, nsga2, hierarchical, random, autoformer, resnas, vitas or glit.",
    ),
    click.option(
        "--levels",
        type=click.Choice(["shared", "separate"]),
        default="shared",
        show_default=True,
        help="Search the levels of GLiT in one supernet, or each in its own.",
    ),
    click.option(
        "--budget",
        type=_BUDGET,
        show_default="500",
        help="Networks to evaluate; with --resume as many as the search is to have in all.",
    ),
    click.option("--minutes", type=MINUTES, help="Search for this wall time, instead of or in addition to --budget."),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all random choices."),
    click.option(
        "--seeds",
        "num_seeds",
        type=Whole(1, 1000),
        default=1,
        show_default=True,
        help="Number of searches, with consecutive seeds, to show the spread.",
    ),
    click.option("--random-baseline", is_flag=True, help="Run random search with the same budget for comparison."),
    click.option("--workers", type=WORKERS, default=0, show_default=True, help="Processes that load images."),
    evaluate_on_option,
)
_POST_SEARCH = (
    click.option("--no-verify", is_flag=True, help="Do not measure the front."),
    click.option(
        "--pairs", type=PAIRS, default=DEFAULT_PAIRS, show_default=True, help="Paired runs of each measured network."
    ),
    click.option(
        "--pick",
        default="balanced",
        show_default=True,
        metavar="RULE",
        help="Network to export first: balanced, accuracy, fast, or the best within limits as in 'throughput>=9000'.",
    ),
    click.option(
        "--export-top", type=_WINNERS, default=1, show_default=True, metavar="K", help="Export the K best networks."
    ),
    click.option(
        "--retrain",
        type=_WINNERS,
        default=0,
        show_default=True,
        metavar="K",
        help="Retrain the K best networks on all training images, and test each once.",
    ),
    click.option(
        "--max-drop",
        type=Number(0, 100),
        show_default="any",
        help="Points of accuracy that the graph of a winner in int8 may lose against fp32.",
    ),
    click.option(
        "--repair",
        is_flag=True,
        help="Repair winners that were cut from a pretrained model by least squares, each if that helps.",
    ),
    click.option("--retrain-epochs", type=EPOCHS, help="Epochs of --retrain, instead of those of the recipe."),
    click.option(
        "--retrain-from",
        type=click.Choice(["inherited", "scratch"]),
        default="inherited",
        show_default=True,
        help="Weights that --retrain begins with: those of the supernet, or fresh ones.",
    ),
)
_RUN_OPTIONS = (
    click.option("--out", type=PATH, show_default="new folder under runs/", help="Run folder."),
    click.option("--resume", type=PATH, help="Resume the search in this run."),
    click.option("--dry-run", is_flag=True, help="Print what would be searched, without evaluating anything."),
    json_option,
)
_RESUME_PARAMETERS = ("resume", "as_json", "workers", "evaluate_on", "budget")
"""Parameters that can be given with --resume."""


@click.command()
@with_options(_SOURCES, _OBJECTIVES, _STRATEGY, _POST_SEARCH, _RUN_OPTIONS)
@click.pass_context
def search(
    context: click.Context,
    /,
    *,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    workers: int,
    evaluate_on: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Search a space for the best networks for a device.

    Objectives are accuracy, MACs and each --objective: throughput, latency_ms, params, memory_mb or energy_j, for
    another device as in throughput@h200. For networks inside a pretrained model, divergence or knn_accuracy takes the
    place of accuracy. Constraints look like 'latency_ms<=8' or 'macs<=1.4G'. With several --precision or --runtime, the
    front consists of networks in deployments, each with its speed and its accuracy there. After the search, the
    front is measured if its device is in this machine, and the best networks are exported. An interrupted search is
    resumed with --resume RUN and finds the same front; with a larger --budget, one that has ended goes on.
    """
    if resume is not None:
        given = given_options(context, except_for=_RESUME_PARAMETERS)
        if given:
            hint = f"hwnas search --resume {context.params['resume']}"
            raise UsageError("--resume takes its options from the run", got=" ".join(given), hint=hint)
    else:
        _require_effect(context)
    options = None if resume is not None else _options(**values)
    if dry_run and options is not None:
        dry_run_result = dry_run_search(options)
        print_json(dry_run_result) if as_json else _print_dry_run(dry_run_result)
        return
    with console_reporter() as reporter:
        result = search_networks(
            options,
            out=out,
            resume=resume,
            budget=None if resume is None else values["budget"],
            workers=workers,
            evaluate_on=evaluate_on,
            reporter=reporter,
        )
    if as_json:
        print_json({"run": result.run, **to_mapping(result.record)})
    else:
        print_search_result(result.run, result.record)
    _require_passed(result)


def _options(
    *,
    no_accuracy: bool,
    no_macs: bool,
    no_verify: bool,
    pairs: int,
    export_top: int,
    retrain: int,
    retrain_epochs: int | None,
    retrain_from: Literal["inherited", "scratch"],
    max_drop: float | None,
    repair: bool,
    pick: str,
    **values: Any,
) -> SearchOptions:
    post_search = PostSearch(
        verify=not no_verify,
        pairs=pairs,
        export_top=export_top,
        retrain=retrain,
        retrain_epochs=retrain_epochs,
        retrain_from=retrain_from,
        max_drop=None if max_drop is None else max_drop / 100,
        repair=repair,
        pick=pick,
    )
    return SearchOptions(accuracy=not no_accuracy, macs=not no_macs, post_search=post_search, **values)


def _require_effect(context: click.Context) -> None:
    """Refuse options that nothing would read because of another one."""
    given, values = given_options(context, except_for=()), context.params
    has_quality = not values["no_accuracy"] or any(name in QUALITIES for name in values["objectives"])
    for option, is_read, reason in (
        ("--pairs", not values["no_verify"], "--no-verify measures nothing"),
        ("--pick", values["export_top"] > 0 or values["retrain"] > 0, "no network is exported"),
        (
            "--retrain-epochs",
            values["retrain"] > 0 or values["levels"] == "separate",
            "no network is retrained without --retrain",
        ),
        ("--retrain-from", values["retrain"] > 0, "no network is retrained without --retrain"),
        (
            "--max-drop",
            has_quality and values["export_top"] > 0,
            "no trained graph is exported",
        ),
        ("--max-drop", bool(set(values["precisions"]) & set(QUANTISED)), "no network is exported in int8"),
        (
            "--repair",
            has_quality and values["export_top"] > values["retrain"],
            "no network is exported with the weights of a supernet",
        ),
        ("--workers", has_quality, "--no-accuracy loads no images"),
        ("--evaluate-on", has_quality, "--no-accuracy evaluates no network"),
    ):
        if option in given and not is_read:
            raise UsageError(f"{option} has no effect: {reason}", got=option, hint=f"leave out {option}")


def _require_passed(result: SearchRun) -> None:
    """Raise CheckFailedError if the front was not measured or a winner was not exported."""
    verification = result.record.verification
    if verification is not None and verification.status == "failed":
        hint = f"hwnas search --resume {result.run}"
        raise CheckFailedError(
            "the front could not be measured; the searched one is kept", got=verification.reason, hint=hint
        )
    front = result.record.front if result.record.measured_front is None else result.record.measured_front
    post_search = result.record.spec.post_search
    if front and post_search.num_winners and not result.record.winners:
        hint = f"hwnas export {result.run} --pick balanced --out exported"
        raise CheckFailedError(f"no network on the front meets {post_search.pick}, so none was exported", hint=hint)
    broken = [f"{item.arch_id}: {item.failure}" for item in result.record.winners if item.failure]
    if broken:
        raise CheckFailedError("a winner could not be exported", got="; ".join(broken))


def _print_dry_run(dry_run_result: SearchDryRun) -> None:
    spec, supernet = dry_run_result.spec, dry_run_result.spec.supernet
    rows: list[tuple[str, object]] = [
        ("space", f"{spec.space}, {dry_run_result.space_size:.3g} networks"),
        ("supernet", None if supernet is None else supernet.path),
        ("held-out images", None if supernet is None else supernet.num_images),
        ("deployments", None if spec.deployments is None else ", ".join(spec.deployments)),
        ("objectives", ", ".join(spec.objectives)),
        ("constraints", ", ".join(spec.constraints) or None),
        ("confidence", spec.confidence),
        ("strategy", spec.strategy),
        ("evaluations", spec.budget.evaluations),
        ("minutes", spec.budget.minutes),
    ]
    if dry_run_result.seconds_per_evaluation is not None:
        rows.append(("an evaluation", f"{dry_run_result.seconds_per_evaluation:.2g} s for the largest network"))
    print_table(["", ""], rows)
    print_line(str(dry_run_result.constraint_check))
    for note in spec.notes:
        print_line(f"note: {note}")
