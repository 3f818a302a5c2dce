"""What a study has asked for already, so that nothing is asked for twice."""

import math
from collections.abc import Callable

import numpy as np

from hwnas.search.region import Region
from hwnas.space.space import Genomes, Mask

_TRIES = 30
"""Draws for each genome that is wanted, before neighbours are looked for instead."""
_LARGEST_DRAW = 8
"""Draws at once for each genome that is wanted."""


def keys(genomes: Genomes) -> list[bytes]:
    """One key per row, equal for equal canonical genomes."""
    rows = np.ascontiguousarray(genomes, dtype="<i2")
    data, width = rows.tobytes(), 2 * rows.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


class Seen:
    """A growing set of canonical genomes."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> "Seen":
        """A set of its own with the same genomes."""
        other = Seen()
        other._keys = set(self._keys)
        return other

    def add(self, genomes: Genomes) -> None:
        """From now on these are seen."""
        self._keys.update(keys(genomes))

    def fresh(self, genomes: Genomes) -> Mask:
        """Rows that are neither seen nor equal to an earlier row."""
        here: set[bytes] = set()
        mask = np.zeros(len(genomes), dtype=np.bool_)
        for index, key in enumerate(keys(genomes)):
            mask[index] = key not in self._keys and key not in here
            here.add(key)
        return mask


def unseen(make: Callable[[int], Genomes], count: int, *, seen: Seen, region: Region) -> Genomes:
    """Up to `count` genomes from `make` that are not seen, fewer only where the region has no more of them.

    `make` draws as many as it is asked for. Where it draws hardly anything new, the rest are the nearest unseen
    neighbours of what it draws, then those of their neighbours, until the region is exhausted.
    """
    found = np.zeros((0, len(region.space.dimensions)), dtype=np.int16)
    drawn, tries, wanted = found, 0, count
    while len(found) < count and tries < _TRIES * count:
        drawn = make(wanted)
        tries += wanted
        found = _first(found, drawn, count, seen)
        wanted = _next_draw(count, len(found), tries)
    if len(found) == count:
        return found
    start = np.concatenate([drawn[:count], region.space.repair(region.bases)])
    return _explored(found, start, count, seen=seen, region=region)


def _next_draw(count: int, found: int, tries: int) -> int:
    """As many draws as will bring what is missing if they go on to bring as many new ones as before.

    Ten draws of one cost ten times as much as one draw of ten.
    """
    missing = count - found
    return min(math.ceil(1.2 * missing * tries / max(found, 1)), _LARGEST_DRAW * count)


def _first(found: Genomes, more: Genomes, count: int, seen: Seen) -> Genomes:
    rows = np.concatenate([found, more])
    return rows[seen.fresh(rows)][:count]


def _explored(found: Genomes, start: Genomes, count: int, *, seen: Seen, region: Region) -> Genomes:
    """Fill up with the networks around `start`, in the order of their distance in moves."""
    met = Seen()
    edge = np.unique(start, axis=0)
    while len(edge) and len(found) < count:
        met.add(edge)
        moved = region.neighbours(edge).genomes
        edge = moved[met.fresh(moved)]
        found = _first(found, edge, count, seen)
    return found
