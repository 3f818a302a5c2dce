"""The part of a space that a search varies: all of it, or the genes of some dimensions while others stay fixed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hwnas.errors import unknown
from hwnas.space.space import AnySpace, Genomes, Mask, Neighbours


@dataclass(frozen=True, kw_only=True)
class Region:
    """The networks whose fixed genes, in the columns that are not `free`, are those of one of `bases`."""

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
        """Turn any rows into canonical genomes of the region, with the fixed genes of randomly drawn bases."""
        if self.free.all():
            return self.space.repair(rows)
        bases = self.bases[rng.integers(0, len(self.bases), size=len(rows))]
        return self.space.repair(np.where(self.free, rows, bases))

    def keep(self, rows: Genomes, parents: Genomes) -> Genomes:
        """Turn children into canonical genomes of the region, with the fixed genes of their parents.

        Args:
            rows: Any genomes, one for each parent.
            parents: Canonical genomes of the region.
        """
        if self.free.all():
            return self.space.repair(rows)
        # A fixed gene that the parent does not use, and its child might, has the value of the first base.
        fixed = np.where(self.space.used(parents), parents, self.bases[0])
        return self.space.repair(np.where(self.free, rows, fixed))

    def neighbours(self, genomes: Genomes) -> Neighbours:
        """Return the networks of the region one move away; a network may occur more than once."""
        moved, origins = self.space.neighbours(genomes)
        kept = self.keep(moved, genomes[origins])
        changed = (kept != genomes[origins]).any(axis=1)
        return Neighbours(genomes=kept[changed], origins=origins[changed])


def full_region(space: AnySpace) -> Region:
    """Return the region of all networks of a space."""
    width = len(space.dimensions)
    return Region(space=space, free=np.ones(width, dtype=np.bool_), bases=np.zeros((1, width), dtype=np.int16))


def region_of(space: AnySpace, names: Iterable[str]) -> Region:
    """Return the region that varies the dimensions of some names; all others have their middle choice."""
    middle = (gene_counts(space) // 2).astype(np.int16)
    return Region(space=space, free=dimension_columns(space, names), bases=middle[None])


def region_without(space: AnySpace, names: Iterable[str], *, bases: Genomes) -> Region:
    """Return the region that varies all dimensions but those of some names, which keep the values of `bases`."""
    return Region(space=space, free=~dimension_columns(space, names), bases=bases)


def gene_counts(space: AnySpace) -> Genomes:
    """Return the number of choices of each gene."""
    return np.array([len(dimension.choices) for dimension in space.dimensions], dtype=np.int16)


def dimension_columns(space: AnySpace, names: Iterable[str]) -> Mask:
    """Return which genes belong to the dimensions of some names."""
    names, known = list(names), dict.fromkeys(dimension.name for dimension in space.dimensions)
    for name in names:
        if name not in known:
            raise unknown(f"dimension of {space.name}:", name, known)
    return np.array([dimension.name in names for dimension in space.dimensions])
