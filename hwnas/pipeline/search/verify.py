"""Measurement of a searched front: predicted next to measured values, and the front rebuilt from measured ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.devices import require
from hwnas.errors import HwnasError
from hwnas.metrics import Deployment
from hwnas.pipeline.measure import measure_plan
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.pipeline.search.reference_networks import NAMES
from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.plan import MIN_REPEATS, Plan, make_tasks, new_session, save_plan
from hwnas.profile.results import NetworkResult, assess_profile, results_by_network
from hwnas.profile.runners.runner import load_runner
from hwnas.profile.subjects import REFERENCE_NETWORKS, space_subject, unique_subjects
from hwnas.profile.timing import PAIRS
from hwnas.progress import Reporter
from hwnas.records import Setting, Subject, load_profile
from hwnas.search.objective import Estimate
from hwnas.search.pareto import on_front
from hwnas.search.record import MetricCheck, ReferenceNetwork, SearchRecord, Verification, VerifiedProfile
from hwnas.search.study import Study
from hwnas.search.verification import FrontMember, agreement, measured_front

PROFILES = "profiles"
"""The folder of a run that holds what was measured to verify it."""


@dataclass(frozen=True, kw_only=True)
class VerificationCampaign:
    """Metrics that one campaign measures."""

    deployment: Deployment
    """Complete but for the batch, which each metric has of its own."""
    metrics: tuple[MetricPredictor, ...]

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches of the metrics."""
        return tuple(sorted({item.metric.deployment.fixed_batch or 1 for item in self.metrics}))

    @property
    def plan_name(self) -> str:
        """The file of its plan: each campaign has one of its own."""
        return f"plan-{self.deployment.device}-{self.deployment.slug}.jsonl"

    @property
    def settings(self) -> list[Setting]:
        """What is measured, one for each batch."""
        return [Setting(deployment=replace(self.deployment, batch=batch)) for batch in self.batches]


@dataclass(frozen=True, kw_only=True)
class CampaignResults:
    """What a campaign measured."""

    paths: tuple[Path, ...]
    """Its profiles."""
    by_batch: Mapping[int, Mapping[str, NetworkResult]]
    """What was read of each network, by batch and the network's id."""


def verification_campaigns(predictors: Sequence[MetricPredictor]) -> tuple[VerificationCampaign, ...]:
    """The campaigns that it takes to measure all predicted metrics."""
    found: dict[Deployment, list[MetricPredictor]] = {}
    for item in predictors:
        threads = item.predictor.card.metric.deployment.threads or 1
        deployment = replace(item.metric.deployment, batch=None, threads=threads)
        found.setdefault(deployment, []).append(item)
    return tuple(
        VerificationCampaign(deployment=deployment, metrics=tuple(items)) for deployment, items in found.items()
    )


def unavailable_reason(group: VerificationCampaign, *, campaign_environment: CampaignEnvironment) -> str | None:
    """Why a group cannot be measured here; None where it can."""
    try:
        device = require(str(group.deployment.device), machine=campaign_environment.machine)
        found = load_runner(str(group.deployment.runtime)).available(device)
    except HwnasError as error:
        return error.message
    return None if found.available else f"{group.deployment.runtime} cannot be used here: {found.reason}"


def skipped(context: SearchContext, reason: str) -> Verification:
    """What stands in the record where nothing was measured."""
    return _nothing(context, "skipped", reason)


def failed(context: SearchContext, reason: str) -> Verification:
    """What stands in the record where measuring did not come to an end."""
    return _nothing(context, "failed", reason)


