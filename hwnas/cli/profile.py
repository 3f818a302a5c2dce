"""`hwnas profile`: measure networks on a device, and print the quality of the measurements."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.options import (
    BATCHES,
    CLASSES,
    IMAGE_SIZE,
    MINUTES,
    NAMES,
    PAIRS,
    PATH,
    SEED,
    THREADS,
    Whole,
    given_options,
    json_option,
)
from hwnas.cli.output import print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.data_paths import PROFILES
from hwnas.errors import CheckFailedError, Interrupted, UsageError, signal_number
from hwnas.pipeline.measure import MeasureResult, measure_plan, measure_precisions
from hwnas.pipeline.measure_fleet import measure_fleet
from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.options import MAX_NETWORKS, MAX_PAIRS, CampaignOptions
from hwnas.profile.plan import WrittenPlan, write_plan
from hwnas.profile.remote.fleet import FLEET_COLUMNS, fleet_cells, load_fleet
from hwnas.profile.remote.host import RemoteHosts, parse_hosts
from hwnas.profile.results import ProfileQuality, ReasonCount, require_measured, require_stable
from hwnas.records.manifest import read_manifest

if TYPE_CHECKING:
    from hwnas.pipeline.measure_until import StoppingRule

_RUN_PARAMETERS = (
    "plan",
    "out",
    "gpus",
    "new",
    "retry",
    "strict",
    "limit_minutes",
    "until",
    "order",
    "check_with",
    "as_json",
    "plan_only",
    "on",
    "remote_python",
)
"""Parameters that a plan does not contain, so that they can be given with one."""

_MORE_PAIRS = 4
"""Factor of the runs that are proposed where times are noisy."""


@click.command()
@click.option("--space", default="autoformer-tiny", show_default=True, help="Space whose networks are measured.")
@click.option(
    "--supernet", type=PATH, help="Training whose space is measured, at its image size and classes, instead of --space."
)
@click.option(
    "--landmarks",
    is_flag=True,
    help="Measure ten models of timm that differ in what limits them, instead of networks of a space.",
)
@click.option(
    "--image-size",
    type=IMAGE_SIZE,
    show_default="that of the space",
    help="Image size in pixels of networks of the space.",
)
@click.option(
    "--classes", type=CLASSES, show_default="those of the space", help="Classes that networks of the space answer."
)
@click.option(
    "--device", default="auto", show_default=True, help="Device of this machine; with --plan-only any device."
)
@click.option(
    "--gpus",
    show_default="the first",
    help="GPUs that measure at the same time: all, or numbers or UUIDs such as 0,1. They must be equal.",
)
@click.option(
    "--samples",
    type=Whole(0, MAX_NETWORKS),
    show_default="100, for detectors 40",
    help="Networks of the space to measure, in addition to the published ones.",
)
@click.option("--minutes", type=MINUTES, help="Measure for this wall time, instead of --samples.")
@click.option(
    "--batch",
    "batches",
    type=BATCHES,
    default="1",
    show_default=True,
    help="Batch sizes, for example 1,8,64; peak: the one from which DeiT-Ti's images/s no longer rise.",
)
@click.option(
    "--precision",
    "precisions",
    type=NAMES,
    default="fp32",
    show_default=True,
    help="fp32, tf32, fp16, bf16, int8, int8-dynamic or fp8; several, as in bf16,int8, are measured in turn.",
)
@click.option(
    "--runtime", default="auto", show_default=True, help="Runtime; auto takes the fastest one that is installed."
)
@click.option("--threads", type=THREADS, default=1, show_default=True, help="CPU threads.")
@click.option("--pairs", type=PAIRS, default=24, show_default=True, help="Runs of each network, in pairs with DeiT-Ti.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of networks, weights and order.")
@click.option(
    "--repeats",
    type=Whole(0, MAX_NETWORKS),
    show_default="1/8 of --samples, at least 12",
    help="Networks to measure twice, for the noise floor.",
)
@click.option(
    "--extra-model",
    "extra_models",
    multiple=True,
    metavar="timm:NAME",
    help="Measure a model of timm as well (repeatable).",
)
@click.option(
    "--reference-networks/--no-reference-networks",
    default=True,
    show_default=True,
    help="Measure DeiT-Ti and DeiT-S as well.",
)
@click.option(
    "--out",
    type=PATH,
    show_default=PROFILES,
    help="Folder of profiles; with --plan-only the file of the plan.",
)
@click.option("--new", is_flag=True, help="Start a new profile instead of adding to an existing one.")
@click.option("--retry", is_flag=True, help="Measure networks again that failed before.")
@click.option("--strict", is_flag=True, help="Exit with code 4 if the measurements are not stable.")
@click.option(
    "--until", metavar="mape=3%", help="Measure in rounds until a predictor has this error, at most --samples networks."
)
@click.option(
    "--order",
    default="spread",
    show_default=True,
    help="How --until chooses networks: spread (evenly) or active (where models disagree).",
)
@click.option(
    "--check-with",
    type=click.Choice(["trtexec"]),
    help="Time two engines of each batch size with NVIDIA's program as well, before the campaign (--runtime tensorrt).",
)
@click.option("--on", metavar="HOSTS", help="Measure on other machines that are equal, by ssh: user@host[,host2].")
@click.option(
    "--remote-python", default="python3", show_default=True, help="Python of the machines of --on, 3.10 or later."
)
@click.option(
    "--fleet", type=PATH, help="Measure on the machines of a fleet file, with the devices and runtimes that it names."
)
@click.option("--limit-minutes", type=MINUTES, show_default="60", help="Time limit for one network.")
@click.option("--plan-only", is_flag=True, help="Write the plan to --out and measure nothing.")
@click.option("--plan", type=PATH, help="Measure the networks of a plan.")
@json_option
@click.pass_context
def profile(
    context: click.Context,
    /,
    *,
    out: Path | None,
    gpus: str | None,
    new: bool,
    retry: bool,
    strict: bool,
    limit_minutes: float | None,
    until: str | None,
    order: str,
    plan_only: bool,
    plan: Path | None,
    as_json: bool,
    check_with: str | None,
    batches: tuple[int | None, ...],
    precisions: tuple[str, ...],
    supernet: Path | None,
    landmarks: bool,
    on: str | None,
    remote_python: str,
    fleet: Path | None,
    **values: Any,
) -> None:
    """Measure networks on a device.

    Networks of a space are exported and timed, each in strict alternation with DeiT-Ti. The same command resumes an
    interrupted campaign. To measure on other machines, name them (--on user@host), or a fleet of them (--fleet FILE);
    one without ssh gets a plan (--plan-only --out plan.jsonl, there --plan plan.jsonl). Several equal GPUs share the
    networks with --gpus all. Ten landmark networks (--landmarks) characterise a device in minutes.
    """
    _require_one_source(context, plan=plan, plan_only=plan_only, out=out)
    if landmarks:
        _require_landmarks_alone(context, supernet=supernet, until=until)
    if supernet is not None:
        values["space"], values["image_size"], values["classes"] = _space_of(supernet, context)
    if gpus is not None and plan_only:
        hint = "there: hwnas profile --plan plan.jsonl --gpus all"
        raise UsageError("--gpus is chosen where the plan is measured", got="--plan-only", hint=hint)
    if check_with is not None and plan_only:
        raise UsageError("--check-with needs the GPU, where the plan is measured", got="--plan-only")
    _require_one_place(context, on=on, fleet=fleet)
    goal = _goal(until, order, planned=plan_only or plan is not None)
    values |= {"batches": tuple(batch for batch in batches if batch), "peak_batch": None in batches}
    values["landmarks"] = landmarks
    options = CampaignOptions(**values, precision=precisions[0], out=out or Path(PROFILES))
    if plan_only:
        if len(precisions) > 1:
            raise UsageError("a plan is of one precision", got=",".join(precisions), hint="one plan for each")
        _print_planned(write_plan(replace(options, out=Path(PROFILES)), options.out), as_json=as_json)
        return
    if fleet is not None:
        fleet_options = replace(options, precision=precisions[0])
        _profile_fleet(context, fleet, fleet_options, retry=retry, strict=strict, as_json=as_json)
        return
    limit_s = None if limit_minutes is None else 60 * limit_minutes
    place: tuple[str, ...] = () if gpus is None else ("--gpus", gpus)
    place += () if limit_minutes is None else ("--limit-minutes", f"{limit_minutes:g}")
    place += () if on is None else ("--on", on, "--remote-python", remote_python)
    place += () if goal is None else goal.cli_options
    with console_reporter() as reporter, ExitStack() as stack:
        environment = (
            None if limit_s is None or on is not None else CampaignEnvironment.of_this_machine(limit_s=limit_s)
        )
        if on is not None:
            hosts = parse_hosts(on, python=remote_python)
            remote = stack.enter_context(RemoteHosts(hosts, on_message=reporter.message, limit_s=limit_s))
            environment = remote.environment()
        shared: dict[str, Any] = {"new": new, "retry": retry, "gpus": () if gpus is None else tuple(gpus.split(","))}
        shared |= {"reporter": reporter, "campaign_environment": environment}
        shared["check_with_trtexec"] = check_with is not None
        try:
            if plan is None:
                measured = measure_precisions(options, precisions, until=goal, **shared)
            else:
                measured = (measure_plan(plan, out=options.out, **shared),)
        except KeyboardInterrupt as stopped:
            command = (*_command(options, precisions), *place)
            if plan is not None:
                folder = () if out is None else ("--out", str(out))
                command = ("hwnas", "profile", "--plan", str(plan), *folder, *place)
            raise _interrupted(context, stopped, command) from stopped
    more_pairs = replace(options, pairs=min(_MORE_PAIRS * options.pairs, MAX_PAIRS))
    again = () if plan is not None else (*_command(more_pairs, precisions), *place, "--new")
    _print_measured(measured, folder=out, again=again, as_json=as_json)
    qualities = [(item.name, item.quality) for result in measured for item in result.profiles]
    for result in measured:
        _require_all_batches(result)
    require_measured(qualities)
    if strict:
        require_stable(qualities)


def _require_one_place(context: click.Context, *, on: str | None, fleet: Path | None) -> None:
    """Refuse options that say twice where networks are measured, or what only this machine can do."""
    if on is None and fleet is None:
        return
    here = {"gpus": "--gpus", "check_with": "--check-with", "plan_only": "--plan-only"}
    if fleet is not None:
        here |= {"on": "--on", "plan": "--plan", "until": "--until", "device": "--device", "runtime": "--runtime"}
        here |= {"limit_minutes": "--limit-minutes", "new": "--new", "remote_python": "--remote-python"}
    given = [
        option
        for name, option in here.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        place = "--on" if fleet is None else "--fleet"
        raise UsageError(f"{place} excludes these options", got=" ".join(given), hint="leave them out")


def _interrupted(context: click.Context, stopped: KeyboardInterrupt, command: Sequence[str]) -> Interrupted:
    """Say what is kept, and how to go on: as the command was typed where hwnas.toml gives it options."""
    sources = {context.get_parameter_source(name) for name in context.params}
    if click.core.ParameterSource.DEFAULT_MAP in sources:
        command = ["hwnas", *(word for word in sys.argv[1:] if word not in ("--new", "--retry"))]
    message = f"everything measured is kept\n  try     {shlex.join(command)}"
    return Interrupted(message, number=signal_number(stopped))


def _profile_fleet(
    context: click.Context, path: Path, options: CampaignOptions, *, retry: bool, strict: bool, as_json: bool
) -> None:
    """Measure on a fleet, and print who did what and the quality of the profiles."""
    fleet = load_fleet(path)
    with console_reporter() as reporter:
        try:
            result = measure_fleet(fleet, options, retry=retry, reporter=reporter)
        except KeyboardInterrupt as stopped:
            words = [*options.command(), "--fleet", str(path)]
            index = words.index("--device")
            raise _interrupted(context, stopped, [*words[:index], *words[index + 2 :]]) from stopped
    if as_json:
        print_json({"hosts": result.rows, "campaigns": [_measured_values(item) for item in result.campaigns]})
    else:
        print_table([*FLEET_COLUMNS], fleet_cells(result.rows))
        print_line()
        for campaign in result.campaigns:
            _print_campaign(campaign)
            print_line()
    qualities = [(item.name, item.quality) for campaign in result.campaigns for item in campaign.profiles]
    result.require_complete()
    require_measured(qualities)
    if strict:
        require_stable(qualities)


def _space_of(supernet: Path, context: click.Context) -> tuple[str, int | None, int]:
    from hwnas.pipeline.run_network import space_of_run  # needs torch, which takes seconds to import

    for name in ("space", "image_size", "classes"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            message = f"--{name.replace('_', '-')} and --supernet exclude each other"
            raise UsageError(message, hint=f"hwnas profile --supernet {supernet}")
    return space_of_run(supernet)


def _require_landmarks_alone(context: click.Context, *, supernet: Path | None, until: str | None) -> None:
    """Refuse options that choose networks of a space."""
    of_space, of_size, of_classes = (
        context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        for name in ("space", "image_size", "classes")
    )
    given = {
        "--space": of_space,
        "--image-size": of_size,
        "--classes": of_classes,
        "--supernet": supernet is not None,
        "--until": until is not None,
    }
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise UsageError("--landmarks measures networks that are fixed", got=" ".join(wrong), hint="leave these out")


def _command(options: CampaignOptions, precisions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command line of campaigns in several precisions."""
    if len(precisions) == 1:
        return options.command()
    return (*replace(options, precision="fp32").command(), "--precision", ",".join(precisions))


