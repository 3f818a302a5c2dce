"""The evolutionary searches of the four published systems: AutoFormer, GLiT, ViTAS and ViT-ResNAS."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.mutation.pm import mut_pm

from hwnas.errors import InputError
from hwnas.search.ledger import Ledger
from hwnas.search.operators import completed, crossover, generator, ordinal_genes, redrawn, resampled
from hwnas.search.region import Region, all_but, gene_counts, only, used_genes
from hwnas.search.strategies.evolution import Evolution, Window
from hwnas.search.strategies.strategy import require_counts, require_shares
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
