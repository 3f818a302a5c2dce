"""Random numbers of a training: every draw is a function of the seed, a purpose and counters such as the step.

A training that was interrupted therefore continues with the draws that it would have had, whatever ran before.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a generator for one purpose at one point of a training.

    Args:
        seed: Seed of the training.
        purpose: What is drawn; different purposes have independent draws.
        *counters: The point of the training, for example step and rank.
    """
    return np.random.default_rng(_seed_sequence(seed, purpose, counters))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return a seed of torch's global generator, which drop path draws from; arguments as for `generator`."""
    return int(_seed_sequence(seed, purpose, counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seed torch's global generators of the CPU and of this device, no other one."""
    import torch  # recipes, which this module is imported with, do not need it

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def seed_global_rng(*key: int) -> None:
    """Seed the global generators of Python, numpy and torch's CPU from integers."""
    import torch

    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    torch.default_generator.manual_seed(int(words[2]))


@contextmanager
def seeded_numpy(rng: np.random.Generator) -> Iterator[None]:
    """Seed numpy's global generator from another one within the context: timm's mixup draws from nothing else."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(rng.integers(2**32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def preserve_rng_state(device: "torch.device | None" = None) -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch after the context.

    Args:
        device: A GPU whose generator is restored too.
    """
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _seed_sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
