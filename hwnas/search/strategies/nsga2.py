"""NSGA-II on the true values of everything that it asks for."""

from dataclasses import dataclass, field

from hwnas.search.draws import derived_seed, generator
from hwnas.search.engine import Nsga2
from hwnas.search.ledger import Ledger
from hwnas.search.operators import Variation
from hwnas.search.region import Region, whole
from hwnas.search.strategies.strategy import Strategy, first_population, require_counts
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class Nsga2Search(Strategy):
    """NSGA-II with constraint domination and operators that know what genes mean."""

    population: int | None = None
    """None: a twentieth of the budget, between 20 and 100."""
    pool: int = 10
    """Draws for each member of the first population, of which those with evenly spread MACs are taken."""
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        require_counts(self, "population", "pool")

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Evolve until the budget is spent."""
        self.evolve(ledger, whole(ledger.problem.space), seed=derived_seed(seed, "nsga2"))

    def evolve(self, ledger: Ledger, region: Region, *, seed: int, until: int = 0) -> None:
        """Evolve in a region until the ledger has no more than `until` evaluations left."""
        population = self.population or min(max((ledger.left - until) // 20, 20), 100)
        rng = generator(seed, "first population")
        initial = first_population(ledger, region, count=population, pool=self.pool, rng=rng)
        if len(initial):
            self._generations(ledger, region, initial, population=population, seed=seed, until=until)

    def _generations(
        self, ledger: Ledger, region: Region, initial: Genomes, *, population: int, seed: int, until: int
    ) -> None:
        engine = Nsga2(
            region=region,
            initial=initial,
            variation=self.variation,
            seen=ledger.seen,
            population=population,
            seed=derived_seed(seed, "engine"),
        )
        while ledger.left > until and len(genomes := engine.ask()):
            asked = ledger.evaluate(genomes)
            if ledger.left > until:
                engine.tell(asked.scores)
