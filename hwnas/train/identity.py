"""The probability that a slot is an identity, and its search: how ViTAS centres the sampled MACs in a budget."""

import numpy as np

from hwnas.errors import InputError
from hwnas.space.space import AnySpace, Genomes
from hwnas.space.vitas import IDENTITY

_SAMPLES = 1000
_HALVINGS = 12


def require_identities(space: AnySpace) -> None:
    """The slots of a space must be able to be identities."""
    if not (_depths(space) or _heads(space)):
        message = "a probability of identities needs a space of ViTAS whose slots may be identities"
        raise InputError(message, got=space.name, hint="identity = 0 and budget = 'reject'")


def with_identities(space: AnySpace, rng: np.random.Generator, *, count: int, probability: float) -> Genomes:
    """Canonical genomes whose slots are identities with this probability, all else uniform.

    A network, or a stage, that would have no block is given one.
    """
    sizes = [len(dimension.choices) for dimension in space.dimensions]
    rows = rng.integers(0, sizes, size=(count, len(sizes)), dtype=np.int16)
    for column in _depths(space):
        slots = len(space.dimensions[column].choices)  # depths are 1 to the number of slots
        rows[:, column] = (rng.random((count, slots)) >= probability).sum(axis=1) - 1
    for column in _heads(space):
        absent = rng.random(count) < probability
        heads = rng.integers(0, sizes[column] - 1, size=count)
        rows[:, column] = np.where(absent, space.dimensions[column].choices.index(IDENTITY), heads)
    return space.repair(rows)


def search_identity(space: AnySpace, *, mean_macs: float, rng: np.random.Generator) -> float:
    """The probability with which the mean MACs of random networks are `mean_macs`, by halving.

    The same random numbers are used for every probability tried, so that the mean falls without noise.
    """
    require_identities(space)
    seed = int(rng.integers(2**63))
    low, high = 0.0, 1.0
    most, least = (_mean_macs(space, probability, seed=seed) for probability in (low, high))
    if not least <= mean_macs <= most:
        message = f"the centre of the budget must be a mean that {space.name} can have"
        raise InputError(message, got=f"{mean_macs:,.0f} MACs", hint=f"{least:,.0f} to {most:,.0f}")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _mean_macs(space, middle, seed=seed) > mean_macs
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def _mean_macs(space: AnySpace, probability: float, *, seed: int) -> float:
    rows = with_identities(space, np.random.default_rng(seed), count=_SAMPLES, probability=probability)
    return float(space.costs(rows).macs.mean())


def _depths(space: AnySpace) -> list[int]:
    """Columns that say how many slots of a network or a stage of ViTAS hold blocks."""
    vitas = space.family.startswith("vitas")
    return [index for index, dimension in enumerate(space.dimensions) if vitas and dimension.name == "depth"]


def _heads(space: AnySpace) -> list[int]:
    """Columns whose number of heads may be that of an identity; it is the last choice."""
    columns = enumerate(space.dimensions)
    return [index for index, dimension in columns if dimension.name == "num_heads" and IDENTITY in dimension.choices]
