"""Networks of a front with what was predicted and what was measured of them, and how well the two agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.search.objective import Estimate, Metrics, exact
from hwnas.search.pareto import on_front
from hwnas.search.problem import Problem
from hwnas.search.record import MetricCheck, VerifiedMember
from hwnas.space.space import Candidate

_FEWEST_RANKED = 3
"""With fewer networks there is no rank correlation."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of a searched front."""

    candidate: Candidate
    searched: Metrics
    """What the study holds of it, one row."""
    checks: Mapping[str, MetricCheck] = field(default_factory=dict)
    failure: str | None = None


def rebuilt(problem: Problem, members: Sequence[Member]) -> tuple[list[VerifiedMember], tuple[str, ...]]:
    """The members with their verdicts, and the ids on the front of measured values, the best first objective first.

    Constraints are held against the measured value itself; a metric that was not measured keeps what was searched.
    """
    if not members:
        return [], ()
    metrics = _measured_metrics(problem, members)
    plain = replace(problem, confident=False)
    scores = plain.scores(metrics)
    able = np.array([member.failure is None for member in members])
    mask = on_front(scores.objectives, feasible=scores.feasible & able)
    rows = [
        VerifiedMember(
            arch_id=member.candidate.arch_id,
            network_id=member.candidate.network_id,
            metrics=member.checks,
            violated=_violated(problem, scores.violations[place]) if able[place] else (),
            failure=member.failure,
            on_front=bool(mask[place]),
        )
        for place, member in enumerate(members)
    ]
    order = np.argsort(scores.objectives[:, 0], kind="stable")
    return rows, tuple(members[place].candidate.arch_id for place in order.tolist() if mask[place])


def agreement(rows: Sequence[VerifiedMember], metrics: Sequence[str]) -> dict[str, Any]:
    """How well predicted and measured values agree, by metric."""
    pairs = {name: _pairs(rows, name) for name in metrics}
    known = {name: values for name, values in pairs.items() if len(values)}
    return {
        "mape": {name: float(np.mean(np.abs(v[:, 0] / v[:, 1] - 1))) for name, v in known.items()},
        "spearman": {name: _ranked("spearmanr", values) for name, values in known.items()},
        "kendall": {name: _ranked("kendalltau", values) for name, values in known.items()},
        "coverage": {name: float(np.mean((v[:, 2] <= v[:, 1]) & (v[:, 1] <= v[:, 3]))) for name, v in known.items()},
    }


def _measured_metrics(problem: Problem, members: Sequence[Member]) -> dict[str, Estimate]:
    """The metrics of the problem, measured where they were."""
    found = {}
    for name in problem.metrics:
        searched = np.array([member.searched[name].mean[0] for member in members])
        measured = [member.checks[name].measured if name in member.checks else None for member in members]
        pairs = zip(measured, searched.tolist(), strict=True)
        found[name] = exact([value if value is not None else other for value, other in pairs])
    return found


def _violated(problem: Problem, violations: NDArray[np.float64]) -> tuple[str, ...]:
    pairs = zip(problem.constraints, violations.tolist(), strict=True)
    return tuple(str(constraint) for constraint, value in pairs if value > 0)


def _pairs(rows: Sequence[VerifiedMember], metric: str) -> NDArray[np.float64]:
    """Predicted, measured, lower, upper of those that have all of them."""
    every = [row.metrics[metric] for row in rows if metric in row.metrics]
    values = [(check.predicted, check.measured, check.lower, check.upper) for check in every]
    return np.array([row for row in values if None not in row], dtype=np.float64).reshape(-1, 4)


def _ranked(name: str, values: NDArray[np.float64]) -> float | None:
    from scipy import stats  # type: ignore[import-untyped]

    alike = np.ptp(values[:, 0]) == 0 or np.ptp(values[:, 1]) == 0
    if len(values) < _FEWEST_RANKED or alike:
        return None
    return float(getattr(stats, name)(values[:, 0], values[:, 1]).statistic)
