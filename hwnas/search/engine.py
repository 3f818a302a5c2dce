"""NSGA-II: pymoo's ranking and crowding, our sampling and variation, driven by ask and tell.

pymoo's own populations are Python objects, which cost more than all else where evaluations are free; here a population
is arrays. `tests/search/test_engine.py` holds survival against pymoo's.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from hwnas.search.operators import Variation
from hwnas.search.pareto import known_rows
from hwnas.search.problem import Scores
from hwnas.search.region import Region
from hwnas.search.seen import Seen, unseen
from hwnas.space.space import Genomes

Values = NDArray[np.float64]


class Population(NamedTuple):
    """Networks with their scores, row by row."""

    genomes: Genomes
    objectives: Values
    violation: Values
    """Mean of what the constraints are violated by; 0: feasible."""
    rank: Values
    """The number of the front, 0 the best; 0 of those that are infeasible too."""
    crowding: Values
    """Distance to the neighbours on the same front; 0 of the infeasible."""

    def rows(self, index: NDArray[np.intp]) -> "Population":
        """Some of the rows."""
        objectives, violation = self.objectives[index], self.violation[index]
        return Population(self.genomes[index], objectives, violation, self.rank[index], self.crowding[index])

    def beside(self, other: "Population") -> "Population":
        """The rows of both."""
        return Population(
            np.concatenate([self.genomes, other.genomes]),
            np.concatenate([self.objectives, other.objectives]),
            np.concatenate([self.violation, other.violation]),
            np.concatenate([self.rank, other.rank]),
            np.concatenate([self.crowding, other.crowding]),
        )


class Nsga2:
    """One NSGA-II: `ask` for genomes that nobody has seen, `tell` what they scored.

    It draws only from its own generator. What it asks for is seen from then on, in `seen`, which several engines of a
    study may share.
    """

    def __init__(
        self,
        *,
        region: Region,
        initial: Genomes,
        variation: Variation,
        seen: Seen,
        population: int,
        seed: int,
    ) -> None:
        self._region, self._variation, self._seen, self._size = region, variation, seen, population
        self._rng = np.random.default_rng(seed)
        self._asked = initial
        self._alive: Population | None = None

    def ask(self) -> Genomes:
        """The next generation; it is empty where the region has no unseen networks left."""
        if self._alive is not None:
            self._asked = self._offspring(self._alive)
        self._seen.add(self._asked)
        return self._asked

    def tell(self, scores: Scores) -> None:
        """The scores of what was asked for last, row by row."""
        told = _told(self._asked, scores)
        if self._alive is None:
            self._alive = survivors(told, len(told.genomes), self._rng)
        else:
            self._alive = survivors(self._alive.beside(told), self._size, self._rng)

    @property
    def population(self) -> Genomes:
        """The survivors."""
        return self._asked[:0] if self._alive is None else self._alive.genomes

    def _offspring(self, parents: Population) -> Genomes:
        """Children of binary tournaments, none of them seen before."""
        order = _preference(parents)

        def make(count: int) -> Genomes:
            first, second = (_winners(order, count, self._rng) for _ in range(2))
            return self._variation.children(parents.genomes[first], parents.genomes[second], self._region, self._rng)

        return unseen(make, self._size, seen=self._seen, region=self._region)


def survivors(population: Population, count: int, rng: np.random.Generator) -> Population:
    """At most `count` rows: front after front, of the last one the least crowded, then the infeasible, best first."""
    feasible, infeasible = (np.flatnonzero(mask) for mask in (population.violation <= 0, population.violation > 0))
    ranked = population.rows(feasible)
    rows: list[NDArray[np.intp]] = []
    left = min(count, len(feasible))
    for rank, front in enumerate(NonDominatedSorting().do(ranked.objectives, n_stop_if_ranked=left)):
        surplus = max(len(front) - left, 0)
        crowding = get_crowding_function("cd").do(ranked.objectives[front], n_remove=surplus)
        ranked.rank[front], ranked.crowding[front] = rank, crowding
        if surplus:
            front = front[_least_crowded(crowding, rng)[:-surplus]]
        rows.append(front)
        left -= len(front)
    kept = ranked.rows(np.concatenate([np.zeros(0, dtype=np.intp), *rows]))
    least = infeasible[np.argsort(population.violation[infeasible], kind="stable")][: count - len(kept.genomes)]
    return kept.beside(population.rows(least))


def _least_crowded(crowding: Values, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows from the least crowded on, those that are equally so in drawn order.

    It is pymoo's order but for the sort, which is stable: numpy's quicksort orders equals otherwise on every kind of
    CPU.
    """
    drawn = rng.permutation(len(crowding))
    order: NDArray[np.intp] = drawn[np.argsort(crowding[drawn], kind="stable")][::-1]
    return order


def _told(genomes: Genomes, scores: Scores) -> Population:
    known = known_rows(scores.objectives)
    # A value that could not be had counts as a violation: it is beaten by whatever has values.
    unknown = np.where(known, 0.0, 1.0)[:, None]
    violations = np.maximum(np.concatenate([scores.violations, unknown], axis=1), 0.0)
    nothing = np.zeros(len(genomes))
    objectives = np.where(known[:, None], scores.objectives, 0.0)
    return Population(genomes, objectives, violations.mean(axis=1), nothing, nothing.copy())


def _preference(population: Population) -> NDArray[np.intp]:
    """The place of each row when all are ordered by violation, then rank, then crowding."""
    places = np.empty(len(population.genomes), dtype=np.intp)
    order = np.lexsort([-population.crowding, population.rank, population.violation])
    places[order] = np.arange(len(places))
    return places


def _winners(places: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    pairs = rng.integers(0, len(places), size=(count, 2))
    better = np.argmin(places[pairs], axis=1)
    winners: NDArray[np.intp] = pairs[np.arange(count), better]
    return winners
