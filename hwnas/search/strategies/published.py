"""The evolutionary searches of four published systems: AutoFormer, GLiT, ViTAS and ViT-ResNAS."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwnas.errors import InputError
from hwnas.search.ledger import SearchLedger
from hwnas.search.operators import completed, generator, ordinal_genes, redrawn, resampled
from hwnas.search.region import Region, gene_counts, region_of, region_without
from hwnas.search.strategies.evolution import Evolution, Window, WindowSearch
from hwnas.search.strategies.strategy import require_counts, require_shares
from hwnas.space.space import Genomes

_INNER_STEPS = 100
"""Steps after which ViT-ResNAS narrows stages and removes blocks as well."""


@dataclass(frozen=True, kw_only=True)
class AutoFormerEvolution(Evolution):
    """50 networks, then 20 generations of 25 mutations and 25 crossovers of the 10 best, within a window of parameters.

    Random networks take the places of children that ten draws each do not find. The published code evaluates the last
    generation without ranking it; here it counts. Its windows are given on the command line; the default share is that
    of the authors' window for the base model, 52 to 54 million.
    """

    initial: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    generations: int = 20
    cost: Literal["macs", "params"] = "params"
    share: float = 0.96
    tries: int = 10
    filled: bool = True
    network_rate: float = 0.4
    """Probability that depth or a width of the network is redrawn."""
    block_rate: float = 0.2
    """Probability that a choice of a block is redrawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "network_rate", "block_rate")

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Redraw genes of the network and of blocks, each kind at its own rate."""
        scopes = [dimension.scope for dimension in region.space.dimensions]
        rates = np.array([self.block_rate if scope == "block" else self.network_rate for scope in scopes])
        return resampled(parents, region, rng, rates=rates)

    def pick_pairs(
        self, parents: Genomes, count: int, region: Region, rng: np.random.Generator
    ) -> tuple[Genomes, Genomes]:
        """Choose two parents of the same depth, all such pairs with equal probability."""
        _, depths = np.unique(region.space.used(parents), axis=0, return_inverse=True)
        order, sizes = np.argsort(depths.ravel(), kind="stable"), np.bincount(depths.ravel())
        depth = rng.choice(len(sizes), size=count, p=sizes**2 / (sizes**2).sum())
        rows = (np.cumsum(sizes) - sizes)[depth] + rng.integers(0, sizes[depth], size=(2, count))
        return parents[order[rows[0]]], parents[order[rows[1]]]


@dataclass(frozen=True, kw_only=True)
class GlitEvolution(Evolution):
    """On each level 50 networks, then 9 generations of 25 mutations and 25 crossovers of the 10 best: 1,000 in all.

    On the first level all details have their middle choice. The `carried` best distributions are the fixed genes of the
    second level.
    """

    initial: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    generations: int = 9
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.0
    tries: int = 10
    filled: bool = True
    rate: float = 0.1
    """Probability that a gene is redrawn."""
    first_level: tuple[str, ...] = ("groups",)
    """Dimensions of the first level."""
    first_share: float = 0.5
    """Share of the budget for the first level."""
    carried: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "carried")
        require_shares(self, "rate", "first_share")

    @property
    def turn(self) -> int:
        """Evaluations of a window before the next one has its turn: those of both levels."""
        return 2 * self.published

    def begin(self, ledger: SearchLedger, window: Window, *, seed: int, index: int, evaluations: int) -> WindowSearch:
        """Search one window on both levels, and return the search of the second.

        A level without choices, as in the spaces of one level, leaves its share to the other.
        """
        space, before = ledger.problem.space, ledger.evaluations
        region, rng = region_of(space, self.first_level), generator(seed, "distribution", index)
        has_choices = gene_counts(space) > 1
        is_only = not has_choices[~region.free].any()
        first_share = self.first_share if has_choices[region.free].any() else 0.0
        share = evaluations if is_only else round(first_share * evaluations)
        first = WindowSearch(self, ledger, region=region, window=window, rng=rng, evaluations=share)
        first.run(share)
        if is_only:
            return first
        best = first.ranking.genomes[: self.carried]
        rest = evaluations - (ledger.evaluations - before)
        # If no distribution fits the window with middle details, the second level searches everything.
        region = region_without(space, self.first_level if len(best) else (), bases=best)
        rng = generator(seed, "detail", index)
        second = WindowSearch(self, ledger, region=region, window=window, rng=rng, evaluations=rest)
        second.run(rest)
        return second

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Redraw every gene at the same rate."""
        return resampled(parents, region, rng, rates=np.full(parents.shape[1], self.rate))