def verify(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    reporter: Reporter,
    campaign_environment: CampaignEnvironment,
) -> SearchRecord:
    """The record with its front measured; a device that is not here, or goes away, is said in it."""
    possible: list[VerificationCampaign] = []
    found: list[tuple[VerificationCampaign, CampaignResults]] = []
    unmeasured: dict[str, str] = {}
    for group in verification_campaigns(context.cheap.predictors):
        reason = unavailable_reason(group, campaign_environment=campaign_environment)
        if reason is None:
            possible.append(group)
        elif (earlier := _kept(run, record, group)) is not None:
            found.append((group, earlier))
        else:
            unmeasured.update({str(item.metric): reason for item in group.metrics})
    if not possible and not found:
        reason = "; ".join(dict.fromkeys(unmeasured.values())) or "nothing was predicted"
        return replace(record, verification=skipped(context, reason))
    if not record.front:
        return replace(record, verification=skipped(context, "the front is empty"))
    try:
        for group in possible:
            found.append(
                (
                    group,
                    _measured(
                        context, run, record, group, reporter=reporter, campaign_environment=campaign_environment
                    ),
                )
            )
        for group in possible:
            require(str(group.deployment.device))
    except HwnasError as error:
        reason = f"{error.message}{'' if error.got is None else f', got {error.got}'}"
        found = [(group, read) for group, read in found if group not in possible]
        if not found:
            return replace(record, verification=failed(context, reason))
        # What another machine measured stands; what was measured here goes on at the next --resume.
        unmeasured.update({str(item.metric): reason for group in possible for item in group.metrics})
    return _verified(context, run, record, found, unmeasured)


def front_members(context: SearchContext, study: Study, record: SearchRecord) -> list[FrontMember]:
    """The networks of the searched front with what the study holds of them, in the order of the record."""
    table = study.table()
    wanted = {arch_id: place for place, arch_id in enumerate(record.front)}
    scores = context.problem.scores(table.metrics)
    rows = np.flatnonzero(on_front(scores.objectives, feasible=scores.feasible))
    found: dict[int, FrontMember] = {}
    for row, candidate in zip(rows.tolist(), context.space.candidates(table.genomes[rows]), strict=True):
        place = wanted.get(candidate.arch_id)
        if place is not None:
            found[place] = FrontMember(
                candidate=candidate,
                searched={name: estimate.rows(slice(row, row + 1)) for name, estimate in table.metrics.items()},
            )
    return [found[place] for place in sorted(found)]


def _measured(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    group: VerificationCampaign,
    *,
    reporter: Reporter,
    campaign_environment: CampaignEnvironment,
) -> CampaignResults:
    """One campaign."""
    path = run / PROFILES / group.plan_name
    if not path.is_file():  # a campaign that was ended goes on with its own plan
        path.parent.mkdir(exist_ok=True)
        with Study.read(run) as study:
            subjects = [
                space_subject(context.space, member.candidate) for member in front_members(context, study, record)
            ]
        save_plan(_plan(context, subjects, group, campaign_environment=campaign_environment), path)
    # Whoever goes on with a verification that failed wants what failed to be tried again.
    again = record.verification is not None and record.verification.status == "failed"
    done = measure_plan(
        path, out=run / PROFILES, retry=again, reporter=reporter, campaign_environment=campaign_environment
    )
    return _read([item.path for item in done.profiles])


def _read(paths: Sequence[Path]) -> CampaignResults:
    profiles = {path: load_profile(path) for path in paths}
    readings_of = {profile.manifest.setting.batch: results_by_network(profile) for profile in profiles.values()}
    return CampaignResults(paths=tuple(path for path in paths if path.is_dir()), by_batch=readings_of)


def _kept(run: Path, record: SearchRecord, group: VerificationCampaign) -> CampaignResults | None:
    """What another machine measured of this front before; None where it did not measure all of the group."""
    found = record.verification
    if found is None or not all(found.covers(str(item.metric)) for item in group.metrics):
        return None
    folders = [run / profile.path for profile in found.profiles]
    paths = [path for path in folders if path.is_dir() and load_profile(path).manifest.setting in group.settings]
    return _read(paths) if len(paths) == len(group.settings) else None


def _plan(
    context: SearchContext,
    subjects: Sequence[Subject],
    group: VerificationCampaign,
    *,
    campaign_environment: CampaignEnvironment,
) -> Plan:
    every, seed = unique_subjects([*subjects, *REFERENCE_NETWORKS]), context.spec.seed
    return Plan(
        device=str(group.deployment.device),
        space=context.space.name,
        seed=seed,
        pairs=context.spec.post_search.pairs or PAIRS,
        origin=new_session(("hwnas", "search"), campaign_environment.software),
        tasks=make_tasks(every, group.settings, repeats=min(MIN_REPEATS, len(every)), seed=seed),
    )