def _require_one_source(context: click.Context, *, plan: Path | None, plan_only: bool, out: Path | None) -> None:
    """Refuse options that contradict a plan, which already contains what is measured."""
    if plan_only and (plan is not None or out is None):
        raise UsageError(
            "--plan-only needs a file to write to, and excludes --plan", hint="--plan-only --out plan.jsonl"
        )
    if plan is None:
        return
    given = given_options(context, except_for=_RUN_PARAMETERS)
    if given:
        raise UsageError(
            "--plan already contains what is measured", got=" ".join(given), hint=f"hwnas profile --plan {plan}"
        )


def _require_all_batches(measured: MeasureResult) -> None:
    """Raise a CheckFailedError if a batch was given up, as it is too large, for instance."""
    if measured.given_up:
        reasons = "; ".join(f"batch {batch}: {reason}" for batch, reason in sorted(measured.given_up.items()))
        hint = "smaller batches; everything measured is kept, and the same command tries the others again"
        raise CheckFailedError("every batch must be measured", got=reasons, hint=hint)


def _goal(until: str | None, order: str, *, planned: bool) -> "StoppingRule | None":
    if until is None:
        if order != "spread":
            raise UsageError("--order needs --until", got=order, hint="--until mape=3%")
        return None
    if planned:
        raise UsageError("--until needs the device: each round depends on the one before", got="a plan")
    from hwnas.pipeline.measure_until import parse_until  # needs scikit-learn, measuring does not

    return parse_until(until, order=order)