@dataclass(frozen=True, kw_only=True)
class VitasEvolution(Evolution):
    """50 networks, then 39 generations of 50 children of tournaments among the 50 best, within a band of MACs.

    Every child is a two-point crossover, followed by polynomial mutation of one gene on average. Two departures from
    the published code: categorical genes are redrawn rather than moved, and children outside the band are replaced.
    """

    initial: int = 50
    parents: int = 50
    mutations: int = 0
    crossovers: int = 50
    generations: int = 39
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.9
    tries: int = 100
    filled: bool = False
    eta: float = 3.0
    """Distribution index of the polynomial mutation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta <= 0:
            raise InputError("eta of the strategy must be above 0", got=self.eta)

    def pick_parents(self, parents: Genomes, count: int, rng: np.random.Generator) -> Genomes:
        """Choose the better of two drawn parents, which are sorted best first; all are drawn equally often."""
        rounds = -(-2 * count // len(parents))
        order = rng.permuted(np.tile(np.arange(len(parents)), (rounds, 1)), axis=1).ravel()[: 2 * count]
        better: Genomes = parents[order.reshape(count, 2).min(axis=1)]
        return better

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Move ordinal genes by polynomial steps and redraw categorical ones, one gene on average."""
        full = completed(parents, region, rng)
        return region.keep(self._moved(full, region, rng), parents)

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Take a stretch of genes from the second parent and the rest from the first, then mutate."""
        width = first.shape[1]
        # Two different points between genes, all pairs of them equally often.
        points = rng.random((len(first), max(width - 1, 1))).argsort(axis=1)[:, :2] + 1
        columns = np.arange(width)
        stretch = (columns >= points.min(axis=1)[:, None]) & (columns < points.max(axis=1)[:, None])
        child = np.where(stretch, completed(second, region, rng), completed(first, region, rng))
        return region.keep(self._moved(child, region, rng), first)

    def _moved(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        from pymoo.operators.mutation.pm import mut_pm

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
    """500 networks, then 19 generations of 75 mutations and 75 crossovers of the 75 best, within a window of MACs.

    A random network is a wide one that is narrowed until it is in the window. The published code draws children until
    a generation is full; here a child has a thousand draws.
    """

    initial: int = 500
    parents: int = 75
    mutations: int = 75
    crossovers: int = 75
    generations: int = 19
    cost: Literal["macs", "params"] = "macs"
    share: float = 0.975
    tries: int = 1000
    filled: bool = False
    random_tries: int = 100
    rate: float = 0.3
    """Probability that a gene is redrawn; one of two choices is flipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "rate")

    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Redraw every gene at the same rate."""
        # A redrawn gene of two choices changes only half of the time: twice the rate changes as many as flipping would.
        flips = np.array([dimension.name == "exists" for dimension in region.space.dimensions])
        rates = np.where(flips & (gene_counts(region.space) == 2), min(2 * self.rate, 1.0), self.rate)
        return resampled(parents, region, rng, rates=rates)

    def random_networks(self, count: int, region: Region, window: Window, rng: np.random.Generator) -> Genomes:
        """Draw widths of stages and blocks, then narrow the widest heads and MLPs one by one until the cost fits."""
        dimensions, top = region.space.dimensions, gene_counts(region.space) - 1
        inner = np.array([dimension.scope == "block" and dimension.name != "exists" for dimension in dimensions])
        drawn = region.sample(rng, count)
        genomes = region.keep(np.where(inner & region.free, top, drawn), drawn)
        over = np.arange(count)
        for step in range(int(top.sum())):
            over = over[getattr(region.space.costs(genomes[over]), self.cost) > window.high]
            if not len(over):
                break
            narrowable = (genomes[over] > 0) & region.free & ordinal_genes(region.space)
            if step < _INNER_STEPS:
                narrowable &= inner
            chosen = np.where(narrowable, rng.random(narrowable.shape), -1.0).argmax(axis=1)
            narrowed = genomes[over] - (narrowable & (np.arange(len(top)) == chosen[:, None]))
            genomes[over] = region.keep(narrowed, genomes[over])
        return genomes
