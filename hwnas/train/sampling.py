"""Which networks a step trains: samplers, each a function of the generator and the epoch that it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from hwnas.errors import InputError
from hwnas.space.dimension import Dimension
from hwnas.space.space import AnySpace, Genomes
from hwnas.space.vitas import IDENTITY
from hwnas.train.seeds import generator

_TRIES = 200
"""Batches of candidates that are drawn for one that fits a budget."""
_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the networks of a step are drawn."""

    widening_epochs: int = 0
    """Choices are let in from the widest on, until all are there in this epoch; 0: all from the start."""
    distinct: bool = False
    """Networks of one step differ in every gene, as far as it has choices for all of them."""
    identity_prob: float = 0.0
    """The probability that a slot is an identity, where the space has identities; 0: as the space samples."""
    budget: Literal["none", "identity", "reject"] = "none"
    """Keep the sampled MACs in a budget: by a searched probability of identities, or by drawing again."""
    macs_low: int = 0
    macs_high: int = 0
    """The budget, both ends in it."""

    def __post_init__(self) -> None:
        if self.widening_epochs < 0:
            raise InputError("widening_epochs must be 0 or more", got=self.widening_epochs)
        if not 0 <= self.identity_prob < 1:
            raise InputError("identity_prob must be a probability below 1", got=self.identity_prob)
        if self.budget != "none" and not 0 < self.macs_high >= self.macs_low:
            got = f"macs_low {self.macs_low}, macs_high {self.macs_high}"
            raise InputError("a budget must have macs_low <= macs_high, above 0", got=got)
        if self.distinct and self.budget == "reject":
            message = "distinct networks do not go together with drawing again for a budget"
            raise InputError(message, got="distinct=true, budget=reject", hint="sampling.distinct=false")
        ways = [self.widening_epochs > 0 or self.distinct, self.identity_prob > 0 or self.budget == "identity"]
        if all(ways):
            raise InputError("widening or distinct choices do not go together with a probability of identities")


class Sampler(Protocol):
    """What draws networks."""

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""


@dataclass(frozen=True)
class UniformSampler:
    """Every gene uniform over its choices."""

    space: AnySpace

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        return self.space.sample(rng, count)


@dataclass(frozen=True, kw_only=True)
class WideningSampler:
    """ViT-ResNAS's way: choices from the widest on, each gene of each network taken from one shuffled list.

    The list of a gene holds min(1 + floor(epoch (n - 1) / epochs), n) of its n choices. That a block exists is a list
    of four, there twice and gone twice, so that layers begin to drop in later epochs. Categorical choices have no
    widest one and are all there at once.
    """

    space: AnySpace
    epochs: int
    distinct: bool

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        columns = [self._column(rng, choices[: self.allowed(index, epoch)], count) for index, choices in self._listed]
        return self.space.repair(np.stack(columns, axis=1))

    def allowed(self, dimension: int, epoch: int) -> int:
        """How many entries of the list of a dimension are there in an epoch."""
        _, choices = self._listed[dimension]
        if not self.epochs or self.space.dimensions[dimension].kind == "categorical":
            return len(choices)
        return min(1 + epoch * (len(choices) - 1) // self.epochs, len(choices))

    @cached_property
    def _listed(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(index, _widest_first(dimension)) for index, dimension in enumerate(self.space.dimensions)]

    def _column(self, rng: np.random.Generator, choices: Sequence[int], count: int) -> Genomes:
        if not self.distinct:
            return rng.choice(np.array(choices, dtype=np.int16), size=count)
        return np.resize(rng.permutation(np.array(choices, dtype=np.int16)), count)


@dataclass(frozen=True, kw_only=True)
class IdentitySampler:
    """ViTAS's way: a slot is an identity with one probability, everything else uniform.

    Where identities are shifted to the end, their number is binomial and the depth what they leave over.
    """

    space: AnySpace
    probability: float

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        return with_identities(self.space, rng, count=count, probability=self.probability)


@dataclass(frozen=True, kw_only=True)
class BudgetSampler:
    """What another sampler draws, drawn again until its MACs fit."""

    inner: Sampler
    space: AnySpace
    macs_low: int
    macs_high: int

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        found: list[Genomes] = []
        for _ in range(_TRIES):
            rows = self.inner.draw(rng, count=_CANDIDATES, epoch=epoch)
            macs = self.space.costs(rows).macs
            found.append(rows[(macs >= self.macs_low) & (macs <= self.macs_high)])
            if sum(map(len, found)) >= count:
                return np.concatenate(found)[:count]
        got = f"{sum(map(len, found))} of {_TRIES * _CANDIDATES} drawn, {count} needed"
        message = f"networks with {self.macs_low:,} to {self.macs_high:,} MACs must be among those that are drawn"
        raise InputError(message, got=got, hint="a wider budget, or budget = 'identity' in a ViTAS space")


def make_sampler(space: AnySpace, config: SamplingConfig, *, seed: int) -> Sampler:
    """The sampler that a config describes; a probability of identities is searched here."""
    sampler: Sampler = UniformSampler(space)
    if config.widening_epochs or config.distinct:
        sampler = WideningSampler(space=space, epochs=config.widening_epochs, distinct=config.distinct)
    if config.budget == "identity":
        sampler = IdentitySampler(space=space, probability=_searched(space, config, seed=seed))
    elif config.identity_prob:
        require_identities(space)
        sampler = IdentitySampler(space=space, probability=config.identity_prob)
    if config.budget == "reject":
        return BudgetSampler(inner=sampler, space=space, macs_low=config.macs_low, macs_high=config.macs_high)
    return sampler


def _searched(space: AnySpace, config: SamplingConfig, *, seed: int) -> float:
    centre = (config.macs_low + config.macs_high) / 2
    return search_identity(space, mean_macs=centre, rng=generator(seed, "identity"))


def _widest_first(dimension: Dimension) -> tuple[int, ...]:
    count = len(dimension.choices)
    if dimension.name == "exists":
        return (count - 1, count - 1, 0, 0)
    return tuple(reversed(range(count)))


_SAMPLES = 1000
_HALVINGS = 12


def require_identities(space: AnySpace) -> None:
    """The slots of a space must be able to be identities."""
    if not (_depths(space) or _heads(space)):
        message = "a probability of identities needs a space of ViTAS whose slots may be identities"
        raise InputError(message, got=space.name, hint="sampling.identity_prob=0 and sampling.budget=reject")


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
