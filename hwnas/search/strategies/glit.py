"""GLiT's evolution: the distribution of local and global blocks first, then the details of each block."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwnas.search.draws import generator
from hwnas.search.ledger import Ledger
from hwnas.search.operators import crossover, resampled
from hwnas.search.region import Region, all_but, only
from hwnas.search.strategies.evolution import Evolution, Window
from hwnas.search.strategies.strategy import require_counts, require_shares
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class GlitEvolution(Evolution):
    """On each level 50 networks, then 9 generations of 25 mutations and 25 crossovers of the 10 best: 1,000 in all.

    On the first level all details have their middle choice. The `carried` best distributions go on to the second,
    where they stand still.
    """

    initial: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    generations: int = 9
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.0
    rate: float = 0.1
    """Probability that a gene is drawn anew."""
    first_level: tuple[str, ...] = ("groups",)
    """Dimensions of the first level."""
    first_share: float = 0.5
    """Share of the budget that the first level gets."""
    carried: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "carried")
        require_shares(self, "rate", "first_share")

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Search every window, each on both levels."""
        first = only(ledger.problem.space, self.first_level)
        windows = self.windows_of(ledger)
        for index, window in enumerate(windows):
            until = ledger.left - ledger.left // (len(windows) - index)
            between = ledger.left - round(self.first_share * (ledger.left - until))
            rng = generator(seed, "distribution", index)
            best = self.search(ledger, first, window, rng=rng, until=between).genomes[: self.carried]
            self._detail(ledger, best, window, seed=seed, index=index, until=until)

    def _detail(self, ledger: Ledger, best: Genomes, window: Window, *, seed: int, index: int, until: int) -> None:
        # Where no distribution fits the window with middle details, details are searched in all of them.
        second = all_but(ledger.problem.space, self.first_level if len(best) else (), bases=best)
        self.search(ledger, second, window, rng=generator(seed, "detail", index), until=until)

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Every gene at the same rate."""
        return resampled(parents, region, rng, rates=np.full(parents.shape[1], self.rate))

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Each gene from either parent."""
        return region.keep(crossover(first, second, region, rng, whole_parts=0.0), first)
