"""Measure networks on a device of this machine, by options or by a plan (`hwnas profile`)."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.arguments import checked_arguments
from hwnas.data_paths import PROFILES, DataPaths, data_search_path
from hwnas.devices import Device, Gpu, Machine, require, resolve, select_gpus
from hwnas.errors import InputError, MissingError
from hwnas.frames import Columns, TabularResult
from hwnas.metrics import Deployment
from hwnas.pipeline.engine_check import EngineCheck, check_engines, require_checkable
from hwnas.pipeline.peak_batch import BatchThroughput, describe_throughput, resolve_peak_batch
from hwnas.profile.campaign import Campaign, CampaignResult
from hwnas.profile.crew import Crew
from hwnas.profile.environment import CampaignEnvironment, StoreOpener, choose_runtime, require_supported
from hwnas.profile.estimate import CampaignPace, similar_paces
from hwnas.profile.options import AUTO, CampaignOptions
from hwnas.profile.plan import Plan, is_foreign, load_plan, plan_stages, require_space
from hwnas.profile.results import ProfileQuality, summarize_measurements, summary_columns
from hwnas.profile.statistics import throughput
from hwnas.profile.summary import read_quality
from hwnas.progress import NullReporter, Reporter
from hwnas.records import Setting, load_profile
from hwnas.records.manifest import read_manifest

if TYPE_CHECKING:
    from hwnas.pipeline.measure_until import StoppingRule

NextPlan = Callable[[Sequence[Path]], Plan | None]
"""Returns the next plan, given the profiles measured so far; None at the end."""


@dataclass(frozen=True, kw_only=True)
class MeasuredProfile:
    """One profile that a campaign wrote to, with its quality."""

    name: str
    path: Path
    batch: int
    quality: ProfileQuality


@dataclass(frozen=True, kw_only=True)
class MeasureResult(TabularResult):
    """Result of a campaign: its profiles, one for each batch, and numbers of tasks."""

    deployment: Deployment
    """Deployment of all profiles but for the batch."""
    profiles: tuple[MeasuredProfile, ...]
    num_measured: int
    """Measured in this session."""
    num_failed: int
    num_skipped: int
    """Tasks that were measured before, or that failed before and were not retried."""
    num_left: int
    """Tasks for which there was no time."""
    given_up: Mapping[int, str] = field(default_factory=dict)
    """Batches of which nothing more could be measured, as the reference network does not run, with the reason."""

    checks: tuple[EngineCheck, ...] = ()
    """Engines that were timed by trtexec as well."""

    def describe_throughput(self) -> str:
        """Describe the images per second of the reference network by batch size; empty if there is but one."""
        points = [
            BatchThroughput(batch=item.batch, images_per_s=throughput(item.quality.reference_ms, batch=item.batch))
            for item in sorted(self.profiles, key=lambda item: item.batch)
            if item.quality.reference_ms
        ]
        return describe_throughput(points) if len(points) > 1 else ""

    def _columns(self) -> Columns:
        """One row per measurement of all profiles, earlier campaigns included."""
        columns: dict[str, list[object]] = {}
        for profile in self.profiles:
            loaded = load_profile(profile.path)
            summaries = summarize_measurements(loaded)
            columns.setdefault("profile", []).extend([profile.name] * len(summaries))
            columns.setdefault("batch", []).extend([loaded.manifest.setting.batch] * len(summaries))
            for name, values in summary_columns(summaries).items():
                columns.setdefault(name, []).extend(values)
        return columns


@checked_arguments
def measure(
    options: CampaignOptions,
    *,
    new: bool = False,
    retry: bool = False,
    until: "StoppingRule | None" = None,
    gpus: tuple[str, ...] = (),
    check_with_trtexec: bool = False,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
) -> MeasureResult:
    """Measure networks of a space on a device of this machine, or resume a campaign that was interrupted.

    Measurements of different environments are never mixed. In the default folder a new profile is started next to one
    of another environment; in a folder that the options name, this is an error unless `new` is set.

    Args:
        options: Which networks are measured, on which device and how.
        new: Start a new profile next to an existing one.
        retry: Measure networks again that failed before.
        until: Measure in rounds until a predictor fitted to the measurements is accurate enough.
        gpus: Several equal GPUs that measure at the same time, by number or UUID, or `all`; none: the first GPU.
        check_with_trtexec: Time two engines of each batch size with trtexec as well, before the campaign.
        reporter: Receives messages and progress.
        campaign_environment: Machine, packages and worker factory; None: those of this machine.

    Returns:
        The profiles with their quality, and numbers of tasks.

    Raises:
        MissingError: The device, a GPU or the runtime is not available on this machine.
        InputError: The runtime does not support the options, the GPUs differ, or a profile cannot be written.
    """
    require_space(options.space)
    environment = campaign_environment or CampaignEnvironment.of_this_machine()
    selected = select_gpus(gpus, device=options.device, machine=environment.machine) if gpus else ()
    device = selected[0].device if selected else _require_device(options, environment.machine)
    run_options = _RunOptions(
        out=options.out,
        new=new,
        retry=retry,
        minutes=options.minutes,
        gpus=selected,
        check_with_trtexec=check_with_trtexec,
    )
    reporter = reporter or NullReporter()
    if options.peak_batch:
        start = partial(environment.start, _worker_gpus(device, environment.machine, selected)[0])
        options = resolve_peak_batch(options, device, start=start, reporter=reporter, find=environment.find_runner)
    if until is None:
        plans = plan_stages(options, device.name)
        return _run(next(plans), lambda _: next(plans, None), device, environment, run_options, reporter)
    from hwnas.pipeline.measure_until import MeasuringRounds  # it fits models, which measuring alone does not need

    runtime = choose_runtime(options.runtime, device, NullReporter(), find=environment.find_runner)
    rounds = MeasuringRounds(options, device.name, until, reporter=reporter, runtime=runtime)
    return _run(rounds.first(), rounds.extend, device, environment, run_options, reporter)


def measure_precisions(
    options: CampaignOptions,
    precisions: Sequence[str],
    *,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
    **more: Any,
) -> tuple[MeasureResult, ...]:
    """Measure the same networks in several precisions, one campaign after the other.

    Args:
        options: Options of all campaigns, but for the precision.
        precisions: Names of precisions; all are checked before the first is measured.
        reporter: Receives messages and progress.
        campaign_environment: Machine, packages and worker factory; None: those of this machine.
        more: Other arguments of `measure`.

    Returns:
        The result of each campaign.

    Raises:
        InputError: The runtime does not support one of the precisions; nothing has been measured then.
    """
    reporter = reporter or NullReporter()
    environment = campaign_environment or CampaignEnvironment.of_this_machine()
    campaigns = [replace(options, precision=precision) for precision in dict.fromkeys(precisions)]
    if len(campaigns) > 1:
        device = _require_device(options, environment.machine)
        for item in campaigns:
            runtime = choose_runtime(item.runtime, device, NullReporter(), find=environment.find_runner)
            for batch in item.batches:
                deployment = Deployment(
                    device=device.name, runtime=runtime, precision=item.precision, batch=batch, threads=item.threads
                )
                require_supported(Setting(deployment=deployment), device, find=environment.find_runner)
    results = []
    for item in campaigns:
        if len(campaigns) > 1:
            reporter.message(f"precision {item.precision}")
        results.append(measure(item, reporter=reporter, campaign_environment=campaign_environment, **more))
    return tuple(results)


@checked_arguments
def measure_plan(
    path: Path,
    *,
    out: Path,
    new: bool = False,
    retry: bool = False,
    gpus: tuple[str, ...] = (),
    check_with_trtexec: bool = False,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
) -> MeasureResult:
    """Measure the tasks of a plan on a machine that has its device.

    Args:
        path: The file of the plan.
        out: Folder of profiles.
        new: Start a new profile next to an existing one.
        retry: Measure networks again that failed before.
        gpus: Several equal GPUs that measure at the same time, by number or UUID, or `all`; none: the first GPU.
        check_with_trtexec: Time two engines of each batch size with trtexec as well, before the campaign.
        reporter: Receives messages and progress.
        campaign_environment: Machine, packages and worker factory; None: those of this machine.

    Returns:
        The profiles with their quality, and numbers of tasks.

    Raises:
        InputError: The file is not the plan of one campaign, the GPUs differ, or a profile cannot be written.
        MissingError: The device, a GPU or the runtime is not available on this machine.
    """
    plan = load_plan(path)
    environment = campaign_environment or CampaignEnvironment.of_this_machine()
    try:
        device = require(plan.device, machine=environment.machine)
    except MissingError as error:
        hint = f"take {path} to a machine with {plan.device}, and there: hwnas profile --plan {path.name}"
        raise MissingError(error.message, got=error.got, known=error.known, hint=hint) from error
    selected = select_gpus(gpus, device=plan.device, machine=environment.machine) if gpus else ()
    options = _RunOptions(out=out, new=new, retry=retry, gpus=selected, check_with_trtexec=check_with_trtexec)
    return _run(plan, lambda _: None, device, environment, options, reporter or NullReporter())


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    out: Path
    new: bool
    retry: bool
    minutes: float | None = None
    gpus: tuple[Gpu, ...] = ()
    """None: the first one of the device, or the CPU."""
    check_with_trtexec: bool = False


def _run(
    plan: Plan,
    extend: NextPlan,
    device: Device,
    environment: CampaignEnvironment,
    options: _RunOptions,
    reporter: Reporter,
) -> MeasureResult:
    """Measure one plan after another, each extending the last, until the time is up or a plan adds nothing."""
    deadline_s = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    runtime = choose_runtime(plan.tasks[0].setting.runtime, device, reporter, find=environment.find_runner)
    current: Plan | None = plan
    uuids = _worker_gpus(device, environment.machine, options.gpus)
    checks: tuple[EngineCheck, ...] = ()
    if options.check_with_trtexec:
        program, start = require_checkable(runtime), partial(environment.start, uuids[0])
        checks = check_engines(plan.with_runtime(runtime), program, start=start, gpu=uuids[0], reporter=reporter)
    with ExitStack() as stack:
        crew = Crew(environment.worker_pairs(uuids))
        stack.callback(crew.close)
        opener = StoreOpener(
            out=options.out,
            new=options.new,
            explicit=options.out != Path(PROFILES) and not environment.keeps_apart,
            device=device,
            environment=environment,
            crew=crew,
            reporter=reporter,
        )
        stores = opener.open(plan.with_runtime(runtime))
        for store in stores.values():
            stack.callback(store.close)
        campaign = Campaign(
            stores,
            crew,
            pairs=plan.pairs,
            seed=plan.seed,
            retry=options.retry,
            on_message=reporter.message,
            paces=_paces(plan.with_runtime(runtime), device, out=options.out),
        )
        results: list[CampaignResult] = []
        size = 0
        while current is not None and len(current.tasks) > size and not (results and results[-1].num_left):
            tasks, size = current.with_runtime(runtime).tasks, len(current.tasks)
            results.append(campaign.run(tasks, deadline_s=deadline_s, listener=reporter.update))
            current = extend([stores[batch].path for batch in campaign.batches])
    deployment = replace(plan.tasks[0].setting.deployment, runtime=runtime, batch=None)
    return replace(_measured(deployment, [store.path for store in stores.values()], results), checks=checks)


def _paces(plan: Plan, device: Device, *, out: Path) -> tuple[CampaignPace, ...]:
    """Return the paces of similar profiles, those in the folder of the campaign among them."""
    paths: DataPaths = ((out, "own"),)
    with suppress(InputError):  # a folder of HWNAS_PROFILES need not exist
        paths += data_search_path(PROFILES)
    return similar_paces(plan, device, paths)


def _worker_gpus(device: Device, machine: Machine, gpus: Sequence[Gpu]) -> list[str | None]:
    """UUID of the GPU that each pair of workers sees alone; without GPUs [None], for the device."""
    first = [gpu for gpu in machine.gpus if gpu.device.name == device.name][:1]
    # A board with one GPU may report none, or something else.
    return [gpu.uuid if gpu.uuid.startswith(("GPU-", "MIG-")) else None for gpu in gpus or first] or [None]


def _measured(deployment: Deployment, paths: Sequence[Path], results: Sequence[CampaignResult]) -> MeasureResult:
    profiles = []
    for path in paths:
        manifest = read_manifest(path)
        quality, name = read_quality(path, manifest).quality, f"{path.parent.name}/{path.name}"
        profiles.append(MeasuredProfile(name=name, path=path, batch=manifest.setting.batch, quality=quality))
    return MeasureResult(
        deployment=deployment,
        profiles=tuple(profiles),
        num_measured=sum(result.num_measured for result in results),
        num_failed=sum(result.num_failed for result in results),
        num_skipped=results[0].num_skipped,
        num_left=results[-1].num_left,
        given_up=results[-1].given_up,
    )


def _require_device(options: CampaignOptions, machine: Machine) -> Device:
    """The device of a campaign; the error explains how to measure on another machine."""
    try:
        return require(options.device, machine=machine)
    except MissingError as error:
        if options.device.casefold() == "auto":
            raise
        device, words = resolve(options.device), tuple[str, ...]()
        if is_foreign(options.runtime, device):  # named, as hwnas.toml may have the other one
            options, words = replace(options, runtime=AUTO), ("--runtime", AUTO)
        command = shlex.join((*replace(options, minutes=None, out=Path(PROFILES)).command(), *words))
        hint = (
            f"a device of this machine, or measure on another one:\n"
            f"          here   {command} --plan-only --out plan.jsonl\n"
            f"          there  hwnas profile --plan plan.jsonl\n"
            f"          here   put its folder profiles/{device} under {options.out}"
        )
        raise MissingError(
            error.message, got=error.got, known=error.known, hint=hint, correction=error.correction
        ) from error
