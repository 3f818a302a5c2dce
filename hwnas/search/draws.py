"""Every random draw of a search is a function of (seed, what for, counters), so that a killed one goes on exactly."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose at one point of a search: two of them share nothing unless all is equal."""
    return np.random.default_rng(_sequence(seed, purpose, counters))


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """The same for what takes a whole number as its seed."""
    return int(_sequence(seed, purpose, counters).generate_state(1)[0])


def _sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