def _print_planned(planned: WrittenPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    print_line(f"{planned.path}: {planned.num_tasks} measurements of {planned.num_networks} networks")
    print_line(f"on the machine with {planned.device}: hwnas profile --plan {planned.path.name}")
    print_line(f"then copy its folder {PROFILES}/{planned.device} back")


def _print_measured(
    measured: tuple[MeasureResult, ...], *, folder: Path | None, again: tuple[str, ...], as_json: bool
) -> None:
    """Print the campaigns and the command to run next, which is the same one with more runs if times were noisy."""
    if as_json:
        values = [_measured_values(item) for item in measured]
        print_json(values[0] if len(values) == 1 else {"campaigns": values})
        return
    for result in measured:
        _print_campaign(result)
        print_line()
    profiles = [item for result in measured for item in result.profiles]
    space = read_manifest(profiles[0].path).space  # that of all; None: models of timm alone
    of_space = () if space is None else ("--space", space)
    elsewhere = () if folder is None else ("--profiles", folder)
    fit = ("hwnas", "fit", "--device", measured[0].deployment.device, *of_space, *elsewhere)
    is_noisy = any(item.quality.is_noisy for item in profiles)
    print_footer(again if is_noisy else (), fit)


def _measured_values(measured: MeasureResult) -> dict[str, Any]:
    values = {name: getattr(measured, name) for name in measured.__dataclass_fields__}
    profiles = [
        {"name": item.name, "path": item.path, "quality": quality_values(item.quality)} for item in measured.profiles
    ]
    return {**values, "profiles": profiles}


def _print_campaign(measured: MeasureResult) -> None:
    deployment = measured.deployment
    left = f", {measured.num_left} left" if measured.num_left else ""
    precision = "" if deployment.precision == "fp32" else f" in {deployment.precision}"
    print_line(
        f"{measured.num_measured} measured with {deployment.runtime}{precision} on {deployment.device}, "
        f"{measured.num_failed} failed, {measured.num_skipped} measured before{left}"
    )
    for item in measured.profiles:
        print_line()
        print_quality(str(item.path), item.quality)
    for check in measured.checks:
        print_line(check.describe())
    if measured.describe_throughput():
        print_line(measured.describe_throughput())


def quality_values(quality: ProfileQuality) -> dict[str, Any]:
    """Return the quality of a profile as plain values, as `--json` prints it."""
    values = {name: getattr(quality, name) for name in quality.__dataclass_fields__}
    return {**values, "problems": quality.problems}


def print_quality(name: str, quality: ProfileQuality) -> None:
    """Print what a profile contains, what failed, its noise floor and its drift."""
    print_line(name)
    print_table(["", ""], _quality_rows(quality))
    for failure in quality.failures:
        print_line(f"  failed: {failure.count} by {failure.reason}, for example: {failure.example}")
    if quality.enqueue_bound is not None:
        print_line(f"  enqueue-bound, for example: {quality.enqueue_bound.example}")
        print_line("  try torch-graph or tensorrt, which queue a run by one call, or a larger --batch")
    for problem in quality.problems:
        print_line(f"  doubtful: {problem}")
    if quality.is_noisy:
        print_line("  other load changes times, the more the shorter a network runs, and predictors err as much")
        print_line("  try an idle machine, more --pairs, or a larger --batch if that is what will run")


def _quality_rows(quality: ProfileQuality) -> list[tuple[str, object]]:
    floor, drift = quality.noise_floor, quality.drift
    floor_text = f"unknown: {quality.num_repeated} networks measured twice, 12 are needed"
    if floor is not None:
        spread = f"sigma {floor.sigma:.2%}, {floor.num_networks} networks"
        floor_text = f"{floor.mean_error:.2%} ({spread}; second passes {floor.shift:+.1%})"
    drift_text = None
    if drift is not None:
        drift_text = f"{drift.change:+.1%} from the first third to the last, spread {drift.spread:.1%}"
    unstable = f"{quality.num_unstable} of {quality.num_measurements} measurements"
    if quality.unstable:
        unstable += f": {_count_text(quality.unstable)}"
    rows: list[tuple[str, object]] = [
        ("networks", quality.num_networks),
        ("measured twice", quality.num_repeated),
        ("failed", _count_text(quality.failures) if quality.failures else 0),
        ("unstable", unstable),
        ("noise floor", floor_text),
        ("drift of the reference", drift_text),
        ("reference", f"{quality.reference_ms:.3f} ms" if quality.reference_ms else None),
        ("graphs", ", ".join(quality.exporters)),
        ("time spent", f"{quality.measured_s / 60:.1f} min"),
    ]
    if quality.enqueue_bound is not None:
        bound = f"{quality.enqueue_bound.count} of {quality.num_measurements} measurements: the host sets their time"
        rows.insert(4, ("enqueue-bound", bound))
    if quality.highest_clock_mhz is not None:
        rows.append(("clock under load", f"{quality.lowest_clock_mhz:.0f} to {quality.highest_clock_mhz:.0f} MHz"))
    if quality.other_processes:
        rows.append(("other processes", f"up to {quality.other_processes} computed on the device as well"))
    more = {"throttled": quality.throttled, "GPUs": quality.gpus, "hosts": quality.hosts}
    return rows + [(name, ", ".join(values)) for name, values in more.items() if values]


def _count_text(counts: tuple[ReasonCount, ...]) -> str:
    return ", ".join(f"{item.count} {item.reason}" for item in counts)
