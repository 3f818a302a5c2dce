"""Networks of a front with predicted and measured metrics, and how well the two agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.search.objective import Estimate, Metrics, exact
from hwnas.search.pareto import on_front, ranked_front
from hwnas.search.problem import Problem
from hwnas.search.record import MetricCheck, VerifiedMember
from hwnas.space.space import Candidate

_MIN_RANKED = 3
"""The fewest networks with a rank correlation."""


@dataclass(frozen=True, kw_only=True)
class FrontMember:
    """A network of a searched front."""

    candidate: Candidate
    searched: Metrics
    """Its metrics in the study, one row."""
    checks: Mapping[str, MetricCheck] = field(default_factory=dict)
    failure: str | None = None


def measured_front(problem: Problem, members: Sequence[FrontMember]) -> tuple[list[VerifiedMember], tuple[str, ...]]:
    """Rebuild the front from measured values; a metric that was not measured keeps its searched value.

    Constraints are held for the measured value itself, whatever the confidence of the search.

    Returns:
        The members with their violations, and the ids on the front, the best of the first objective first.
    """
    if not members:
        return [], ()
    scores = replace(problem, confident=False).scores(_measured_metrics(problem, members))
    measured = np.array([member.failure is None for member in members])
    front = on_front(scores.objectives, feasible=scores.feasible & measured)
    rows = []
    for index, member in enumerate(members):
        violations = zip(problem.constraints, scores.violations[index].tolist(), strict=True)
        violated = tuple(str(constraint) for constraint, value in violations if value > 0)
        rows.append(
            VerifiedMember(
                arch_id=member.candidate.id,
                network_id=member.candidate.network_id,
                metrics=member.checks,
                violated=violated if measured[index] else (),
                failure=member.failure,
                on_front=bool(front[index]),
            )
        )
    order = ranked_front(scores.objectives, front)
    return rows, tuple(members[index].candidate.id for index in order.tolist())


def agreement(checks: Mapping[str, Sequence[MetricCheck]]) -> dict[str, Any]:
    """Return errors, rank correlations and interval coverage of predictions, as fields of `Verification`.

    Args:
        checks: By the text of a predictor's metric, what it predicted and what was measured.
    """
    pairs = {name: _pairs(items) for name, items in checks.items()}
    known = {name: values for name, values in pairs.items() if len(values)}
    return {
        "mape": {name: float(np.mean(np.abs(v[:, 0] / v[:, 1] - 1))) for name, v in known.items()},
        "spearman": {name: _rank_correlation("spearmanr", values) for name, values in known.items()},
        "kendall": {name: _rank_correlation("kendalltau", values) for name, values in known.items()},
        "coverage": {name: float(np.mean((v[:, 2] <= v[:, 1]) & (v[:, 1] <= v[:, 3]))) for name, v in known.items()},
    }


def _measured_metrics(problem: Problem, members: Sequence[FrontMember]) -> dict[str, Estimate]:
    """Return the metrics of the problem, measured where they were."""
    found = {}
    for name in problem.metrics:
        values = []
        for member in members:
            measured = member.checks[name].measured if name in member.checks else None
            values.append(float(member.searched[name].mean[0]) if measured is None else measured)
        found[name] = exact(values)
    return found


def _pairs(checks: Sequence[MetricCheck]) -> NDArray[np.float64]:
    """Return predicted, measured, lower and upper where all of them are known."""
    values = [(check.predicted, check.measured, check.lower, check.upper) for check in checks]
    return np.array([row for row in values if None not in row], dtype=np.float64).reshape(-1, 4)


def _rank_correlation(name: str, values: NDArray[np.float64]) -> float | None:
    from scipy import stats  # type: ignore[import-untyped]

    is_constant = np.ptp(values[:, 0]) == 0 or np.ptp(values[:, 1]) == 0
    if len(values) < _MIN_RANKED or is_constant:
        return None
    return float(getattr(stats, name)(values[:, 0], values[:, 1]).statistic)
