"""Samplers: they draw the networks of a training step, as a function of a generator and the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Protocol

import numpy as np

from hwnas.config import Between, require_valid
from hwnas.errors import InputError
from hwnas.space.dimension import Dimension
from hwnas.space.space import AnySpace, Genomes, require_literals
from hwnas.space.vitas import IDENTITY
from hwnas.train.seeds import generator

_MAX_DRAWS = 200
_CANDIDATES = 64
"""`BudgetSampler` draws at most 200 times 64 candidates for the networks of a step; `MacsSampler` draws 64."""
_LEVEL_DEVIATION = 0.15
"""Standard deviation of the genes of a network around their common level, as a share of the choices."""

_BISECTION_SAMPLES = 1000
_BISECTION_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Sampling of the networks of a step, part of a recipe."""

    widening_epochs: Annotated[int, Between(0, 100_000)] = 0
    """Begin with the widest choice of each dimension and add narrower ones until all are drawn in this epoch
    (ViT-ResNAS); 0: draw from all choices from the start."""
    first_choices: Annotated[int, Between(1, 1000)] = 1
    """Number of choices of each dimension that widening begins with."""
    spread: Literal["genes", "macs"] = "genes"
    """Draw uniformly from the choices of each gene, or so that the MACs of the networks are uniform. With uniform genes
    nearly all networks of many blocks are of middle size."""
    distinct: bool = False
    """Let the networks of one step differ in every dimension that has enough choices (ViT-ResNAS)."""
    identity_prob: Annotated[float, Between(0, 0.999)] = 0.0
    """Probability that a slot is an identity, in a ViTAS space; 0: as the space samples."""
    budget: Literal["none", "identity", "reject"] = "none"
    """Keep MACs within a budget: `identity` searches the probability of identities whose mean MACs are the middle of
    the budget (ViTAS), `reject` draws again."""
    macs_low: Annotated[int, Between(0, 10**15)] = 0
    """Lower end of the budget, inclusive."""
    macs_high: Annotated[int, Between(0, 10**15)] = 0
    """Upper end of the budget, inclusive."""

    def __post_init__(self) -> None:
        require_literals(self)
        require_valid(self)
        if self.budget != "none" and not 0 < self.macs_high >= self.macs_low:
            got = f"macs_low {self.macs_low}, macs_high {self.macs_high}"
            raise InputError("a budget must have macs_low <= macs_high, above 0", got=got)
        if self.distinct and self.budget == "reject":
            message = "distinct networks cannot be combined with drawing again for a budget"
            raise InputError(message, got="distinct=true, budget=reject", hint="sampling.distinct=false")
        if self.spread == "macs" and (self.distinct or self.identity_prob > 0 or self.budget == "identity"):
            message = "uniform MACs cannot be combined with distinct choices or a probability of identities"
            raise InputError(message, got="spread=macs", hint="sampling.spread=genes")
        widens = self.widening_epochs > 0 or self.distinct
        if widens and (self.identity_prob > 0 or self.budget == "identity"):
            raise InputError("widening or distinct choices cannot be combined with a probability of identities")


class Sampler(Protocol):
    """Draws networks of a space."""

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""


@dataclass(frozen=True)
class UniformSampler:
    """Draws every gene uniformly from its choices."""

    space: AnySpace

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""
        return self.space.sample(rng, count)


