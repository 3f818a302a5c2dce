"""ViTAS's evolution."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.mutation.pm import mut_pm

from hwnas.errors import InputError
from hwnas.search.operators import completed, ordinal_genes, redrawn
from hwnas.search.region import Region, gene_counts
from hwnas.search.strategies.evolution import Evolution
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class VitasEvolution(Evolution):
    """50 networks, then 39 generations of 50 children of tournaments among the 50 best, inside a band of MACs.

    Two-point crossover always, then polynomial mutation of one gene in the mean. Two departures: categorical genes are
    redrawn rather than moved, and children outside the band are made again rather than dropped.
    """

    initial: int = 50
    parents: int = 50
    mutations: int = 0
    crossovers: int = 50
    generations: int = 39
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.9
    eta: float = 3.0
    """Distribution index of the polynomial mutation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta <= 0:
            raise InputError("eta of the strategy must be above 0", got=self.eta)

    def picked(self, parents: Genomes, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """The better of two drawn parents; they are sorted, best first."""
        rows: NDArray[np.intp] = rng.integers(0, len(parents), size=(count, 2)).min(axis=1)
        return rows

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Polynomial steps of ordinal genes, other choices of categorical ones, one gene in the mean."""
        full = completed(parents, region, rng)
        return region.keep(self._moved(full, region, rng), parents)

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """A stretch of genes from the second parent, the rest from the first, then mutation."""
        width = first.shape[1]
        ends = np.sort(rng.integers(0, width + 1, size=(len(first), 2)), axis=1)
        columns = np.arange(width)
        stretch = (columns >= ends[:, :1]) & (columns < ends[:, 1:])
        child = np.where(stretch, completed(second, region, rng), completed(first, region, rng))
        return region.keep(self._moved(child, region, rng), first)

    def _moved(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        rows, width = genomes.shape
        top = (gene_counts(region.space) - 1).astype(np.float64)
        values = mut_pm(
            genomes.astype(np.float64),
            np.zeros(width),
            top,
            np.full(rows, self.eta),
            np.full(rows, 1 / width),
            False,
            random_state=rng,
        )
        steps = np.rint(values).astype(np.int16)
        others = np.where(rng.random(genomes.shape) < 1 / width, redrawn(genomes, region, rng), genomes)
        return np.where(ordinal_genes(region.space), steps, others)
