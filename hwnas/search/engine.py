"""NSGA-II: pymoo's selection and survival, our sampling and variation, driven by ask and tell."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.infill import InfillCriterion
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination

from hwnas.search.front import known_rows
from hwnas.search.operators import Variation
from hwnas.search.problem import Scores
from hwnas.search.region import Region
from hwnas.search.seen import Seen, unseen
from hwnas.space.space import Genomes


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
        objectives: int,
        constraints: int,
        seed: int,
    ) -> None:
        self._seen = seen
        self._algorithm = NSGA2(
            pop_size=population,
            sampling=initial,
            mating=_Mating(region=region, variation=variation, seen=seen),
            eliminate_duplicates=False,
            seed=seed,
        )
        self._algorithm.termination = NoTermination()
        width = initial.shape[1]
        # The last constraint says whether every value is known.
        self._algorithm.setup(PymooProblem(n_var=width, n_obj=objectives, n_ieq_constr=constraints + 1, xl=0, xu=1))
        self._asked: Any = None

    def ask(self) -> Genomes:
        """The next generation; it is empty where the region has no unseen networks left."""
        self._asked = self._algorithm.ask()
        if self._asked is None:
            return np.zeros((0, self._algorithm.problem.n_var), dtype=np.int16)
        genomes = _genomes(self._asked)
        self._seen.add(genomes)
        return genomes

    def tell(self, scores: Scores) -> None:
        """The scores of what was asked for last, row by row."""
        known = known_rows(scores.objectives)
        # A value that could not be had counts as a violation: it is beaten by whatever has values.
        unknown = np.where(known, 0.0, 1.0)[:, None]
        self._asked.set("F", np.where(known[:, None], scores.objectives, 0.0))
        self._asked.set("G", np.concatenate([scores.violations, unknown], axis=1))
        self._algorithm.tell(infills=self._asked)

    @property
    def population(self) -> Genomes:
        """The survivors."""
        return _genomes(self._algorithm.pop)


class _Mating(InfillCriterion):  # type: ignore[misc]
    """Offspring of binary tournaments, none of them seen before."""

    def __init__(self, *, region: Region, variation: Variation, seen: Seen) -> None:
        super().__init__()
        self._region, self._variation, self._seen = region, variation, seen

    def do(self, problem: Any, pop: Any, n_offsprings: int, random_state: Any = None, **kwargs: Any) -> Any:
        genomes = _genomes(pop)
        violation, rank, crowding = (np.asarray(values, float) for values in pop.get("CV", "rank", "crowding"))
        order = _preference(violation.reshape(len(pop)), _numbers(rank), _numbers(crowding))

        def make(count: int) -> Genomes:
            first, second = (_winners(order, count, random_state) for _ in range(2))
            return self._variation.children(genomes[first], genomes[second], self._region, random_state)

        return Population.new("X", unseen(make, n_offsprings, seen=self._seen, region=self._region))


def _numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks and crowding, which infeasible rows do not have."""
    return np.where(np.isnan(values), 0.0, values)


def _preference(violation: Any, rank: Any, crowding: Any) -> NDArray[np.intp]:
    """The place of each row when all are ordered by violation, then rank, then crowding."""
    places = np.empty(len(violation), dtype=np.intp)
    places[np.lexsort([-crowding, rank, violation])] = np.arange(len(violation))
    return places


def _winners(places: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    pairs = rng.integers(0, len(places), size=(count, 2))
    better = np.argmin(places[pairs], axis=1)
    winners: NDArray[np.intp] = pairs[np.arange(count), better]
    return winners


def _genomes(population: Any) -> Genomes:
    genomes: Genomes = population.get("X").astype(np.int16)
    return genomes
