"""The part of a space that a search moves in: all of it, or the genes of some dimensions while others stand still."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hwnas.errors import unknown
from hwnas.space.space import AnySpace, Genomes, Mask, Neighbours


def used_genes(space: AnySpace, genomes: Genomes) -> Mask:
    """Which genes the path of each canonical genome uses."""
    return space.used(genomes)


@dataclass(frozen=True, kw_only=True)
class Region:
    """Networks whose genes in the columns that are not `free` are those of one of `bases`."""

    space: AnySpace
    free: Mask
    bases: Genomes
    """Rows with a value in every column, used or not."""

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes, each free gene uniform over its choices."""
        choices = gene_counts(self.space)
        rows = rng.integers(0, choices, size=(count, len(choices)), dtype=np.int16)
        return self.settle(rows, rng=rng)

    def settle(self, rows: Genomes, *, rng: np.random.Generator) -> Genomes:
        """Any rows as canonical genomes of the region, on bases that are drawn."""
        if self.free.all():
            return self.space.repair(rows)
        bases = self.bases[rng.integers(0, len(self.bases), size=len(rows))]
        return self.space.repair(np.where(self.free, rows, bases))

    def keep(self, rows: Genomes, parents: Genomes) -> Genomes:
        """Rows that stand still where their parents, canonical genomes of the region, do."""
        if self.free.all():
            return self.space.repair(rows)
        used = used_genes(self.space, parents)
        still = np.where(used, parents, self.bases[0])
        return self.space.repair(np.where(self.free, rows, still))

    def neighbours(self, genomes: Genomes) -> Neighbours:
        """Networks of the region one move away; a network may stand there more than once."""
        moved, origins = self.space.neighbours(genomes)
        settled = self.keep(moved, genomes[origins])
        other = (settled != genomes[origins]).any(axis=1)
        return Neighbours(genomes=settled[other], origins=origins[other])


def whole(space: AnySpace) -> Region:
    """All of a space."""
    width = len(space.dimensions)
    return Region(space=space, free=np.ones(width, dtype=np.bool_), bases=np.zeros((1, width), dtype=np.int16))


def only(space: AnySpace, names: Iterable[str]) -> Region:
    """The dimensions of some names; all others have their middle choice."""
    middle = (gene_counts(space) // 2).astype(np.int16)
    return Region(space=space, free=columns_of(space, names), bases=middle[None])


def all_but(space: AnySpace, names: Iterable[str], *, bases: Genomes) -> Region:
    """All dimensions but those of some names, which stand still at the values of `bases`."""
    return Region(space=space, free=~columns_of(space, names), bases=bases)


def gene_counts(space: AnySpace) -> Genomes:
    """The number of choices of each gene."""
    return np.array([len(dimension.choices) for dimension in space.dimensions], dtype=np.int16)


def columns_of(space: AnySpace, names: Iterable[str]) -> Mask:
    """The genes of the dimensions of some names."""
    wanted, known = list(names), dict.fromkeys(dimension.name for dimension in space.dimensions)
    for name in wanted:
        if name not in known:
            raise unknown(f"dimension of {space.name}:", name, known)
    return np.array([dimension.name in wanted for dimension in space.dimensions])
