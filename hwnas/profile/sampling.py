"""Sample networks of a space evenly over MACs, and over depth at equal MACs.

Uniformly drawn genomes crowd around the middle of a space, and a predictor fitted to them is poor at its ends. Here a
large pool is drawn with genes tilted towards small or large choices, and networks are picked from it one by one along a
low-discrepancy sequence over (MACs, depth). The sequence depends on the seed alone, so that a larger sample extends a
smaller one.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hwnas.space.space import AnySpace, Candidate, Genomes

_POOL_SIZE = 8192
"""Genomes drawn for each pool."""

_MAX_PICKS = 1024
"""Networks picked from one pool: few enough that there is still one near each target."""

_NUM_NEAREST = 24
"""Networks nearest to the target MACs, among which depth decides."""

# The R2 sequence (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"): multiples of 1/p and 1/p^2
# modulo 1, where p is the plastic number (p^3 = p + 1). Any prefix fills the unit square evenly.
_R2_STEPS = (0.7548776662466927, 0.5698402909980532)

_MAX_TILT = 4.0
"""With the strongest tilt, a gene's last choice is e^4 times as likely as its first, or the reverse."""


def sample_evenly(space: AnySpace, count: int, *, seed: int) -> tuple[Candidate, ...]:
    """Return a number of different networks, spread evenly over a space.

    Args:
        space: The space.
        count: Number of networks. A small space may have fewer.
        seed: Seed of the sequence. A larger sample of the same seed extends a smaller one.
    """
    return tuple(itertools.islice(even_sequence(space, seed=seed), count))


def even_sequence(space: AnySpace, *, seed: int) -> Iterator[Candidate]:
    """Yield different networks, of which any prefix is spread evenly, until a small space has no more."""
    yielded: set[str] = set()
    for number in range(2**31):
        pool = _Pool(space, np.random.default_rng([seed, number]))
        before = len(yielded)
        for candidate in pool.pick(_targets(seed, start=before)):
            if candidate.network_id in yielded:
                continue
            yielded.add(candidate.network_id)
            yield candidate
            if len(yielded) - before == _MAX_PICKS:
                break
        if len(yielded) == before:
            return


class _Pool:
    """Different genomes with their MACs and depths. Each is picked at most once."""

    def __init__(self, space: AnySpace, rng: np.random.Generator) -> None:
        drawn = np.unique(_tilted_genomes(space, rng, _POOL_SIZE), axis=0)
        macs = space.costs(drawn).macs
        order = np.argsort(macs, kind="stable")
        self.space = space
        self.genomes: Genomes = drawn[order]
        self.macs = macs[order].astype(np.float64)
        # The number of operations: with blocks of one kind it is proportional to depth.
        self.depths = space.workloads(self.genomes).total(lambda operation: operation.times)
        self.free = np.ones(len(order), dtype=np.bool_)

    def pick(self, targets: Iterator[tuple[float, float]]) -> Iterator[Candidate]:
        """Yield the networks nearest to targets in the unit square of (MACs, depth), until none is left."""
        low, high = self.macs[0], self.macs[-1]
        for relative_macs, relative_depth in targets:
            if not self.free.any():
                return
            row = self._nearest(low + relative_macs * (high - low), relative_depth)
            self.free[row] = False
            yield from self.space.candidates(self.genomes[row : row + 1])

    def _nearest(self, macs: float, relative_depth: float) -> int:
        rows = np.flatnonzero(self.free)
        near = rows[np.argsort(np.abs(self.macs[rows] - macs), kind="stable")[:_NUM_NEAREST]]
        depths = np.unique(self.depths[near])
        depth = depths[min(int(relative_depth * len(depths)), len(depths) - 1)]
        return int(near[self.depths[near] == depth][0])


def _tilted_genomes(space: AnySpace, rng: np.random.Generator, count: int) -> Genomes:
    """Genomes whose ordinal genes prefer their first or their last choices, each genome by a tilt of its own."""
    tilts = rng.uniform(-_MAX_TILT, _MAX_TILT, size=count)
    columns = [
        _tilted_gene(rng, tilts if dimension.kind == "ordinal" else 0 * tilts, len(dimension.choices))
        for dimension in space.dimensions
    ]
    return space.repair(np.column_stack(columns))


def _tilted_gene(rng: np.random.Generator, tilts: NDArray[np.float64], choices: int) -> NDArray[np.int16]:
    """Draw one choice for each tilt t, with probabilities proportional to exp(t * choice / (choices - 1))."""
    weights = np.exp(tilts[:, None] * np.linspace(0.0, 1.0, choices))
    cumulated = np.cumsum(weights, axis=1)  # inverts the distribution function
    points = rng.uniform(size=len(tilts)) * cumulated[:, -1]
    drawn: NDArray[np.int16] = np.minimum((cumulated <= points[:, None]).sum(axis=1), choices - 1).astype(np.int16)
    return drawn


def _targets(seed: int, *, start: int) -> Iterator[tuple[float, float]]:
    """The R2 sequence from an index on, shifted by the seed."""
    shift = np.random.default_rng([seed, 2**32 - 1]).uniform(size=2)
    for index in itertools.count(start):
        yield (shift[0] + index * _R2_STEPS[0]) % 1.0, (shift[1] + index * _R2_STEPS[1]) % 1.0
