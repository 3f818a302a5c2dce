"""Sampling, crossover and mutation of genomes, aware of what genes mean, and the random streams of a search.

All operators work on whole populations. Those that return genomes that are not canonical say so.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.region import Region, gene_counts
from hwnas.space.space import AnySpace, Genomes, Mask


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Settings of crossover and mutation."""

    crossover: float = 0.95
    """Share of children with two parents."""
    whole_parts: float = 0.5
    """Share of crossovers that exchange whole blocks and stages; the others choose gene by gene."""
    mutants: float = 0.3
    """Share of children that are mutated; the others are crossovers only."""
    mutations: float = 0.0
    """Mean number of genes that change in a mutated child in addition to the first."""
    redraw: float = 0.1
    """Share of changes of an ordinal gene that draw any other choice; the others move by steps."""
    long_step: float = 0.0
    """Probability that a step is followed by another one in the same direction."""

    def __post_init__(self) -> None:
        for name in ("crossover", "whole_parts", "mutants", "redraw", "long_step"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1", got=getattr(self, name))
        if self.long_step == 1 or self.mutations < 0:
            raise InputError("long_step must be below 1 and mutations at least 0", got=self)

    def children(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Return a canonical child of each pair of parents.

        Args:
            first: Canonical genomes of the region.
            second: As many; used with probability `crossover`, else the first parent alone is mutated.
            region: Which genes may change.
            rng: The source of random draws.
        """
        mates = np.where(rng.random(len(first))[:, None] < self.crossover, second, first)
        crossed = crossover(first, mates, region, rng, whole_parts=self.whole_parts)
        mutants = rng.random(len(first))[:, None] < self.mutants
        return region.keep(np.where(mutants, self.mutated(crossed, region, rng), crossed), first)

    def mutated(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Change some genes of each row, at least one that is used; the result is not canonical."""
        changed = self._changed_genes(genomes, region, rng)
        moved = np.where(ordinal_genes(region.space), self._moved(genomes, region, rng), redrawn(genomes, region, rng))
        return np.where(changed, moved, genomes).astype(np.int16)

    def _changed_genes(self, genomes: Genomes, region: Region, rng: np.random.Generator) -> Mask:
        movable = region.free & (gene_counts(region.space) > 1)
        able = region.space.used(region.space.repair(genomes)) & movable
        draws = np.where(able, rng.random(genomes.shape), 2.0)
        share = self.mutations / np.maximum(able.sum(axis=1, keepdims=True), 1)
        # The gene with the least draw always changes, so that no mutant equals its parent.
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
    """Take each gene, or each whole block and stage, from either parent; children are not canonical.

    A gene that only one parent uses is taken from that parent, because the values of blocks that a network does not
    have mean nothing. A gene that neither uses, but the child might, is drawn.

    Args:
        first: Canonical genomes.
        second: As many canonical genomes.
        region: The space, and which genes are free.
        rng: The source of random draws.
        whole_parts: Probability that a child takes blocks and stages as wholes.
    """
    space = region.space
    whole_first = np.where(space.used(first), first, completed(second, region, rng))
    whole_second = np.where(space.used(second), second, whole_first)
    parts = _parts(space)
    by_part = (rng.random((len(first), parts.max() + 1)) < 0.5)[:, parts]
    by_gene = rng.random(first.shape) < 0.5
    chosen = np.where(rng.random((len(first), 1)) < whole_parts, by_part, by_gene)
    return np.where(chosen, whole_first, whole_second).astype(np.int16)


def completed(genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
    """Draw a value for every gene that canonical genomes do not use."""
    drawn = rng.integers(0, gene_counts(region.space), size=genomes.shape, dtype=np.int16)
    return np.where(region.space.used(genomes), genomes, drawn)


def resampled(genomes: Genomes, region: Region, rng: np.random.Generator, *, rates: NDArray[np.float64]) -> Genomes:
    """Redraw each gene with the probability of its column; genes of blocks that become used are drawn as well."""
    full = completed(genomes, region, rng)
    drawn = rng.integers(0, gene_counts(region.space), size=genomes.shape, dtype=np.int16)
    return region.keep(np.where(rng.random(genomes.shape) < rates, drawn, full), genomes)


def sample_levels(region: Region, rng: np.random.Generator, count: int) -> Genomes:
    """Draw canonical genomes from small to large.

    A uniform draw of many genes is nearly always of middle size (the mean of many independent draws). So only half of
    the rows are uniform; in each of the others, ordinal genes are spread around a common level, drawn for the row.
    """
    counts = gene_counts(region.space)
    uniform = rng.random((count, len(counts)))
    level = rng.random((count, 1))
    spread = np.clip(level + rng.normal(0.0, 0.15, size=uniform.shape), 0.0, 1.0 - 1e-9)
    leveled = (np.arange(count) % 2 == 0)[:, None] & ordinal_genes(region.space)
    return region.settle((np.where(leveled, spread, uniform) * counts).astype(np.int16), rng=rng)


def spread_over(values: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Choose rows whose values are spread evenly from the least to the greatest (stratified sampling).

    The range is divided into `count` strata of equal width, and one row is drawn from each. For empty strata, rows are
    drawn from the others.
    """
    order = rng.permutation(len(values))
    low, high = float(values.min()), float(values.max())
    strata = ((values[order] - low) / ((high - low) or 1.0) * count).astype(np.intp).clip(0, count - 1)
    _, first = np.unique(strata, return_index=True)
    rest = np.setdiff1d(np.arange(len(values)), first)
    return np.sort(order[np.concatenate([first, rest])[:count]])


def redrawn(genomes: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
    """Draw another choice of every gene."""
    counts = gene_counts(region.space)
    return ((genomes + rng.integers(1, np.maximum(counts, 2), size=genomes.shape)) % counts).astype(np.int16)


def ordinal_genes(space: AnySpace) -> Mask:
    """Return which genes are ordinal."""
    return np.array([dimension.kind == "ordinal" for dimension in space.dimensions])


def _parts(space: AnySpace) -> NDArray[np.intp]:
    """Return the index of each gene's part: its block, or the gene alone where it belongs to a stage or the network."""
    labels: dict[tuple[object, ...], int] = {}
    parts = []
    for column, dimension in enumerate(space.dimensions):
        label = (dimension.stage, dimension.block) if dimension.block is not None else ("alone", column)
        parts.append(labels.setdefault(label, len(labels)))
    return np.array(parts)


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return the random generator for one purpose at one point of a search.

    Every random draw of a search is a function of seed, purpose and counters, and of nothing that came before: a search
    that is resumed draws as if it had never been killed.
    """
    return np.random.default_rng(_sequence(seed, purpose, counters))


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return the same as a whole number, for what takes one as its seed."""
    return int(_sequence(seed, purpose, counters).generate_state(1)[0])


def _sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
