"""Which networks a step trains: samplers, each a function of the generator and the epoch that it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from hwnas.errors import InputError
from hwnas.space.dimension import Dimension
from hwnas.space.space import AnySpace, Genomes
from hwnas.train.identity import require_identities, search_identity, with_identities
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
    identity: float = 0.0
    """The probability that a slot is an identity, where the space has identities; 0: as the space samples."""
    budget: Literal["none", "identity", "reject"] = "none"
    """Keep the sampled MACs in a budget: by a searched probability of identities, or by drawing again."""
    macs_low: int = 0
    macs_high: int = 0
    """The budget, both ends in it."""

    def __post_init__(self) -> None:
        if self.widening_epochs < 0:
            raise InputError("widening_epochs must be 0 or more", got=self.widening_epochs)
        if not 0 <= self.identity < 1:
            raise InputError("identity must be a probability below 1", got=self.identity)
        if self.budget != "none" and not 0 < self.macs_high >= self.macs_low:
            got = f"macs_low {self.macs_low}, macs_high {self.macs_high}"
            raise InputError("a budget must have macs_low <= macs_high, above 0", got=got)
        if self.distinct and self.budget == "reject":
            message = "distinct networks do not go together with drawing again for a budget"
            raise InputError(message, got="distinct=true, budget=reject", hint="sampling.distinct=false")
        ways = [self.widening_epochs > 0 or self.distinct, self.identity > 0 or self.budget == "identity"]
        if all(ways):
            raise InputError("widening or distinct choices do not go together with a probability of identities")


class Sampler(Protocol):
    """What draws networks."""

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""


@dataclass(frozen=True)
class Uniform:
    """Every gene uniform over its choices."""

    space: AnySpace

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        return self.space.sample(rng, count)


@dataclass(frozen=True, kw_only=True)
class Widening:
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
class Identities:
    """ViTAS's way: a slot is an identity with one probability, everything else uniform.

    Where identities are shifted to the end, their number is binomial and the depth what they leave over.
    """

    space: AnySpace
    probability: float

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Canonical genomes of the networks of one step."""
        return with_identities(self.space, rng, count=count, probability=self.probability)


@dataclass(frozen=True, kw_only=True)
class WithinBudget:
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
    sampler: Sampler = Uniform(space)
    if config.widening_epochs or config.distinct:
        sampler = Widening(space=space, epochs=config.widening_epochs, distinct=config.distinct)
    if config.budget == "identity":
        sampler = Identities(space=space, probability=_searched(space, config, seed=seed))
    elif config.identity:
        require_identities(space)
        sampler = Identities(space=space, probability=config.identity)
    if config.budget == "reject":
        return WithinBudget(inner=sampler, space=space, macs_low=config.macs_low, macs_high=config.macs_high)
    return sampler


def _searched(space: AnySpace, config: SamplingConfig, *, seed: int) -> float:
    centre = (config.macs_low + config.macs_high) / 2
    return search_identity(space, mean_macs=centre, rng=generator(seed, "identity"))


def _widest_first(dimension: Dimension) -> tuple[int, ...]:
    count = len(dimension.choices)
    if dimension.name == "exists":
        return (count - 1, count - 1, 0, 0)
    return tuple(reversed(range(count)))
