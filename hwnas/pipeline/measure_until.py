"""Measure in rounds until a predictor of the measurements is accurate enough (`hwnas profile --until mape=3%`)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from hwnas.config import require_valid
from hwnas.devices import DEVICES
from hwnas.errors import InputError, UsageError, unknown
from hwnas.metrics import PRECISIONS, Deployment
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_profile, select_space
from hwnas.pipeline.predictors.unmeasured import calibrate_pool, other_devices
from hwnas.pipeline.predictors.workloads import subject_workloads
from hwnas.predict.active import choose_next, representative
from hwnas.predict.features.counting import workload_features
from hwnas.predict.pooled import sustained_conditions
from hwnas.predict.selection import MIN_NETWORKS, Protocol, cross_validate
from hwnas.profile.lookup import ProfileEntry
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import Plan, make_plan, plan_for_subjects
from hwnas.profile.sampling import sample_evenly
from hwnas.profile.subjects import select_subjects, space_subject, unique_subjects
from hwnas.progress import Reporter
from hwnas.records import Subject, load_profile
from hwnas.records.manifest import read_manifest
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

SamplingOrder = Literal["spread", "active"]

MOST = 400
"""Largest number of networks, unless `--samples` gives one."""

_FIRST = 24
_FIRST_OF_POOL = 10
"""Networks of the first round where a model of other devices is adapted."""
_POOL = 512
"""Networks from which an active round chooses."""


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """A stopping rule of a campaign, and the order in which it chooses networks."""

    mape: float
    """Cross-validated mean absolute relative error to reach; 0.03 is three percent."""
    order: SamplingOrder = "spread"
    """'spread': evenly over the space; 'active': where models disagree and no similar network was measured."""

    def __post_init__(self) -> None:
        require_valid(self)

    @property
    def cli_options(self) -> tuple[str, ...]:
        """The equivalent command-line options."""
        return ("--until", f"mape={self.mape:.4g}", *(() if self.order == "spread" else ("--order", self.order)))


def parse_until(text: str, *, order: str = "spread") -> StoppingRule:
    """Parse a goal such as `mape=3%` or `mape=0.03`.

    Args:
        text: The goal.
        order: How the networks of a round are chosen.

    Raises:
        UsageError: The goal is not an error from 0.01 % to below 100 %.
        UnknownNameError: The order is not known.
    """
    match = re.fullmatch(r"mape=(\d+(?:\.\d+)?)(%?)", text.strip())
    if match is None:
        raise UsageError("--until must be an error of the predictor", got=text, hint="--until mape=3%")
    value = float(match[1]) * (0.01 if match[2] else 1.0)
    if not 0.0001 <= value < 1:
        raise UsageError("--until must be an error from 0.01 % to below 100 %", got=text, hint="--until mape=3%")
    if order not in get_args(SamplingOrder):
        raise unknown("order", order, get_args(SamplingOrder), hint="--order {}")
    return StoppingRule(mape=value, order=order)  # type: ignore[arg-type]


class MeasuringRounds:
    """The plans of a campaign with a stopping rule. Each extends the one before by about half."""

    def __init__(
        self,
        request: CampaignOptions,
        device: str,
        until: StoppingRule,
        *,
        reporter: Reporter,
        runtime: str | None = None,
    ) -> None:
        for name, is_given in (("minutes", request.minutes is not None), ("landmarks", request.landmarks)):
            if is_given:
                raise UsageError(f"--until and --{name} exclude each other", hint="give one of them")
        self._request, self._device, self._until, self._reporter = request, device, until, reporter
        self._most = MOST if request.samples is None else request.samples
        self._design = self._designed(runtime or request.runtime)
        self._count = min(len(self._design) or _FIRST, self._most)
        if self._most < MIN_NETWORKS:
            raise UsageError(f"--until needs at least {MIN_NETWORKS} networks", got=f"--samples {self._most}")

    def first(self) -> Plan:
        """Return the plan of the first round: networks spread over the space."""
        return self._signed(self._spread(self._count))

    def extend(self, paths: Sequence[Path]) -> Plan | None:
        """Return the plan of the next round; None if the predictor is accurate enough or no network is left.

        Args:
            paths: The profiles measured so far.
        """
        measured = [self._measured(path) for path in paths]
        error = max(map(self._error, measured))
        num_networks = max(self._count, self._num_attempted(paths[0]))
        if self._until.order == "active":
            self._count = num_networks  # earlier campaigns and rounds count: their networks stay in the plan
        goal = self._until.mape
        self._reporter.message(f"{num_networks} networks: cross-validated error {error:.2%}, goal {goal:.2%}")
        if error <= goal:
            return None
        if self._count >= self._most:
            self._reporter.message(f"the goal is not reached, and --samples allows no more than {self._most} networks")
            return None
        more = min(self._most, self._count + self._count // 2)
        plan = self._spread(more) if self._until.order == "spread" else self._active(more, paths[0], measured[0])
        self._count = more
        return self._signed(plan)

    def _designed(self, runtime: str) -> tuple[Subject, ...]:
        """Return the first networks if other devices were measured: those that show how this one differs from them."""
        request = self._request
        deployment = Deployment(device=self._device, runtime=runtime, precision=request.precision)
        others = other_devices(deployment)
        if not others:
            return ()
        precision = next(name for name in PRECISIONS if name == request.precision)
        batch = min(request.batches, default=1)
        try:
            conditions = sustained_conditions(
                DEVICES.get(self._device), precision=precision, runtime=runtime, batch=batch
            )
        except InputError:  # a datasheet without rates
            return ()
        space = request.measured_space
        pool = [space_subject(space, candidate) for candidate in sample_evenly(space, _POOL, seed=request.seed)]
        count = min(_FIRST_OF_POOL, len(pool))
        used = min(count, self._most)
        self._reporter.message(f"starting from a model of {', '.join(others)}, with {used} networks")
        rows = representative(workload_features(subject_workloads(pool), conditions), count=count)
        return tuple(pool[row] for row in rows)

    def _error(self, networks: MeasuredNetworks) -> float:
        """Return the error of the predictor that `hwnas fit` makes of so many networks."""
        calibrated = calibrate_pool(networks, "latency_ms") if self._design else None
        return cross_validated(networks) if calibrated is None else calibrated.card.scores.mape

    def _num_attempted(self, path: Path) -> int:
        """Number of networks of the space that were measured or failed, without the published ones."""
        space = self._request.measured_space
        archs = [*space.published.values()]
        published = {candidate.network_id for candidate in space.candidates(space.encode(archs))}
        rows = load_profile(path).measurements
        of_space = (row.subject for row in rows if row.subject.source == "space")
        ids = {subject.network_id for subject in of_space if _is_of(subject, space)}
        return len(ids - published)

    def _spread(self, count: int) -> Plan:
        if not self._design:
            return make_plan(self._request, self._device, num_samples=count)
        space = self._request.measured_space
        even = (space_subject(space, candidate) for candidate in sample_evenly(space, count, seed=self._request.seed))
        subjects = unique_subjects([*unique_subjects([*self._design, *even])[:count], *self._selected(0)])
        return plan_for_subjects(self._request, self._device, subjects, num_samples=count)

    def _selected(self, count: int) -> tuple[Subject, ...]:
        request = self._request
        return select_subjects(
            request.measured_space,
            count,
            seed=request.seed,
            extra_models=request.extra_models,
            reference_networks=request.reference_networks,
        )

    def _active(self, count: int, path: Path, measured: MeasuredNetworks) -> Plan:
        """The measured networks, and those of a pool on which models disagree and that differ most from them."""
        space = self._request.measured_space
        before = unique_subjects([row.subject for row in load_profile(path).measurements])
        ids = {subject.network_id for subject in before}
        chosen = sample_evenly(space, _POOL + count, seed=self._request.seed)
        pool = [space_subject(space, candidate) for candidate in chosen if candidate.network_id not in ids]
        num_chosen = min(count - self._count, len(pool))
        if not num_chosen:
            return plan_for_subjects(self._request, self._device, self._first_ones(before))
        features = workload_features(subject_workloads(pool), measured.conditions)
        target = measured.values["latency_ms"]
        rows = choose_next(features, measured.features, target, count=num_chosen, seed=self._request.seed)
        return plan_for_subjects(self._request, self._device, self._first_ones((*before, *(pool[row] for row in rows))))

    def _first_ones(self, subjects: Sequence[Subject]) -> tuple[Subject, ...]:
        """Subjects in the order of a plan: all plans begin with the same ones, which are measured twice."""
        start = [*self._design, *self._selected(0)] if self._design else self._selected(_FIRST)
        return unique_subjects([*start, *subjects])

    def _measured(self, path: Path) -> MeasuredNetworks:
        entry = ProfileEntry(
            name=f"{path.parent.name}/{path.name}", path=path, origin="own", manifest=read_manifest(path)
        )
        networks = select_space(measured_profile(entry), SPACES.resolve(self._request.space))
        space = self._request.measured_space
        return networks.take(np.flatnonzero([_is_of(subject, space) for subject in networks.subjects]))

    def _signed(self, plan: Plan) -> Plan:
        """The plan with the complete command that made it."""
        command = (*plan.origin.command, *self._until.cli_options)
        return replace(plan, origin=replace(plan.origin, command=command))


def _is_of(subject: Subject, space: AnySpace) -> bool:
    """Return True if a network has the images and classes of its space."""
    size = (subject.arch or {}).get("image_size") or space.config.image_size  # it may be a choice of the network
    return (subject.image_size, subject.num_classes) == (size, space.config.num_classes)


def cross_validated(networks: MeasuredNetworks) -> float:
    """Return the cross-validated error of the best model; infinite if there are too few networks."""
    if len(networks) < MIN_NETWORKS:
        return float("inf")
    try:
        result = cross_validate(networks.features, networks.values["latency_ms"], protocol=Protocol(repeats=1))
    except InputError:  # too few distinct ones: the next round brings more
        return float("inf")
    return float(np.min([scores.mape for scores in result.ranking().values()]))
