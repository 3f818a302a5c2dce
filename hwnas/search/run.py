"""One search from beginning to end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.config import to_mapping
from hwnas.progress import SearchProgress
from hwnas.search.ledger import Budget, Candidates, Ledger, Stop
from hwnas.search.operators import generator, sample_levels
from hwnas.search.pareto import HypervolumeBounds, Mask, history, make_bounds, on_front
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.region import whole
from hwnas.search.strategies.strategy import Strategy
from hwnas.search.study import Study

_BOUNDS_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What a search found."""

    candidates: Candidates
    front: Mask
    """Which candidates are on the front."""
    evaluations: int
    stop: Stop | Literal["exhausted"]
    """Why it ended; exhausted: there was no network left to ask for."""
    bounds: HypervolumeBounds
    """The bounds in which hypervolume is stated."""
    history: list[tuple[int, float]]
    """Candidates after each generation and the hypervolume of their front."""

    @property
    def rows(self) -> NDArray[np.intp]:
        """The candidates on the front, by their first objective, best first."""
        rows = np.flatnonzero(self.front)
        return rows[np.argsort(self.candidates.scores.objectives[rows, 0], kind="stable")]


def run_search(
    problem: Problem,
    evaluators: Evaluators,
    *,
    strategy: Strategy,
    budget: Budget | None = None,
    seed: int = 0,
    study: Study | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> SearchOutcome:
    """Search, or go on with a search that was killed: what the study holds is not evaluated again."""
    bounds = reference_bounds(problem, evaluators)
    if study is not None:
        study.remember("bounds", to_mapping(bounds))
    ledger = Ledger(problem, evaluators, budget=budget or Budget(), study=study, bounds=bounds, on_progress=on_progress)
    strategy.run(ledger, seed=seed)
    candidates = ledger.candidates
    objectives, feasible = candidates.scores.objectives, candidates.scores.feasible
    return SearchOutcome(
        candidates=candidates,
        front=on_front(objectives, feasible=feasible),
        evaluations=ledger.evaluations,
        stop=ledger.stop or "exhausted",
        bounds=bounds,
        history=history(objectives, candidates.generations, bounds, feasible=feasible),
    )


def reference_bounds(problem: Problem, evaluators: Evaluators) -> HypervolumeBounds:
    """The bounds of a problem: the same for every strategy, seed and budget."""
    sample = sample_levels(whole(problem.space), generator(0, "box"), _BOUNDS_SAMPLE)
    return make_bounds(problem.objectives, evaluators.cheap(sample))
