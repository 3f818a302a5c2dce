"""Measurement of a searched front: predicted next to measured values, and the front rebuilt from measured ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hwnas.devices import require
from hwnas.errors import HwnasError, InputError
from hwnas.files import file_errors, path_within, storage_failed
from hwnas.metrics import QUALITIES, Deployment
from hwnas.pipeline.measure import measure_plan
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.pipeline.search.references import network_id_of, reference_subjects
from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.plan import MIN_REPEATS, Plan, make_tasks, new_session, save_plan
from hwnas.profile.results import NetworkResult, assess_profile, results_by_network
from hwnas.profile.runners.runner import load_runner
from hwnas.profile.subjects import space_subject, unique_subjects
from hwnas.profile.timing import PAIRS
from hwnas.progress import Reporter
from hwnas.records import Setting, Subject, load_profile
from hwnas.search.objective import Estimate
from hwnas.search.pareto import on_front
from hwnas.search.record import RECORD_FILE, MetricCheck, ReferenceNetwork, SearchRecord, Verification, VerifiedProfile
from hwnas.search.study import Study
from hwnas.search.verification import FrontMember, agreement, measured_front
from hwnas.space.space import Candidate

PROFILES = "profiles"
"""The folder of a run that holds the measurements of its verification."""


@dataclass(frozen=True, kw_only=True)
class MeasuredMetric:
    """Measured results of one metric by the id of the network, with the predictor of the metric."""

    predictor: MetricPredictor
    by_network: Mapping[str, NetworkResult]

    def is_of(self, candidate: Candidate) -> bool:
        """Return True if the metric was measured in the deployment of a candidate."""
        return self.predictor.deployment in (None, candidate.deployment)


@dataclass(frozen=True, kw_only=True)
class VerificationCampaign:
    """The metrics that one campaign measures."""

    deployment: Deployment
    """Complete except for the batch, which each metric has of its own."""
    metrics: tuple[MetricPredictor, ...]

    @property
    def searched(self) -> Deployment | None:
        """The searched deployment whose candidates it measures; None: it measures all."""
        return self.metrics[0].deployment

    @property
    def names(self) -> tuple[str, ...]:
        """The texts of the metrics."""
        return tuple(str(item.metric) for item in self.metrics)

    @property
    def plan_name(self) -> str:
        """The file name of the plan, different for each campaign of a run."""
        return f"plan-{self.deployment.device}-{self.deployment.slug}.jsonl"

    @property
    def settings(self) -> list[Setting]:
        """The measured settings, one for each batch."""
        batches = sorted({item.metric.deployment.fixed_batch or 1 for item in self.metrics})
        return [Setting(deployment=replace(self.deployment, batch=batch)) for batch in batches]


@dataclass(frozen=True, kw_only=True)
class CampaignResults:
    """The results of one campaign."""

    campaign: VerificationCampaign
    profiles: tuple[Path, ...]
    metrics: tuple[MeasuredMetric, ...]


def verification_campaigns(predictors: Sequence[MetricPredictor]) -> tuple[VerificationCampaign, ...]:
    """Return the campaigns that measure all predicted metrics."""
    found: dict[Deployment, list[MetricPredictor]] = {}
    for item in predictors:
        threads = item.predictor.card.metric.deployment.threads or 1
        deployment = replace(item.metric.deployment, batch=None, threads=threads)
        found.setdefault(deployment, []).append(item)
    return tuple(VerificationCampaign(deployment=key, metrics=tuple(items)) for key, items in found.items())


def unavailable_reason(campaign: VerificationCampaign, *, campaign_environment: CampaignEnvironment) -> str | None:
    """Return why a campaign cannot run on this machine; None if it can."""
    try:
        device = require(str(campaign.deployment.device), machine=campaign_environment.machine)
        found = load_runner(str(campaign.deployment.runtime)).available(device)
    except HwnasError as error:
        return error.message
    return None if found.available else f"{campaign.deployment.runtime} cannot be used here: {found.reason}"


@dataclass(frozen=True, kw_only=True)
class FrontVerifier:
    """Measures the front of a search on the devices of this machine.

    Profiles are written to a folder of the run, and an interrupted campaign is resumed.
    """

    context: SearchContext
    run: Path
    reporter: Reporter
    campaign_environment: CampaignEnvironment

    def verify(self, record: SearchRecord) -> SearchRecord:
        """Measure the front.

        Args:
            record: The record of the search; results that other machines measured before are kept.

        Returns:
            The record with its verification, measured front and reference networks. Metrics that could not be measured
            are listed in the verification with the reason.
        """
        possible: list[VerificationCampaign] = []
        earlier: list[CampaignResults] = []
        unmeasured: dict[str, str] = {}
        for campaign in self._campaigns(record):
            reason = unavailable_reason(campaign, campaign_environment=self.campaign_environment)
            kept = None if reason is None else _earlier_results(self.run, record, campaign)
            if reason is None:
                possible.append(campaign)
            elif kept is not None:
                earlier.append(kept)
            else:
                unmeasured.update(dict.fromkeys(campaign.names, reason))
        if not possible and not earlier:
            reason = "; ".join(dict.fromkeys(unmeasured.values())) or "nothing was predicted"
            return replace(record, verification=unmeasured_front(self.context, "skipped", reason))
        if not record.front:
            return replace(record, verification=unmeasured_front(self.context, "skipped", "the front is empty"))
        try:
            measured = [self._measure(record, campaign) for campaign in possible]
            for campaign in possible:  # a device that disappeared makes its last measurements doubtful
                require(str(campaign.deployment.device))
        except HwnasError as error:
            if storage_failed(error):
                raise
            reason = f"{error.message}{'' if error.got is None else f', got {error.got}'}"
            if not earlier:
                return replace(record, verification=unmeasured_front(self.context, "failed", reason))
            # Results of other machines stay; what was measured here is completed when the run is resumed.
            measured = []
            unmeasured.update({name: reason for campaign in possible for name in campaign.names})
        return self._verified_record(record, [*earlier, *measured], unmeasured)

    def _campaigns(self, record: SearchRecord) -> list[VerificationCampaign]:
        """Return the campaigns of the deployments that occur on the front."""
        campaigns = verification_campaigns(self.context.cheap.predictors)
        if self.context.spec.deployments is None or not record.front:
            return list(campaigns)
        with Study.read(self.run) as study:
            searched = {member.candidate.deployment for member in front_members(self.context, study, record)}
        return [item for item in campaigns if item.searched in searched]

    def _measure(self, record: SearchRecord, campaign: VerificationCampaign) -> CampaignResults:
        deployment = campaign.deployment
        with Study.read(self.run) as study:
            members = front_members(self.context, study, record)
        subjects = [
            space_subject(self.context.space, member.candidate)
            for member in members
            if campaign.searched in (None, member.candidate.deployment)
        ]
        number = f"the {len(members)}" if len(subjects) == len(members) else f"{len(subjects)} of the {len(members)}"
        self.reporter.message(
            f"measuring {number} networks of the front with {deployment.runtime} in {deployment.precision} on "
            f"{deployment.device}"
        )
        path = path_within(self.run, PROFILES, campaign.plan_name)
        if not path.is_file():  # else an interrupted campaign, which is resumed with its own plan
            with file_errors(path.parent, "written"):
                path.parent.mkdir(exist_ok=True)
            references = reference_subjects(self.context.space, record.reference_networks)
            save_plan(self._make_plan([*subjects, *references], campaign), path)
        # After a verification that failed, its failed networks are measured again.
        retry = record.verification is not None and record.verification.status == "failed"
        finished = measure_plan(
            path,
            out=self.run / PROFILES,
            retry=retry,
            reporter=self.reporter,
            campaign_environment=self.campaign_environment,
        )
        return _load_results(campaign, [item.path for item in finished.profiles])

    def _make_plan(self, subjects: Sequence[Subject], campaign: VerificationCampaign) -> Plan:
        networks, seed = unique_subjects(subjects), self.context.spec.seed
        return Plan(
            device=str(campaign.deployment.device),
            space=self.context.space.name,
            seed=seed,
            pairs=self.context.spec.post_search.pairs or PAIRS,
            origin=new_session(("hwnas", "search"), self.campaign_environment.software),
            tasks=make_tasks(networks, campaign.settings, repeats=min(MIN_REPEATS, len(networks)), seed=seed),
        )

    def _verified_record(
        self, record: SearchRecord, measured: Sequence[CampaignResults], unmeasured: Mapping[str, str]
    ) -> SearchRecord:
        results = [metric for item in measured for metric in item.metrics]
        with Study.read(self.run) as study:
            members = [compare_with_measured(member, results) for member in front_members(self.context, study, record)]
        checks = {
            str(item.predictor.metric): [
                member.checks[str(item.predictor.column)] for member in members if item.is_of(member.candidate)
            ]
            for item in results
        }
        rows, front = measured_front(self.context.problem, members)
        all_failed = all(row.failure is not None for row in rows)
        reason = "; ".join(dict.fromkeys(unmeasured.values()))
        verification = Verification(
            status="failed" if all_failed else "partly" if unmeasured else "verified",
            reason=f"no network of the front could be measured: {rows[0].failure}" if all_failed else reason,
            device=_joined(item.campaign.deployment.device for item in measured),
            runtime=_joined(item.campaign.deployment.runtime for item in measured),
            profiles=tuple(_verified_profile(path, self.run) for item in measured for path in item.profiles),
            members=tuple(rows),
            confidence=self.context.spec.interval_confidence,
            unmeasured={} if all_failed else dict(unmeasured),
            **agreement(checks),
        )
        return replace(
            record,
            verification=verification,
            measured_front=None if all_failed else front,
            reference_networks=tuple(_with_measured(network, results) for network in record.reference_networks),
        )


def unmeasured_front(context: SearchContext, status: Literal["skipped", "failed"], reason: str) -> Verification:
    """Return a verification without measurements."""
    deployments = [item.metric.deployment for item in context.cheap.predictors]
    return Verification(
        status=status,
        reason=reason,
        device=_joined(deployment.device for deployment in deployments) or None,
        runtime=_joined(deployment.runtime for deployment in deployments) or None,
        profiles=(),
        members=(),
        mape={},
        spearman={},
        kendall={},
        coverage={},
        confidence=None,
    )


def front_members(context: SearchContext, study: Study, record: SearchRecord) -> list[FrontMember]:
    """Return the networks of the searched front with their metrics in the study, in the order of the record."""
    table = study.table(space=context.space)
    order = {candidate_id: index for index, candidate_id in enumerate(record.front)}
    scores = context.problem.scores(table.metrics)
    rows = np.flatnonzero(on_front(scores.objectives, feasible=scores.feasible))
    members = [
        FrontMember(
            candidate=candidate,
            searched={name: estimate.rows(slice(row, row + 1)) for name, estimate in table.metrics.items()},
        )
        for row, candidate in zip(rows.tolist(), context.space.candidates(table.genomes[rows]), strict=True)
        if candidate.id in order
    ]
    if len(members) < len(order):
        message = f"{study.path}: {RECORD_FILE} and {study.file.name} must be of one search"
        raise InputError(
            message, got=f"{len(order) - len(members)} networks on the front that the study's front has not"
        )
    return sorted(members, key=lambda member: order[member.candidate.id])


def compare_with_measured(member: FrontMember, results: Sequence[MeasuredMetric]) -> FrontMember:
    """Return the member with its predicted and measured metrics, or the reason why some were not measured."""
    checks, failures = {}, []
    for item in results:
        if not item.is_of(member.candidate):
            continue
        name, column = item.predictor.metric.name, str(item.predictor.column)
        result = item.by_network.get(member.candidate.network_id)
        checks[column] = _check(name, member.searched[column], result)
        if checks[column].measured is None:
            failures.append("it was not measured" if result is None else result.failure or f"{name} was not measured")
    return replace(member, checks=checks, failure="; ".join(dict.fromkeys(failures)) or None)


def _check(name: str, searched: Estimate, result: NetworkResult | None) -> MetricCheck:
    predicted, lower, upper = (float(end[0]) if np.isfinite(end[0]) else None for end in searched)
    measured_lower, measured_upper = (None, None) if result is None else result.interval(name)
    verdict = None if result is None else result.verdict
    return MetricCheck(
        predicted=predicted,
        lower=lower,
        upper=upper,
        measured=None if result is None else result.value(name),
        measured_lower=measured_lower,
        measured_upper=measured_upper,
        stable=None if verdict is None else verdict.stable,
        verdict="" if verdict is None else verdict.reason,
    )


def _earlier_results(run: Path, record: SearchRecord, campaign: VerificationCampaign) -> CampaignResults | None:
    """Return what another machine measured of this front before; None if that is not all of the campaign."""
    verification = record.verification
    if verification is None or not all(map(verification.covers, campaign.names)):
        return None
    folders = [path_within(run, profile.path) for profile in verification.profiles]
    paths = [path for path in folders if path.is_dir() and load_profile(path).manifest.setting in campaign.settings]
    return _load_results(campaign, paths) if len(paths) == len(campaign.settings) else None


def _load_results(campaign: VerificationCampaign, paths: Sequence[Path]) -> CampaignResults:
    profiles = [load_profile(path) for path in paths]
    by_batch = {profile.manifest.setting.batch: results_by_network(profile) for profile in profiles}
    metrics = tuple(
        MeasuredMetric(predictor=item, by_network=by_batch[item.metric.deployment.fixed_batch or 1])
        for item in campaign.metrics
    )
    return CampaignResults(campaign=campaign, profiles=tuple(paths), metrics=metrics)


def _verified_profile(path: Path, run: Path) -> VerifiedProfile:
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
        problems=quality.disturbances,
        num_measurements=quality.num_measurements,
    )


def _with_measured(network: ReferenceNetwork, results: Sequence[MeasuredMetric]) -> ReferenceNetwork:
    """Return a reference network with measured metrics in place of predicted ones."""
    deployment = None if network.deployment is None else Deployment.parse(network.deployment)
    network_id, measured = network_id_of(network), {}
    for item in results:
        result = item.by_network.get(network_id) if item.predictor.deployment == deployment else None
        value = None if result is None else result.value(item.predictor.metric.name)
        if value is not None and np.isfinite(value):
            measured[str(item.predictor.column)] = float(value)
    on_device = (text for text in network.metrics if text not in QUALITIES)
    predicted = tuple(text for text in on_device if text not in measured) if measured else ()
    return replace(network, metrics={**network.metrics, **measured}, measured=bool(measured), predicted=predicted)


def _joined(names: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(map(str, names)))
