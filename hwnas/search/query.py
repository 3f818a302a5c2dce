"""A finished search asked again: other constraints, other objectives, another device, without searching."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.pareto import Mask, on_front
from hwnas.search.problem import Cheap, Problem, Scores, require_metrics
from hwnas.search.study import SEARCHED, Source, Study
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class QueriedFront:
    """All candidates of a study under other objectives and constraints."""

    genomes: Genomes
    metrics: Metrics
    scores: Scores
    front: Mask

    @property
    def rows(self) -> NDArray[np.intp]:
        """The candidates on the front, by their first objective, best first."""
        rows = np.flatnonzero(self.front)
        return rows[np.argsort(self.scores.objectives[rows, 0], kind="stable")]


def query_study(
    study: Study,
    problem: Problem,
    *,
    recompute: Cheap | None = None,
    outdated: Collection[str] = (),
    sources: tuple[Source, ...] = SEARCHED,
) -> QueriedFront:
    """The front of a study's candidates for the objectives and constraints of `problem`.

    Metrics that the study does not hold, and those that are `outdated`, are computed by `recompute`, for those
    candidates alone that can be on the front.
    """
    held = [name for name in problem.metrics if name in study.metrics and name not in outdated]
    table = study.table(held, sources=sources)
    missing = [name for name in problem.metrics if name not in table.metrics]
    metrics = dict(table.metrics)
    if missing:
        metrics |= _recomputed(table.genomes, _known(metrics, len(table.genomes)), missing, recompute)
    scores = problem.scores(metrics)
    front = on_front(scores.objectives, feasible=scores.feasible)
    return QueriedFront(genomes=table.genomes, metrics=metrics, scores=scores, front=front)


def _known(metrics: Metrics, count: int) -> Mask:
    """Candidates that have all the stored metrics."""
    known = np.ones(count, dtype=np.bool_)
    for estimate in metrics.values():
        known &= np.isfinite(estimate.mean)
    return known


def _recomputed(genomes: Genomes, wanted: Mask, missing: Sequence[str], recompute: Cheap | None) -> Metrics:
    if recompute is None:
        raise InputError("the study must hold every metric that is asked for", got=", ".join(missing))
    found = recompute(genomes[wanted])
    require_metrics(found, missing)
    return {name: _scattered(found[name], wanted) for name in missing}


def _scattered(estimate: Estimate, rows: Mask) -> Estimate:
    values = np.full((3, len(rows)), np.nan)
    values[:, rows] = estimate
    return Estimate(*values)
