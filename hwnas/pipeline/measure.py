"""`hwnas profile`: networks timed on a device, or a plan that does so on another machine."""

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.data_paths import PROFILES
from hwnas.devices import Device, Machine, require, resolve
from hwnas.errors import MissingError
from hwnas.metrics import Deployment
from hwnas.profile.campaign import Campaign, CampaignResult, WorkerPair
from hwnas.profile.environment import CampaignEnvironment, StoreOpener, choose_runtime
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import Plan, load_plan, plan_stages, require_space
from hwnas.profile.results import ProfileQuality, assess_profile
from hwnas.progress import NullReporter, Reporter
from hwnas.records import load_profile

if TYPE_CHECKING:
    from hwnas.pipeline.measure_until import StoppingRule

Extend = Callable[[Sequence[Path]], Plan | None]
"""The plan that follows, by the profiles as they are now; None: there is none."""


@dataclass(frozen=True, kw_only=True)
class MeasuredProfile:
    """One profile that a campaign wrote to, and what it is worth now."""

    name: str
    path: Path
    quality: ProfileQuality


@dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """What a campaign did: its profiles, one for each batch."""

    deployment: Deployment
    """Complete but for the batch, of which each profile has one of its own."""
    profiles: tuple[MeasuredProfile, ...]
    num_measured: int
    """In this session, as the two that follow."""
    num_failed: int
    num_skipped: int
    """Tasks that were done before, or failed before and were not tried again."""
    num_left: int
    """Tasks that there was no time for."""


def measure(
    request: CampaignOptions,
    *,
    new: bool = False,
    retry: bool = False,
    until: "StoppingRule | None" = None,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
) -> MeasureResult:
    """Measure networks of a space on a device of this machine, and go on where a campaign was ended.

    `new` begins a profile beside one that is there; `retry` tries again what failed. Profiles of another environment
    are never added to: in `profiles` one begins beside them, and in another folder that is an error without `new`.
    `until` measures in rounds, and ends when a predictor of what was measured is good enough.
    """
    require_space(request.space)
    place = campaign_environment or CampaignEnvironment.here()
    device = _required(request, place.machine)
    options = _Options(out=request.out, new=new, retry=retry, minutes=request.minutes)
    reporter = reporter or NullReporter()
    if until is None:
        plans = plan_stages(request, device.name)
        return _run(next(plans), lambda _: next(plans, None), device, place, options, reporter)
    from hwnas.pipeline.measure_until import MeasuringRounds  # it fits models, which measuring alone does not need

    rounds = MeasuringRounds(request, device.name, until, reporter=reporter)
    return _run(rounds.first(), rounds.extend, device, place, options, reporter)


def measure_plan(
    path: Path,
    *,
    out: Path,
    new: bool = False,
    retry: bool = False,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
) -> MeasureResult:
    """Measure what a plan says, on the machine that has its device."""
    plan = load_plan(path)
    place = campaign_environment or CampaignEnvironment.here()
    try:
        device = require(plan.device, machine=place.machine)
    except MissingError as error:
        hint = f"take {path} to a machine with {plan.device}, and there: hwnas profile --plan {path.name}"
        raise MissingError(error.message, got=error.got, known=error.known, hint=hint) from error
    options = _Options(out=out, new=new, retry=retry)
    return _run(plan, lambda _: None, device, place, options, reporter or NullReporter())


@dataclass(frozen=True, kw_only=True)
class _Options:
    out: Path
    new: bool
    retry: bool
    minutes: float | None = None


def _run(
    plan: Plan, extend: Extend, device: Device, place: CampaignEnvironment, options: _Options, reporter: Reporter
) -> MeasureResult:
    """Plan after plan, each an extension of the one before, until the time is up or one adds nothing."""
    deadline_s = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    runtime = choose_runtime(plan, device, reporter)
    following: Plan | None = plan
    with ExitStack() as stack:
        workers = WorkerPair(place.start)
        stack.callback(workers.close)
        opener = StoreOpener(
            out=options.out,
            new=options.new,
            explicit=options.out != Path(PROFILES),
            device=device,
            environment=place,
            workers=workers,
            reporter=reporter,
        )
        stores = opener.open(plan.with_runtime(runtime))
        for store in stores.values():
            stack.callback(store.close)
        campaign = Campaign(stores, workers, pairs=plan.pairs, seed=plan.seed, retry=options.retry)
        paths = [store.path for store in stores.values()]
        results: list[CampaignResult] = []
        size = 0
        while following is not None and len(following.tasks) > size and not (results and results[-1].num_left):
            tasks, size = following.with_runtime(runtime).tasks, len(following.tasks)
            results.append(campaign.run(tasks, deadline_s=deadline_s, listener=reporter.update))
            following = extend(paths)
    deployment = replace(plan.tasks[0].setting.deployment, runtime=runtime, batch=None)
    return _measured(deployment, paths, results)


def _measured(deployment: Deployment, paths: Sequence[Path], results: Sequence[CampaignResult]) -> MeasureResult:
    profiles = [
        MeasuredProfile(name=f"{path.parent.name}/{path.name}", path=path, quality=assess_profile(load_profile(path)))
        for path in paths
    ]
    return MeasureResult(
        deployment=deployment,
        profiles=tuple(profiles),
        num_measured=sum(result.num_measured for result in results),
        num_failed=sum(result.num_failed for result in results),
        num_skipped=results[0].num_skipped,
        num_left=results[-1].num_left,
    )


def _required(request: CampaignOptions, machine: Machine) -> Device:
    """The device, or an error that says how to take the campaign to it."""
    try:
        return require(request.device, machine=machine)
    except MissingError as error:
        command = shlex.join(replace(request, minutes=None, out=Path(PROFILES)).command())
        hint = (
            f"a device that is here, or take the campaign there:\n"
            f"          here   {command} --plan-only --out plan.jsonl\n"
            f"          there  hwnas profile --plan plan.jsonl\n"
            f"          here   put its folder profiles/{resolve(request.device)} under {request.out}"
        )
        raise MissingError(error.message, got=error.got, known=error.known, hint=hint) from error
