"""The problem of a search: space, objectives, constraints, and the functions that evaluate them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import (
    Constraint,
    Criteria,
    Estimate,
    Metrics,
    Objective,
    require_consistent,
    require_objectives,
)
from hwnas.search.pareto import known_rows
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes, Mask

Values = NDArray[np.float64]

CheapEvaluator = Callable[[Genomes], Metrics]
"""Returns all cheap metrics of canonical genomes, by the text of the metric; vectorised over the rows."""

ExpensiveEvaluator = Callable[[Genomes], Iterable[tuple[int, float]]]
"""Yields (row, value) of the expensive metric as each is done, in any order.

A row's value does not depend on the other rows. NaN is a value that could not be determined.
"""

Surrogate = Callable[[Genomes], Estimate]
"""Predicts the expensive metric of canonical genomes."""

FitSurrogate = Callable[[Genomes, Values, int], Surrogate]
"""Fits a surrogate to genomes, their expensive values and a seed; equal arguments give equal surrogates."""


class PopulationScores(NamedTuple):
    """A population as an optimiser sees it: objectives are minimised, a violation above 0 is infeasible."""

    objectives: Values
    violations: Values

    @property
    def feasible(self) -> Mask:
        """Rows in which every value is known and every constraint holds."""
        return known_rows(self.objectives) & _all_hold(self.violations)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A multi-objective optimisation problem over a space."""

    space: AnySpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    confident: bool = False
    """Check constraints against the unfavourable ends of intervals, not the means."""
    expensive: str | None = "accuracy"
    """The metric that is expensive to evaluate, if it is used; all others are cheap."""

    def __post_init__(self) -> None:
        require_objectives(self.objectives)
        require_consistent(self.constraints)

    @classmethod
    def of(cls, criteria: Criteria, *, space: AnySpace, confident: bool = False) -> Self:
        """Return the problem of some criteria in a space."""
        return cls(
            space=space,
            objectives=criteria.objectives,
            constraints=criteria.constraints,
            confident=confident,
            expensive=criteria.quality or "accuracy",
        )

    @property
    def criteria(self) -> Criteria:
        """The objectives and constraints."""
        return Criteria(objectives=self.objectives, constraints=self.constraints)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The texts of all metrics in objectives and constraints."""
        return tuple(map(str, self.criteria.metrics))

    @property
    def has_expensive(self) -> bool:
        """True if the expensive metric is used."""
        return self.expensive in self.metrics

    @property
    def cheap_constraints(self) -> tuple[Constraint, ...]:
        """Constraints that can be checked before anything expensive is evaluated."""
        return tuple(constraint for constraint in self.constraints if str(constraint.metric) != self.expensive)

    def scores(self, metrics: Metrics) -> PopulationScores:
        """Return objectives and violations of a population."""
        require_metrics(metrics, self.metrics)
        columns = [objective.minimised(metrics[str(objective)]) for objective in self.objectives]
        return PopulationScores(np.stack(columns, axis=1), self.violations(metrics, self.constraints))

    def violations(self, metrics: Metrics, constraints: tuple[Constraint, ...]) -> Values:
        """Return by how much each constraint is violated, of shape (networks, constraints); a NaN violates by 1."""
        num_rows = len(next(iter(metrics.values())).mean)
        columns = [
            constraint.violation(metrics[str(constraint.metric)], confident=self.confident)
            for constraint in constraints
        ]
        values = np.stack(columns, axis=1) if columns else np.zeros((num_rows, 0))
        return np.where(np.isnan(values), 1.0, values)

    def admits(self, metrics: Metrics) -> Mask:
        """Return the rows that violate no cheap constraint."""
        return _all_hold(self.violations(metrics, self.cheap_constraints))


@dataclass(frozen=True, kw_only=True)
class Evaluators:
    """The functions that evaluate networks."""

    cheap: CheapEvaluator
    """All metrics but the expensive one."""
    expensive: ExpensiveEvaluator | None = None
    fit: FitSurrogate | None = None
    """Fits a surrogate of the expensive metric."""
    shared_by: DeployedSpace | None = None
    """The space, if deployments of equal accuracy share the expensive value, which is then evaluated once for all."""


def require_metrics(metrics: Metrics, required: Iterable[str]) -> None:
    """Require that every metric has been evaluated."""
    for name in required:
        if name not in metrics:
            raise InputError(f"{name} must be evaluated, but there is no evaluator of it", got=", ".join(metrics))


def _all_hold(violations: Values) -> Mask:
    held: Mask = np.logical_and.reduce(violations <= 0, axis=1)
    return held
