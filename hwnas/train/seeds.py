"""Every draw of a training is a function of (seed, what for, step, …), so that a killed one goes on exactly."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose at one point of a training: two of them share nothing unless all is equal."""
    return np.random.default_rng(_sequence(seed, purpose, counters))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """The same for torch's global generator, which is what drop path draws from."""
    return int(_sequence(seed, purpose, counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded_numpy(rng: np.random.Generator) -> Iterator[None]:
    """Within it, numpy's global generator is seeded from `rng`: timm's mixup knows no other."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(rng.integers(2**32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of this device, no other one."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """The global generators of numpy and torch, of the CPU and this device, are after it as they were before it."""
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])


@contextmanager
def borrowed_generators() -> Iterator[None]:
    """Whatever is drawn within from Python's, numpy's and torch's global generators is not seen outside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def seed_global_rng(*key: int) -> None:
    """Make the global generators a function of `key` alone; those of accelerators are left as they are."""
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    torch.default_generator.manual_seed(int(words[2]))
