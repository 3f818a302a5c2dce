"""AutoFormer's evolution."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.search.operators import crossover, resampled
from hwnas.search.region import Region, used_genes
from hwnas.search.strategies.evolution import Evolution
from hwnas.search.strategies.strategy import require_shares
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class AutoFormerEvolution(Evolution):
    """50 networks, then 20 generations of 25 mutations and 25 crossovers of the 10 best, inside a window of params.

    The published code evaluates the last generation without ranking it; here it counts. Its windows are given on the
    command line; the default share is that of the authors' window for the base model, 52 to 54 million.
    """

    initial: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    generations: int = 20
    cost: Literal["macs", "params"] = "params"
    share: float = 0.96
    network_rate: float = 0.4
    """Probability that depth or a width of the network is drawn anew."""
    block_rate: float = 0.2
    """Probability that a choice of a block is drawn anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "network_rate", "block_rate")

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Genes of the network and of blocks drawn anew, each kind at its own rate."""
        scopes = [dimension.scope for dimension in region.space.dimensions]
        rates = np.array([self.block_rate if scope == "block" else self.network_rate for scope in scopes])
        return resampled(parents, region, rng, rates=rates)

    def mates(self, parents: Genomes, first: NDArray[np.intp], region: Region, rng: np.random.Generator) -> Genomes:
        """Parents of the same depth: those with the same blocks."""
        _, shapes = np.unique(used_genes(region.space, parents), axis=0, return_inverse=True)
        alike = shapes.ravel()[first][:, None] == shapes.ravel()[None, :]
        chances = np.where(alike, rng.random(alike.shape), -1.0)
        mates: Genomes = parents[chances.argmax(axis=1)]
        return mates

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Each gene from either parent."""
        return region.keep(crossover(first, second, region, rng, whole_parts=0.0), first)
