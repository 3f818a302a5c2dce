"""ViT-ResNAS's evolution."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwnas.search.operators import crossover, resampled
from hwnas.search.region import Region, gene_counts
from hwnas.search.strategies.evolution import Evolution
from hwnas.search.strategies.strategy import require_shares
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class ResNasEvolution(Evolution):
    """500 networks, then 19 generations of 75 mutations and 75 crossovers of the 75 best, inside a window of MACs.

    The first networks are drawn by rejection, not by shrinking large ones as in the published code.
    """

    initial: int = 500
    parents: int = 75
    mutations: int = 75
    crossovers: int = 75
    generations: int = 19
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.975
    rate: float = 0.3
    """Probability that a gene is drawn anew; one of two choices changes to the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "rate")

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Every gene at the same rate."""
        # Drawing one of two choices changes half of them: at twice the rate, as many change as flipping would.
        flips = np.array([dimension.name == "exists" for dimension in region.space.dimensions])
        rates = np.where(flips & (gene_counts(region.space) == 2), min(2 * self.rate, 1.0), self.rate)
        return resampled(parents, region, rng, rates=rates)

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Each gene from either parent."""
        return region.keep(crossover(first, second, region, rng, whole_parts=0.0), first)
