"""Which networks of a space are measured: spread evenly over MACs, and over depth at each of them.

Genomes drawn uniformly crowd around the middle of a space, and a predictor learns little from its ends. Here a large
pool is drawn with genes tilted towards small or large choices, and networks are picked from it one by one along a
low-discrepancy sequence over (MACs, depth). The sequence depends on the seed alone, so more networks extend fewer.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hwnas.space.space import AnySpace, Candidate, Genomes

_POOL = 8192
"""Genomes drawn for each round."""

_ROUND = 1024
"""Networks picked from one pool at most: few enough that the next one wanted is still near."""

_NEAREST = 24
"""Candidates of about the wanted MACs among which depth decides."""

_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Steps of the R2 sequence (Roberts 2018): its points fill the unit square evenly, however many are taken."""

_TILT = 4.0
"""The strongest tilt: a gene's last choice is up to e^4 times as likely as its first, or the reverse."""


def sample_evenly(space: AnySpace, count: int, *, seed: int) -> tuple[Candidate, ...]:
    """The first `count` networks of the sequence of that seed, all different; fewer where the space has no more."""
    return tuple(islice(even_sequence(space, seed=seed), count))


def even_sequence(space: AnySpace, *, seed: int) -> Iterator[Candidate]:
    """Different networks without end, evenly spread at any time; it ends where a small space has no more."""
    taken: set[str] = set()
    index = 0
    for number in range(2**31):
        pool = _Pool(space, np.random.default_rng([seed, number]))
        before = index
        for candidate in pool.picks(_positions(seed, start=index)):
            if candidate.network_id in taken:
                continue
            taken.add(candidate.network_id)
            index += 1
            yield candidate
            if index - before == _ROUND:
                break
        if index == before:
            return


class _Pool:
    """Different genomes with their MACs and depths, from which each is taken at most once."""

    def __init__(self, space: AnySpace, rng: np.random.Generator) -> None:
        drawn = np.unique(_tilted(space, rng, _POOL), axis=0)
        macs = space.costs(drawn).macs
        order = np.argsort(macs, kind="stable")
        self.space = space
        self.genomes: Genomes = drawn[order]
        self.macs = macs[order].astype(np.float64)
        self.depths = _depths(space, self.genomes)
        self.free = np.ones(len(order), dtype=np.bool_)

    def picks(self, positions: Iterator[tuple[float, float]]) -> Iterator[Candidate]:
        """The networks nearest to positions in the unit square of (MACs, depth), until none is left."""
        low, high = self.macs[0], self.macs[-1]
        for across, along in positions:
            if not self.free.any():
                return
            row = self._nearest(low + across * (high - low), along)
            self.free[row] = False
            yield from self.space.candidates(self.genomes[row : row + 1])

    def _nearest(self, macs: float, along: float) -> int:
        rows = np.flatnonzero(self.free)
        near = rows[np.argsort(np.abs(self.macs[rows] - macs), kind="stable")[:_NEAREST]]
        depths = np.unique(self.depths[near])
        wanted = depths[min(int(along * len(depths)), len(depths) - 1)]
        return int(near[self.depths[near] == wanted][0])


def _tilted(space: AnySpace, rng: np.random.Generator, count: int) -> Genomes:
    """Genomes whose ordinal genes lean towards their first or their last choices, each genome by its own tilt."""
    tilts = rng.uniform(-_TILT, _TILT, size=count)
    columns = [
        _leaning(rng, tilts if dimension.kind == "ordinal" else 0 * tilts, len(dimension.choices))
        for dimension in space.dimensions
    ]
    return space.repair(np.column_stack(columns))


def _leaning(rng: np.random.Generator, tilts: NDArray[np.float64], choices: int) -> NDArray[np.int16]:
    weights = np.exp(tilts[:, None] * np.linspace(0.0, 1.0, choices))
    cumulated = np.cumsum(weights, axis=1)
    points = rng.uniform(size=len(tilts)) * cumulated[:, -1]
    drawn: NDArray[np.int16] = np.minimum((cumulated <= points[:, None]).sum(axis=1), choices - 1).astype(np.int16)
    return drawn


def _depths(space: AnySpace, genomes: Genomes) -> NDArray[np.int64]:
    """How many operations run one after another: with equal blocks that is depth."""
    return space.workloads(genomes).total(lambda operation: operation.times)


def _positions(seed: int, *, start: int) -> Iterator[tuple[float, float]]:
    shift = np.random.default_rng([seed, 2**32 - 1]).uniform(size=2)
    index = start
    while True:
        yield (shift[0] + index * _STEPS[0]) % 1.0, (shift[1] + index * _STEPS[1]) % 1.0
        index += 1
