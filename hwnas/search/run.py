"""A search from beginning to end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.config import to_mapping
from hwnas.progress import SearchProgress
from hwnas.search.ledger import Budget, EvaluatedCandidates, SearchLedger, StopReason
from hwnas.search.operators import generator, sample_levels
from hwnas.search.pareto import HypervolumeBounds, Mask, hypervolume_history, make_bounds, on_front, ranked_front
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.region import full_region
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.search.study import Study

_BOUNDS_SAMPLE = 1000
"""Networks that the bounds of a hypervolume are taken from."""


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """The candidates of a search that has ended, and its front."""

    candidates: EvaluatedCandidates
    front: Mask
    evaluations: int
    stop: StopReason | Literal["exhausted"]
    """Why it ended; exhausted: the space has no more networks."""
    bounds: HypervolumeBounds
    history: list[tuple[int, float]]
    """The number of candidates and the hypervolume of their front, after each generation."""

    @property
    def rows(self) -> NDArray[np.intp]:
        """The candidates on the front, the best of the first objective first."""
        return ranked_front(self.candidates.scores.objectives, self.front)


def run_search(
    problem: Problem,
    evaluators: Evaluators,
    *,
    strategy: SearchStrategy,
    budget: Budget | None = None,
    seed: int = 0,
    study: Study | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> SearchOutcome:
    """Run a search, or resume one that was killed: values in the study are not evaluated again.

    Args:
        problem: What is optimised.
        evaluators: The functions that evaluate networks.
        strategy: Which networks to evaluate next.
        budget: When to stop; None: after 500 evaluations.
        seed: Seed of every random draw; a search with the same arguments gives the same candidates.
        study: Where candidates and values are stored; None: only in memory.
        on_progress: Called after each generation.

    Raises:
        InputError: An evaluator is missing, or the strategy does not suit the problem.
    """
    bounds = reference_bounds(problem, evaluators)
    if study is not None:
        study.remember("bounds", to_mapping(bounds))
    ledger = SearchLedger(
        problem, evaluators, budget=budget or Budget(), study=study, bounds=bounds, on_progress=on_progress
    )
    strategy.run(ledger, seed=seed)
    candidates = ledger.candidates
    objectives, feasible = candidates.scores.objectives, candidates.scores.feasible
    return SearchOutcome(
        candidates=candidates,
        front=on_front(objectives, feasible=feasible),
        evaluations=ledger.evaluations,
        stop=ledger.stop or "exhausted",
        bounds=bounds,
        history=hypervolume_history(objectives, candidates.generations, bounds, feasible=feasible),
    )


def reference_bounds(problem: Problem, evaluators: Evaluators) -> HypervolumeBounds:
    """Return the bounds of a problem's hypervolume, the same for every strategy, seed and budget."""
    # "box" is part of the random stream: another word would draw another sample.
    sample = sample_levels(full_region(problem.space), generator(0, "box"), _BOUNDS_SAMPLE)
    quantities = [objective.metric.quantity for objective in problem.objectives]
    num_classes = problem.space.config.num_classes
    largest = {item.name: item.uninformed(num_classes) for item in quantities if item.uninformed is not None}
    return make_bounds(problem.objectives, evaluators.cheap(sample), largest=largest)
