"""The front of a study's candidates under other objectives and constraints, without searching."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.pareto import Mask, on_front, ranked_front
from hwnas.search.problem import CheapEvaluator, PopulationScores, Problem, require_metrics
from hwnas.search.study import SEARCHED, Source, Study
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class QueriedFront:
    """All candidates of a study, and which of them are on the front of a query."""

    genomes: Genomes
    metrics: Metrics
    scores: PopulationScores
    front: Mask

    @property
    def rows(self) -> NDArray[np.intp]:
        """The candidates on the front, the best of the first objective first."""
        return ranked_front(self.scores.objectives, self.front)


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
    scores = problem.scores(metrics)
    allowed = scores.feasible if within is None else scores.feasible & within(table.genomes)
    front = on_front(scores.objectives, feasible=allowed)
    return QueriedFront(genomes=table.genomes, metrics=metrics, scores=scores, front=front)


def _scattered(estimate: Estimate, rows: Mask) -> Estimate:
    """Put the rows of an estimate where the mask is true, and NaN elsewhere."""
    values = np.full((3, len(rows)), np.nan)
    values[:, rows] = estimate
    return Estimate(*values)
