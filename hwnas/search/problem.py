"""What is searched, for what, and who evaluates it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Constraint, Estimate, Metrics, Objective, require_consistent, require_objectives
from hwnas.search.pareto import known_rows
from hwnas.space.space import AnySpace, Genomes, Mask

Values = NDArray[np.float64]

Cheap = Callable[[Genomes], Metrics]
"""All cheap metrics of canonical genomes, by the text of the metric; vectorised over the rows."""

Dear = Callable[[Genomes], Iterable[tuple[int, float]]]
"""The dear metric of canonical genomes: (row, value) as each is done, in any order. A row's value does not depend
on the other rows; NaN says that it could not be had."""

Surrogate = Callable[[Genomes], Estimate]
"""What a model believes about the dear metric of canonical genomes."""

FitSurrogate = Callable[[Genomes, Values, int], Surrogate]
"""Fits a surrogate to genomes, their dear values and a seed; the same arguments give the same surrogate."""


class Scores(NamedTuple):
    """A population as an optimiser sees it: everything is minimised, a violation above 0 is infeasible."""

    objectives: Values
    violations: Values

    @property
    def feasible(self) -> Mask:
        """Rows of which every value is known and every constraint holds."""
        return known_rows(self.objectives) & _held(self.violations)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A space, what is made better in it and what must hold."""

    space: AnySpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    confident: bool = False
    """Whether constraints are held against the unfavourable ends of intervals."""
    dear: str | None = "accuracy"
    """The metric that is dear, if it is asked for; all others are cheap."""

    def __post_init__(self) -> None:
        require_objectives(self.objectives)
        require_consistent(self.constraints)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The texts of all metrics that objectives and constraints name."""
        named = [str(objective) for objective in self.objectives]
        return tuple(dict.fromkeys([*named, *(str(constraint.metric) for constraint in self.constraints)]))

    @property
    def has_dear(self) -> bool:
        """Whether a dear metric is asked for."""
        return self.dear in self.metrics

    @property
    def cheap_constraints(self) -> tuple[Constraint, ...]:
        """Constraints that can be checked before anything dear is evaluated."""
        return tuple(constraint for constraint in self.constraints if str(constraint.metric) != self.dear)

    def scores(self, metrics: Metrics) -> Scores:
        """What an optimiser sees of metrics."""
        require_metrics(metrics, self.metrics)
        columns = [objective.minimised(metrics[str(objective)]) for objective in self.objectives]
        return Scores(np.stack(columns, axis=1), self.violations(metrics, self.constraints))

    def violations(self, metrics: Metrics, constraints: tuple[Constraint, ...]) -> Values:
        """By how much each constraint is violated, of shape (networks, constraints); a NaN violates it by 1."""
        rows = len(next(iter(metrics.values())).mean)
        columns = [_violation(constraint, metrics, confident=self.confident) for constraint in constraints]
        return np.stack(columns, axis=1) if columns else np.zeros((rows, 0))

    def admits(self, metrics: Metrics) -> Mask:
        """Rows that violate no cheap constraint."""
        return _held(self.violations(metrics, self.cheap_constraints))


@dataclass(frozen=True, kw_only=True)
class Evaluators:
    """Who evaluates: `cheap` all metrics but the dear one, `fit` a surrogate of the dear one."""

    cheap: Cheap
    dear: Dear | None = None
    fit: FitSurrogate | None = None


def require_metrics(metrics: Metrics, wanted: Iterable[str]) -> None:
    """Every wanted metric must be there."""
    for name in wanted:
        if name not in metrics:
            raise InputError(f"{name} must be evaluated, but nothing here does", got=", ".join(metrics) or "nothing")


def _held(violations: Values) -> Mask:
    held: Mask = np.logical_and.reduce(violations <= 0, axis=1)
    return held


def _violation(constraint: Constraint, metrics: Metrics, *, confident: bool) -> Values:
    values = constraint.violation(metrics[str(constraint.metric)], confident=confident)
    return np.where(np.isnan(values), 1.0, values)
