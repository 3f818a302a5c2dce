"""Strategies: which networks a step trains, and on what losses.

A strategy draws the networks of a step and yields losses one at a time; the loop runs each backward before it asks
for the next, so that what one loss holds in memory is free again.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.space import Genomes
from hwnas.supernet.supernet import Supernet
from hwnas.train.losses import Microbatch, distillation_loss, parts, supervised_loss
from hwnas.train.recipe import Recipe
from hwnas.train.sampling import Sampler, make_sampler


@dataclass(frozen=True)
class StepNetworks:
    """The networks of one step, and their multiply-accumulates."""

    archs: tuple[Arch, ...] = ()
    macs: tuple[int, ...] = ()


class TrainingStrategy(ABC):
    """What a step trains of a model."""

    same_on_all_ranks: ClassVar[bool] = True
    """Whether all processes draw the same networks in a step."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        self.model = model
        self.recipe = recipe

    def networks(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Draw the networks of one step."""
        return StepNetworks()

    @abstractmethod
    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The losses of one part of a step, the one to report first."""

    def _supervised(self, output: Any, lesson: Microbatch) -> Tensor:
        return supervised_loss(output, lesson, self.recipe.teacher)


class OneNetwork(TrainingStrategy):
    """A network of its own, whatever made it."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        if isinstance(model, Supernet):
            message = f"strategy {recipe.strategy.name} trains a network of its own"
            raise InputError(message, got=type(model).__name__, hint="--arch …, or strategy.name=single")
        super().__init__(model, recipe, seed=seed)

    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The loss of the one network."""
        yield self._supervised(self.model(lesson.mixed.images), lesson)


class _SupernetStrategy(TrainingStrategy):
    """What all strategies of a supernet have."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        if not isinstance(model, Supernet):
            message = f"strategy {recipe.strategy.name} trains a supernet"
            raise InputError(message, got=type(model).__name__, hint="strategy.name=network")
        super().__init__(model, recipe, seed=seed)
        self.space = model.space
        self.sampler: Sampler = make_sampler(model.space, recipe.sampling, seed=seed)

    def networks(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Draw the networks of one step."""
        return self._decoded(self.sampler.draw(rng, count=self._count(), epoch=epoch))

    def _count(self) -> int:
        return 1

    def _decoded(self, genomes: Genomes) -> StepNetworks:
        return StepNetworks(self.space.decode(genomes), tuple(self.space.costs(genomes).macs.tolist()))


class SinglePath(_SupernetStrategy):
    """One network a step (AutoFormer, GLiT)."""

    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The loss of the one network."""
        yield self._supervised(self.model(lesson.mixed.images, networks.archs[0]), lesson)


class SeveralPaths(_SupernetStrategy):
    """Several networks in one forward and backward, each on its share of the images (ViT-ResNAS)."""

    same_on_all_ranks = False

    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The loss of all, image i of network i modulo their number."""
        yield self._supervised(self.model(lesson.mixed.images, networks.archs), lesson)

    def _count(self) -> int:
        return self.recipe.strategy.num_networks


class Bilateral(_SupernetStrategy):
    """One network from its left and its right side, logits summed (the first version of ViTAS)."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        super().__init__(model, recipe, seed=seed)
        _require_sharing(model, "bilateral")

    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The loss of the sum."""
        left, right = (self.model(lesson.mixed.images, networks.archs[0], side=side) for side in ("left", "right"))
        yield self._supervised(left + right, lesson)


class Cyclic(SinglePath):
    """One network a step on a ring of channels (ViTAS)."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        super().__init__(model, recipe, seed=seed)
        _require_sharing(model, "cyclic")


class Sandwich(_SupernetStrategy):
    """The largest network on labels; the smallest and some random ones on what the largest answers, in the same step.

    The gradients are summed, as in BigNAS (Yu et al. 2020).
    """

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int) -> None:
        super().__init__(model, recipe, seed=seed)
        self._ends = self._decoded(self.space.encode([self.space.largest(), self.space.smallest()]))

    def networks(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Largest, smallest, random ones."""
        drawn = super().networks(rng, epoch=epoch)
        return StepNetworks(self._ends.archs + drawn.archs, self._ends.macs + drawn.macs)

    def losses(self, lesson: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """The loss of the largest, then those of its pupils."""
        largest, *pupils = networks.archs
        output = self.model(lesson.mixed.images, largest)
        yield self._supervised(output, lesson)
        answers = tuple(part.detach() for part in parts(output) if part is not None)
        for pupil in pupils:
            output = self.model(lesson.mixed.images, pupil)
            yield self._distilled(output, answers)

    def _count(self) -> int:
        return self.recipe.strategy.num_networks

    def _distilled(self, output: Any, answers: tuple[Tensor, ...]) -> Tensor:
        taught = answers if len(answers) > 1 else answers[0]
        return distillation_loss(output, taught, temperature=self.recipe.strategy.temperature)


def make_strategy(model: nn.Module, recipe: Recipe, *, seed: int) -> TrainingStrategy:
    """The strategy that a recipe names, for a model."""
    strategy: TrainingStrategy = STRATEGIES.get(recipe.strategy.name)(model, recipe, seed=seed)
    if recipe.strategy.sort_units and not hasattr(model, "sortable"):
        message = "units can be sorted in a supernet of ViT-ResNAS alone"
        raise InputError(message, got=type(model).__name__, hint="strategy.sort_units=false")
    return strategy


def _require_sharing(model: nn.Module, sharing: str) -> None:
    got = getattr(model.config, "sharing", "none")
    if got != sharing:
        raise InputError(
            f"the supernet must have {sharing} sharing", got=got, hint=f"a space of ViTAS, shared {sharing}"
        )


STRATEGIES: Registry[type[TrainingStrategy]] = Registry(
    "strategy",
    [
        ("single", SinglePath),
        ("several", SeveralPaths),
        ("bilateral", Bilateral),
        ("cyclic", Cyclic),
        ("sandwich", Sandwich),
        ("network", OneNetwork),
    ],
)
"""The strategies by name."""