def _verified(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    measured: Sequence[tuple[VerificationCampaign, CampaignResults]],
    unmeasured: Mapping[str, str],
) -> SearchRecord:
    by_metric = {
        str(item.metric): (item.metric.name, read.by_batch[item.metric.deployment.fixed_batch or 1])
        for group, read in measured
        for item in group.metrics
    }
    with Study.read(run) as study:
        members = [checks(member, by_metric) for member in front_members(context, study, record)]
    rows, front = measured_front(context.problem, members)
    failing = all(row.failure is not None for row in rows)
    reason = "; ".join(dict.fromkeys(unmeasured.values()))
    verification = Verification(
        status="failed" if failing else "partly" if unmeasured else "verified",
        reason=f"no network of the front could be measured: {rows[0].failure}" if failing else reason,
        device=", ".join(dict.fromkeys(str(group.deployment.device) for group, _ in measured)),
        runtime=", ".join(dict.fromkeys(str(group.deployment.runtime) for group, _ in measured)),
        profiles=tuple(_profile(path, run) for _, read in measured for path in read.paths),
        members=tuple(rows),
        confidence=context.spec.interval_confidence,
        unmeasured={} if failing else dict(unmeasured),
        **agreement(rows, tuple(by_metric)),
    )
    marks = _measured_reference_networks(record.reference_networks, by_metric)
    front_ids = None if failing else front
    return replace(record, verification=verification, measured_front=front_ids, reference_networks=marks)


def _profile(path: Path, run: Path) -> VerifiedProfile:
    profile = load_profile(path)
    quality = assess_profile(profile)
    return VerifiedProfile(
        path=str(path.relative_to(run)),
        batch=profile.manifest.setting.batch,
        noise_floor=None if quality.noise_floor is None else quality.noise_floor.mean_error,
        num_networks=quality.num_networks,
        num_unstable=quality.num_unstable,
        num_failed=sum(failure.count for failure in quality.failures),
        drift=None if quality.drift is None else quality.drift.change,
        problems=quality.problems,
    )


def _measured_reference_networks(
    marks: Sequence[ReferenceNetwork], by_metric: Mapping[str, tuple[str, Mapping[str, NetworkResult]]]
) -> tuple[ReferenceNetwork, ...]:
    """The landmarks with measured metrics in place of predicted ones."""
    ids = {name: network_id for network_id, name in NAMES.items()}
    found = []
    for mark in marks:
        values = {
            text: read[ids[mark.name]].value(name) for text, (name, read) in by_metric.items() if ids[mark.name] in read
        }
        known = {text: float(value) for text, value in values.items() if value is not None and np.isfinite(value)}
        rest = tuple(text for text in mark.metrics if text not in known) if known else ()
        found.append(replace(mark, metrics={**mark.metrics, **known}, measured=bool(known), predicted=rest))
    return tuple(found)


def _nothing(context: SearchContext, status: Any, reason: str) -> Verification:
    metrics = [item.metric for item in context.cheap.predictors]
    return Verification(
        status=status,
        reason=reason,
        device=", ".join(dict.fromkeys(str(metric.deployment.device) for metric in metrics)) or None,
        runtime=", ".join(dict.fromkeys(str(metric.deployment.runtime) for metric in metrics)) or None,
        profiles=(),
        members=(),
        mape={},
        spearman={},
        kendall={},
        coverage={},
        confidence=None,
    )


def checks(member: FrontMember, by_metric: Mapping[str, tuple[str, Mapping[str, NetworkResult]]]) -> FrontMember:
    """The member with its predicted metrics beside the measured ones."""
    found, failures = {}, []
    for text, (name, read) in by_metric.items():
        reading = read.get(member.candidate.network_id)
        found[text] = _check(name, member.searched[text], reading)
        if found[text].measured is None:
            failures.append("it was not measured" if reading is None else reading.failure or f"{name} was not measured")
    return replace(member, checks=found, failure="; ".join(dict.fromkeys(failures)) or None)


def _check(name: str, searched: Estimate, reading: NetworkResult | None) -> MetricCheck:
    measured = None if reading is None else reading.value(name)
    low, high = (None, None) if reading is None else reading.interval(name)
    verdict = None if reading is None else reading.verdict
    return MetricCheck(
        predicted=_plain(searched.mean),
        lower=_plain(searched.lower),
        upper=_plain(searched.upper),
        measured=measured,
        measured_lower=low,
        measured_upper=high,
        stable=None if verdict is None else verdict.stable,
        verdict="" if verdict is None else verdict.reason,
    )


def _plain(values: NDArray[np.float64]) -> float | None:
    return float(values[0]) if np.isfinite(values[0]) else None
