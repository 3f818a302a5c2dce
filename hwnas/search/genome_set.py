"""Deduplication of genomes, so that no network is evaluated twice."""

import math
from collections.abc import Callable

import numpy as np

from hwnas.search.region import Region
from hwnas.space.space import Genomes, Mask

_TRIES = 30
"""Draws for each requested genome, before neighbours are used instead."""
_LARGEST_DRAW = 8
"""Draws at once for each requested genome."""


def genome_keys(genomes: Genomes) -> list[bytes]:
    """Return one key per row, equal for equal canonical genomes."""
    rows = np.ascontiguousarray(genomes, dtype="<i2")
    data, width = rows.tobytes(), 2 * rows.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


class GenomeSet:
    """A set of canonical genomes that grows as a search proposes and evaluates them."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> "GenomeSet":
        """Return an independent set of the same genomes."""
        other = GenomeSet()
        other._keys = set(self._keys)
        return other

    def add(self, genomes: Genomes) -> None:
        """Add genomes to the set."""
        self._keys.update(genome_keys(genomes))

    def is_new(self, genomes: Genomes) -> Mask:
        """Return the rows that are neither in the set nor equal to an earlier row."""
        earlier: set[bytes] = set()
        mask = np.zeros(len(genomes), dtype=np.bool_)
        for index, key in enumerate(genome_keys(genomes)):
            mask[index] = key not in self._keys and key not in earlier
            earlier.add(key)
        return mask


def sample_unseen(make: Callable[[int], Genomes], count: int, *, seen: GenomeSet, region: Region) -> Genomes:
    """Draw genomes that are not in a set.

    Where draws hardly bring anything new, the rest are the nearest unseen neighbours of the last draw, then those of
    their neighbours, until the region is exhausted.

    Args:
        make: Draws the number of canonical genomes that it is given.
        count: The number of genomes.
        seen: The genomes that are not returned; it is not changed.
        region: Where neighbours are taken from.

    Returns:
        `count` genomes, fewer only where the region has no more.
    """
    found = np.zeros((0, len(region.space.dimensions)), dtype=np.int16)
    drawn, tries, next_draw = found, 0, count
    while len(found) < count and tries < _TRIES * count:
        drawn = make(next_draw)
        tries += next_draw
        found = _add_new(found, drawn, count, seen)
        # One draw of ten costs about as much as one draw of one: draw as many as will bring what is missing if the
        # share of new genomes stays the same, and a fifth more.
        missing = count - len(found)
        next_draw = min(math.ceil(1.2 * missing * tries / max(len(found), 1)), _LARGEST_DRAW * count)
    if len(found) == count:
        return found
    # Breadth first, so that the rest come in the order of their distance in moves.
    visited = GenomeSet()
    frontier = np.unique(np.concatenate([drawn[:count], region.space.repair(region.bases)]), axis=0)
    while len(frontier) and len(found) < count:
        visited.add(frontier)
        moved = region.neighbours(frontier).genomes
        frontier = moved[visited.is_new(moved)]
        found = _add_new(found, frontier, count, seen)
    return found


def _add_new(found: Genomes, more: Genomes, count: int, seen: GenomeSet) -> Genomes:
    rows = np.concatenate([found, more])
    return rows[seen.is_new(rows)][:count]
