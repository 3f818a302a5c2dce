"""NSGA-II (Deb et al., 2002) with an ask-and-tell interface, pymoo's ranking and crowding, and operators of spaces.

pymoo's populations are lists of Python objects, which take most of the time where evaluations are free; a population
here is a set of arrays. `tests/search/test_engine.py` compares survival with that of pymoo.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.search.genome_set import GenomeSet, sample_unseen
from hwnas.search.operators import Variation
from hwnas.search.pareto import known_rows
from hwnas.search.problem import PopulationScores
from hwnas.search.region import Region
from hwnas.space.space import Genomes

Values = NDArray[np.float64]


class Population(NamedTuple):
    """Networks with their scores, row by row."""

    genomes: Genomes
    objectives: Values
    violation: Values
    """Mean violation of the constraints; 0: feasible."""
    rank: Values
    """The number of the front, 0 for the best; 0 for infeasible networks as well."""
    crowding: Values
    """Distance to the neighbours on the same front; 0 for infeasible networks."""

    def rows(self, index: NDArray[np.intp]) -> "Population":
        """Return some of the rows."""
        objectives, violation = self.objectives[index], self.violation[index]
        return Population(self.genomes[index], objectives, violation, self.rank[index], self.crowding[index])

    def concatenated(self, other: "Population") -> "Population":
        """Return the rows of both populations."""
        return Population(
            np.concatenate([self.genomes, other.genomes]),
            np.concatenate([self.objectives, other.objectives]),
            np.concatenate([self.violation, other.violation]),
            np.concatenate([self.rank, other.rank]),
            np.concatenate([self.crowding, other.crowding]),
        )


class Nsga2:
    """NSGA-II: `ask` for genomes that have not been seen, then `tell` their scores.

    It draws only from its own generator. Requested genomes are added to `seen`, which several engines may share.
    """

    def __init__(
        self,
        *,
        region: Region,
        initial: Genomes,
        variation: Variation,
        seen: GenomeSet,
        population: int,
        seed: int,
    ) -> None:
        self._region, self._variation, self._seen, self._size = region, variation, seen, population
        self._rng = np.random.default_rng(seed)
        self._requested = initial
        self._alive: Population | None = None

    def ask(self) -> Genomes:
        """Return the next generation; it is empty when the region has no unseen networks left."""
        if self._alive is not None:
            self._requested = self._offspring(self._alive)
        self._seen.add(self._requested)
        return self._requested

    def tell(self, scores: PopulationScores) -> None:
        """Take the scores of the last generation, row by row; of its first networks, if a budget ended within it."""
        self._requested = self._requested[: len(scores.objectives)]
        known = known_rows(scores.objectives)
        # An unknown value counts as a violation, so that any network with values beats it.
        unknown = np.where(known, 0.0, 1.0)[:, None]
        violations = np.maximum(np.concatenate([scores.violations, unknown], axis=1), 0.0)
        zeros = np.zeros(len(self._requested))
        objectives = np.where(known[:, None], scores.objectives, 0.0)
        evaluated = Population(self._requested, objectives, violations.mean(axis=1), zeros, zeros.copy())
        if self._alive is None:
            self._alive = survivors(evaluated, len(evaluated.genomes), self._rng)
        else:
            self._alive = survivors(self._alive.concatenated(evaluated), self._size, self._rng)

    @property
    def population(self) -> Genomes:
        """The genomes of the survivors."""
        return self._requested[:0] if self._alive is None else self._alive.genomes

    def _offspring(self, parents: Population) -> Genomes:
        """Return unseen children of the winners of binary tournaments."""
        order = _preference(parents)

        def make(count: int) -> Genomes:
            first, second = (_winners(order, count, self._rng) for _ in range(2))
            return self._variation.children(parents.genomes[first], parents.genomes[second], self._region, self._rng)

        return sample_unseen(make, self._size, seen=self._seen, region=self._region)


def survivors(population: Population, count: int, rng: np.random.Generator) -> Population:
    """Return the best `count` rows: front by front, of the last front the least crowded, then the least infeasible.

    Args:
        population: Networks with objectives and violations; rank and crowding are computed here.
        count: The most rows to return.
        rng: Breaks ties of crowding.
    """
    # Imported where it is used: records of searches are read by commands that need no search.
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    feasible, infeasible = (np.flatnonzero(mask) for mask in (population.violation <= 0, population.violation > 0))
    ranked = population.rows(feasible)
    rows: list[NDArray[np.intp]] = []
    left = min(count, len(feasible))
    for rank, front in enumerate(NonDominatedSorting().do(ranked.objectives, n_stop_if_ranked=left)):
        surplus = max(len(front) - left, 0)
        crowding = get_crowding_function("cd").do(ranked.objectives[front], n_remove=surplus)
        ranked.rank[front], ranked.crowding[front] = rank, crowding
        if surplus:
            front = front[_least_crowded_first(crowding, rng)[:-surplus]]
        rows.append(front)
        left -= len(front)
    kept = ranked.rows(np.concatenate([np.zeros(0, dtype=np.intp), *rows]))
    least = infeasible[np.argsort(population.violation[infeasible], kind="stable")][: count - len(kept.genomes)]
    return kept.concatenated(population.rows(least))


def _least_crowded_first(crowding: Values, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the rows from the least crowded on, equally crowded ones in drawn order."""
    drawn = rng.permutation(len(crowding))
    # As in pymoo, but stably sorted: numpy's quicksort orders equal values differently on different CPUs.
    order: NDArray[np.intp] = drawn[np.argsort(crowding[drawn], kind="stable")][::-1]
    return order


def _preference(population: Population) -> NDArray[np.intp]:
    """Return the position of each row when all are ordered by violation, then rank, then crowding."""
    positions = np.empty(len(population.genomes), dtype=np.intp)
    order = np.lexsort([-population.crowding, population.rank, population.violation])
    positions[order] = np.arange(len(positions))
    return positions


def _winners(positions: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    pairs = rng.integers(0, len(positions), size=(count, 2))
    better = np.argmin(positions[pairs], axis=1)
    winners: NDArray[np.intp] = pairs[np.arange(count), better]
    return winners
