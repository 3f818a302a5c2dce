"""The front of a study's candidates under other objectives and constraints, without searching."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.pareto import Mask, known_rows, on_front, ranked_front
from hwnas.search.problem import CheapEvaluator, PopulationScores, Problem, Values, require_metrics
from hwnas.search.study import SEARCHED, Source, Study
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class QueriedFront:
    """All candidates of a study, and which of them are on the front of a query."""

    genomes: Genomes
    metrics: Metrics
    measured: Mapping[str, Values]
    """Metrics that were measured, NaN where a network was not."""
    checked: Metrics
    """The metrics of the constraints: measured values where there are some, else those of `metrics`."""
    scores: PopulationScores
    """Objectives of `metrics`, violations of `checked`."""
    allowed: Mask
    """Candidates that may be on the front if they meet the constraints."""
    front: Mask

    @property
    def rows(self) -> NDArray[np.intp]:
        """The candidates on the front, the best of the first objective first."""
        return ranked_front(self.scores.objectives, self.front)

    def closest(self, count: int) -> NDArray[np.intp]:
        """Return the candidates that miss the constraints by the least, in the sum of shares of the bounds."""
        known = [np.isfinite(estimate.mean) for estimate in self.checked.values()]
        rows = np.flatnonzero(np.logical_and.reduce([self.allowed, known_rows(self.scores.objectives), *known]))
        missed = np.maximum(self.scores.violations[rows], 0).sum(axis=1)
        return rows[np.argsort(missed, kind="stable")][:count]


def query_study(
    study: Study,
    problem: Problem,
    *,
    recompute: CheapEvaluator | None = None,
    outdated: Collection[str] = (),
    sources: tuple[Source, ...] = SEARCHED,
    within: Callable[[Genomes], Mask] | None = None,
) -> QueriedFront:
    """Return the front of a study's candidates for the objectives and constraints of a problem.

    A network whose metric was measured meets a constraint if the measured value does. Objectives are those of
    `sources` for all networks, so that networks with and without measurements are compared alike.

    Args:
        study: The study of a search.
        problem: The objectives and constraints, in the space of the study.
        recompute: Computes metrics that the study does not hold; None: all must be in the study.
        outdated: Metrics that are computed again although the study holds them.
        sources: The sources of values that are used.
        within: Returns which candidates may be on the front; None: all.

    Raises:
        InputError: The study lacks a metric, and there is no `recompute`.
    """
    held = [name for name in problem.metrics if name in study.metrics and name not in outdated]
    table = study.table(held, sources=sources, space=problem.space)
    metrics = dict(table.metrics)
    missing = [name for name in problem.metrics if name not in metrics]
    if missing:
        if recompute is None:
            raise InputError("the study must hold every requested metric", got=", ".join(missing))
        # Only candidates with all stored metrics can be on the front.
        complete = np.ones(len(table.genomes), dtype=np.bool_)
        for estimate in metrics.values():
            complete &= np.isfinite(estimate.mean)
        found = recompute(table.genomes[complete])
        require_metrics(found, missing)
        metrics |= {name: _scattered(found[name], complete) for name in missing}
    measured = {
        name: study.table([name], sources=("measured",)).metrics[name].mean
        for name in study.metrics
        if "measured" in study.source_of(name)
    }
    constrained = [str(constraint.metric) for constraint in problem.constraints]
    checked = {name: _replaced(metrics[name], measured.get(name)) for name in constrained}
    objectives = problem.scores(metrics).objectives
    scores = PopulationScores(objectives, problem.violations({**metrics, **checked}, problem.constraints))
    allowed = np.ones(len(table.genomes), dtype=np.bool_) if within is None else within(table.genomes)
    return QueriedFront(
        genomes=table.genomes,
        metrics=metrics,
        measured=measured,
        checked=checked,
        scores=scores,
        allowed=allowed,
        front=on_front(objectives, feasible=scores.feasible & allowed),
    )


def _replaced(estimate: Estimate, measured: Values | None) -> Estimate:
    """Put measured values, which are compared as they are, in the place of predicted ones."""
    if measured is None:
        return estimate
    return Estimate(*(np.where(np.isfinite(measured), measured, end) for end in estimate))


def _scattered(estimate: Estimate, rows: Mask) -> Estimate:
    """Put the rows of an estimate where the mask is true, and NaN elsewhere."""
    values = np.full((3, len(rows)), np.nan)
    values[:, rows] = estimate
    return Estimate(*values)
