"""NSGA-II on evaluated networks: on all dimensions at once, or on two levels, layout first and details second."""

from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import InputError
from hwnas.search.engine import Nsga2
from hwnas.search.ledger import EvaluatedCandidates, SearchLedger
from hwnas.search.operators import Variation, derived_seed, generator, spread_over
from hwnas.search.pareto import on_front
from hwnas.search.region import Region, full_region, region_of, region_without
from hwnas.search.strategies.strategy import SearchStrategy, first_population, require_counts, require_shares
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class Nsga2Search(SearchStrategy):
    """NSGA-II with constraint domination and operators that are aware of what genes mean."""

    population: int | None = None
    """None: a twentieth of the budget, between 20 and 100."""
    pool: int = 10
    """Draws for each network of the first population, of which those with the most evenly spread MACs are taken."""
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        require_counts(self, "population", "pool")

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Evolve until the budget is spent."""
        self.evolve(ledger, full_region(ledger.problem.space), seed=derived_seed(seed, "nsga2"))

    def evolve(self, ledger: SearchLedger, region: Region, *, seed: int, until: int = 0) -> None:
        """Evolve in a region until the ledger has no more than `until` evaluations left."""
        population = self.population or min(max((ledger.left - until) // 20, 20), 100)
        rng = generator(seed, "first population")
        initial = first_population(ledger, region, count=population, pool=self.pool, rng=rng)
        if not len(initial):
            return
        engine = Nsga2(
            region=region,
            initial=initial,
            variation=self.variation,
            seen=ledger.seen,
            population=population,
            seed=derived_seed(seed, "engine"),
        )
        while ledger.left > until and len(genomes := engine.ask()):
            evaluated = ledger.evaluate(genomes)
            if ledger.left > until:
                engine.tell(evaluated.scores)


@dataclass(frozen=True, kw_only=True)
class HierarchicalSearch(SearchStrategy):
    """NSGA-II on the dimensions of the first level with all others at their middle choice, then on the others.

    The `carried` best layouts of the first level, front by front, are the fixed genes of the second level.
    """

    first_level: tuple[str, ...] = ("groups",)
    """Dimensions of the first level, by default those of GLiT."""
    first_share: float = 0.4
    """Share of the budget for the first level."""
    carried: int = 20
    nsga2: Nsga2Search = field(default_factory=Nsga2Search)

    def __post_init__(self) -> None:
        require_counts(self, "carried")
        require_shares(self, "first_share")
        if not self.first_level:
            raise InputError("the first level must have at least one dimension", got="none")

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Search the first level, then the second with the rest of the budget."""
        space = ledger.problem.space
        until = ledger.left - max(round(self.first_share * ledger.left), 1)
        first = region_of(space, self.first_level)
        self.nsga2.evolve(ledger, first, seed=derived_seed(seed, "first level"), until=until)
        layouts = self._best(ledger.candidates, rng=generator(seed, "carried"))
        # If no layout is feasible with middle details, the second level searches everything.
        second = region_without(space, self.first_level, bases=layouts) if len(layouts) else full_region(space)
        self.nsga2.evolve(ledger, second, seed=derived_seed(seed, "second level"))

    def _best(self, candidates: EvaluatedCandidates, *, rng: np.random.Generator) -> Genomes:
        objectives = np.where(candidates.scores.feasible[:, None], candidates.scores.objectives, np.nan)
        chosen: list[int] = []
        while len(chosen) < self.carried and np.isfinite(objectives).any():
            front = np.flatnonzero(on_front(objectives))
            spread = spread_over(objectives[front, 0], self.carried - len(chosen), rng)
            chosen.extend(front[spread].tolist())
            objectives[front] = np.nan
        return candidates.genomes[chosen]