@dataclass(frozen=True, kw_only=True)
class WideningSampler:
    """Draws from the widest choices first and from all of them later, as ViT-ResNAS does (Liao et al. 2021).

    The choices of a gene are a list from the widest on. In an epoch the first min(1 + floor(epoch (n - 1) / epochs), n)
    of its n entries are drawn from, or likewise from another number of `first` entries on. Categorical choices have no
    widest one and are all available at once.
    """

    space: AnySpace
    epochs: int
    """Epoch in which all choices are available; 0: the first."""
    distinct: bool
    first: int = 1
    """Number of choices in the first epoch."""

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""
        columns = [
            self._draw_column(rng, choices[: self.available(index, epoch)], count)
            for index, choices in enumerate(self._choices)
        ]
        return self.space.repair(np.stack(columns, axis=1))

    def available(self, dimension: int, epoch: int) -> int:
        """Return the number of entries in the list of a dimension that are drawn from in an epoch."""
        choices = self._choices[dimension]
        if not self.epochs or self.space.dimensions[dimension].kind == "categorical":
            return len(choices)
        first = min(self.first, len(choices))
        return min(first + epoch * (len(choices) - first) // self.epochs, len(choices))

    def draw_levels(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes from narrow to wide: the genes of each are spread around a common level."""
        level = rng.random((count, 1))
        levels = np.clip(level + rng.normal(0, _LEVEL_DEVIATION, (count, len(self._choices))), 0, 1 - 1e-9)
        columns = []
        for index, choices in enumerate(self._choices):
            available = np.array(choices[: self.available(index, epoch)], dtype=np.int16)
            is_ordinal = self.space.dimensions[index].kind != "categorical"
            shares = levels[:, index] if is_ordinal else rng.random(count)
            columns.append(available[(shares * len(available)).astype(np.intp)])
        return self.space.repair(np.stack(columns, axis=1))

    @cached_property
    def _choices(self) -> list[tuple[int, ...]]:
        return [_widest_first(dimension) for dimension in self.space.dimensions]

    def _draw_column(self, rng: np.random.Generator, choices: Sequence[int], count: int) -> Genomes:
        if not self.distinct:
            return rng.choice(np.array(choices, dtype=np.int16), size=count)
        # The networks take the entries of a shuffled list in turn, so that none has the choice of another; more
        # networks than entries begin another list, since in the same one they would agree in all such dimensions.
        lists = [rng.permutation(np.array(choices, dtype=np.int16)) for _ in range(-(-count // len(choices)))]
        drawn: Genomes = np.concatenate(lists)[:count]
        return drawn


@dataclass(frozen=True, kw_only=True)
class MacsSampler:
    """Draws networks whose MACs are uniform between the fewest and the most of some candidates."""

    widening: WideningSampler

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""
        candidates = self.widening.draw_levels(rng, count=_CANDIDATES, epoch=epoch)
        macs = self.widening.space.costs(candidates).macs
        wanted = rng.uniform(macs.min(), macs.max(), size=count)
        nearest: Genomes = candidates[np.abs(macs[None, :] - wanted[:, None]).argmin(axis=1)]
        return nearest


@dataclass(frozen=True, kw_only=True)
class IdentitySampler:
    """Draws each slot as an identity with one probability, and all else uniformly, as ViTAS does (Su et al. 2022).

    If a space shifts identities to the end, their number is binomial and the depth is the number of remaining slots.
    """

    space: AnySpace
    probability: float

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""
        return sample_with_identities(self.space, rng, count=count, probability=self.probability)


@dataclass(frozen=True, kw_only=True)
class BudgetSampler:
    """Draws from another sampler until enough networks are within a budget of MACs."""

    inner: Sampler
    space: AnySpace
    macs_low: int
    macs_high: int

    def draw(self, rng: np.random.Generator, *, count: int, epoch: int) -> Genomes:
        """Draw canonical genomes of the networks of one step."""
        accepted: list[Genomes] = []
        for _ in range(_MAX_DRAWS):
            candidates = self.inner.draw(rng, count=_CANDIDATES, epoch=epoch)
            macs = self.space.costs(candidates).macs
            accepted.append(candidates[(macs >= self.macs_low) & (macs <= self.macs_high)])
            if sum(map(len, accepted)) >= count:
                return np.concatenate(accepted)[:count]
        got = f"{sum(map(len, accepted))} of {_MAX_DRAWS * _CANDIDATES} drawn, {count} needed"
        message = f"some of the drawn networks must have {self.macs_low:,} to {self.macs_high:,} MACs"
        raise InputError(message, got=got, hint="a wider budget, or sampling.budget=identity in a ViTAS space")


def make_sampler(space: AnySpace, config: SamplingConfig, *, seed: int) -> Sampler:
    """Create the sampler that a config describes.

    Args:
        space: Space of the supernet.
        config: Sampling of the recipe; under `budget="identity"` the probability is searched here.
        seed: Seed of the training.

    Raises:
        InputError: The space has no identities, or no probability of them has the wanted mean MACs.
    """
    sampler: Sampler = UniformSampler(space)
    widening = WideningSampler(
        space=space, epochs=config.widening_epochs, distinct=config.distinct, first=config.first_choices
    )
    if config.spread == "macs":
        sampler = MacsSampler(widening=widening)
    elif config.widening_epochs or config.distinct:
        sampler = widening
    if config.budget == "identity":
        mean_macs = (config.macs_low + config.macs_high) / 2
        probability = search_identity_prob(space, mean_macs=mean_macs, rng=generator(seed, "identity"))
        sampler = IdentitySampler(space=space, probability=probability)
    elif config.identity_prob:
        require_identities(space)
        sampler = IdentitySampler(space=space, probability=config.identity_prob)
    if config.budget == "reject":
        return BudgetSampler(inner=sampler, space=space, macs_low=config.macs_low, macs_high=config.macs_high)
    return sampler


def require_identities(space: AnySpace) -> None:
    """Raise an InputError unless slots of a space can be identities."""
    if not (_depth_columns(space) or _head_columns(space)):
        message = "a probability of identities needs a ViTAS space whose slots can be identities"
        raise InputError(message, got=space.name, hint="sampling.identity_prob=0 and sampling.budget=reject")


def sample_with_identities(space: AnySpace, rng: np.random.Generator, *, count: int, probability: float) -> Genomes:
    """Draw canonical genomes whose slots are identities with a probability, and all else uniformly.

    A network or a stage without any block is given one.
    """
    sizes = [len(dimension.choices) for dimension in space.dimensions]
    rows = rng.integers(0, sizes, size=(count, len(sizes)), dtype=np.int16)
    for column in _depth_columns(space):
        slots = len(space.dimensions[column].choices)  # depths are 1 to the number of slots
        rows[:, column] = (rng.random((count, slots)) >= probability).sum(axis=1) - 1
    for column in _head_columns(space):
        is_identity = rng.random(count) < probability
        heads = rng.integers(0, sizes[column] - 1, size=count)
        rows[:, column] = np.where(is_identity, space.dimensions[column].choices.index(IDENTITY), heads)
    return space.repair(rows)


def search_identity_prob(space: AnySpace, *, mean_macs: float, rng: np.random.Generator) -> float:
    """Find the probability of identities with which random networks have given mean MACs.

    Args:
        space: A ViTAS space.
        mean_macs: Wanted mean, as the middle of a budget.
        rng: Decides the networks that means are estimated from.

    Raises:
        InputError: The space has no identities, or no probability has this mean.
    """
    require_identities(space)
    # Bisection with the same random numbers for every probability, so that the estimated mean falls without noise.
    seed = int(rng.integers(2**63))
    low, high = 0.0, 1.0
    most, least = (_estimate_mean_macs(space, probability, seed=seed) for probability in (low, high))
    if not least <= mean_macs <= most:
        message = f"the middle of the budget must be a mean that {space.name} can have"
        raise InputError(message, got=f"{mean_macs:,.0f} MACs", hint=f"{least:,.0f} to {most:,.0f}")
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        above = _estimate_mean_macs(space, middle, seed=seed) > mean_macs
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def _estimate_mean_macs(space: AnySpace, probability: float, *, seed: int) -> float:
    rng = np.random.default_rng(seed)
    rows = sample_with_identities(space, rng, count=_BISECTION_SAMPLES, probability=probability)
    return float(space.costs(rows).macs.mean())


def _widest_first(dimension: Dimension) -> tuple[int, ...]:
    count = len(dimension.choices)
    if dimension.name == "exists":
        # ViT-ResNAS lists twice that a block exists and twice that it does not, so that layers are only dropped in
        # later epochs, and then in half of the networks.
        return (count - 1, count - 1, 0, 0)
    return tuple(reversed(range(count)))


def _depth_columns(space: AnySpace) -> list[int]:
    """Return the genes of a ViTAS space that are the depth of the network or of a stage."""
    vitas = space.family.startswith("vitas")
    return [index for index, dimension in enumerate(space.dimensions) if vitas and dimension.name == "depth"]


def _head_columns(space: AnySpace) -> list[int]:
    """Return the genes whose number of heads can be that of an identity, which is the last choice."""
    columns = enumerate(space.dimensions)
    return [index for index, dimension in columns if dimension.name == "num_heads" and IDENTITY in dimension.choices]
