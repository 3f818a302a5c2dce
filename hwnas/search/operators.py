"""Making new networks of old ones: sampling, crossover and mutation that know what genes mean.

Everything works on whole populations and returns canonical genomes.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.region import Region, gene_counts, used_genes
from hwnas.space.space import AnySpace, Genomes, Mask


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How children differ from their parents."""

    crossover: float = 0.95
    """Share of children with two parents."""
    whole_parts: float = 0.5
    """Share of crossovers that take blocks and stages as wholes; the others choose gene by gene."""
    mutants: float = 0.3
    """Share of children in which genes change; the others are what crossover makes of their parents."""
    mutations: float = 0.0
    """Mean number of genes that change in such a child beyond the first."""
    redraw: float = 0.1
    """Share of changes of an ordinal gene that draw any choice; the others move by steps."""
    long_step: float = 0.0
    """Probability that a step is followed by another one in its direction."""

    def __post_init__(self) -> None:
        for name in ("crossover", "whole_parts", "mutants", "redraw", "long_step"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1", got=getattr(self, name))
        if self.long_step == 1 or self.mutations < 0:
            raise InputError("long_step must be below 1 and mutations at least 0", got=self)

    def children(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """One child of each pair of parents."""
        mates = np.where(rng.random(len(first))[:, None] < self.crossover, second, first)
        crossed = crossover(first, mates, region, rng, whole_parts=self.whole_parts)
        mutants = rng.random(len(first))[:, None] < self.mutants
        return region.keep(np.where(mutants, self.mutated(crossed, region, rng), crossed), first)

    def mutated(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Rows with some of their genes changed, at least one that is used; not canonical."""
        changed = self._where(genomes, region, rng)
        moved = np.where(ordinal_genes(region.space), self._moved(genomes, region, rng), redrawn(genomes, region, rng))
        return np.where(changed, moved, genomes).astype(np.int16)

    def _where(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Mask:
        movable = region.free & (gene_counts(region.space) > 1)
        able = used_genes(region.space, region.space.repair(genomes)) & movable
        draws = np.where(able, rng.random(genomes.shape), 2.0)
        share = self.mutations / np.maximum(able.sum(axis=1, keepdims=True), 1)
        changed: Mask = able & ((draws < share) | (draws == draws.min(axis=1, keepdims=True)))
        return changed

    def _moved(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        top = gene_counts(region.space) - 1
        length = rng.geometric(1 - self.long_step, size=genomes.shape)
        sign = np.where(rng.random(genomes.shape) < 0.5, -1, 1)
        sign = np.where(genomes == 0, 1, np.where(genomes == top, -1, sign))
        steps = np.clip(genomes + sign * length, 0, top)
        jumps = rng.random(genomes.shape) < self.redraw
        return np.where(jumps, redrawn(genomes, region, rng), steps).astype(np.int16)


def crossover(
    first: Genomes, second: Genomes, region: Region, rng: np.random.Generator, *, whole_parts: float
) -> Genomes:
    """Children that take each gene, or each block and stage as a whole, from either parent; not canonical.

    A gene that only one parent uses is that parent's: a block that the other one does not have has no values there.
    One that neither uses but the child might is drawn.
    """
    space = region.space
    whole_first = np.where(used_genes(space, first), first, completed(second, region, rng))
    whole_second = np.where(used_genes(space, second), second, whole_first)
    parts = _parts(space)
    by_part = (rng.random((len(first), parts.max() + 1)) < 0.5)[:, parts]
    by_gene = rng.random(first.shape) < 0.5
    chosen = np.where(rng.random((len(first), 1)) < whole_parts, by_part, by_gene)
    return np.where(chosen, whole_first, whole_second).astype(np.int16)


def completed(genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
    """Canonical genomes with a drawn value in every gene that they do not use."""
    drawn = rng.integers(0, gene_counts(region.space), size=genomes.shape, dtype=np.int16)
    return np.where(used_genes(region.space, genomes), genomes, drawn)


def resampled(genomes: Genomes, region: Region, rng: np.random.Generator, *, rates: NDArray[np.float64]) -> Genomes:
    """Canonical copies, each gene drawn anew with the probability of its column, as is a block that comes in."""
    full = completed(genomes, region, rng)
    drawn = rng.integers(0, gene_counts(region.space), size=genomes.shape, dtype=np.int16)
    return region.keep(np.where(rng.random(genomes.shape) < rates, drawn, full), genomes)


def sample_levels(region: Region, rng: np.random.Generator, count: int) -> Genomes:
    """Draw canonical genomes from small to large: the ordinal genes of a row are spread around one level of its own.

    A uniform draw of many genes is always of middle size; half of the rows here are uniform, half have a level.
    """
    counts = gene_counts(region.space)
    uniform = rng.random((count, len(counts)))
    level = rng.random((count, 1))
    spread = np.clip(level + rng.normal(0.0, 0.15, size=uniform.shape), 0.0, 1.0 - 1e-9)
    leveled = (np.arange(count) % 2 == 0)[:, None] & ordinal_genes(region.space)
    return region.settle((np.where(leveled, spread, uniform) * counts).astype(np.int16), rng=rng)


def spread_over(values: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows whose values are spread evenly from the least to the greatest, as far as there are such rows.

    The range is cut into `count` strata of equal width and one row is drawn from each; what empty strata leave over
    is drawn from the other rows.
    """
    order = rng.permutation(len(values))
    low, high = float(values.min()), float(values.max())
    strata = ((values[order] - low) / ((high - low) or 1.0) * count).astype(np.intp).clip(0, count - 1)
    _, first = np.unique(strata, return_index=True)
    rest = np.setdiff1d(np.arange(len(values)), first)
    return np.sort(order[np.concatenate([first, rest])[:count]])


def redrawn(genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
    """Another choice of every gene."""
    counts = gene_counts(region.space)
    return ((genomes + rng.integers(1, np.maximum(counts, 2), size=genomes.shape)) % counts).astype(np.int16)


def ordinal_genes(space: AnySpace) -> Mask:
    """Which genes are ordinal."""
    return np.array([dimension.kind == "ordinal" for dimension in space.dimensions])


def _parts(space: AnySpace) -> NDArray[np.intp]:
    """The part of each gene: its block, or the gene alone where it stands for a stage or the network."""
    labels: dict[tuple[object, ...], int] = {}
    parts = []
    for column, dimension in enumerate(space.dimensions):
        label = (dimension.stage, dimension.block) if dimension.block is not None else ("alone", column)
        parts.append(labels.setdefault(label, len(labels)))
    return np.array(parts)


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose at one point of a search: two of them share nothing unless all is equal."""
    return np.random.default_rng(_sequence(seed, purpose, counters))


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """The same for what takes a whole number as its seed."""
    return int(_sequence(seed, purpose, counters).generate_state(1)[0])


def _sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
