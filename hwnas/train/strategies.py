"""Training strategies: the networks that a step trains, and their losses.

A strategy draws the networks of a step and yields losses one at a time. The step runs the backward pass of each before
it asks for the next, so that the activations of one loss are freed before those of the next are computed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.elastic import ElasticArch
from hwnas.space.space import Genomes
from hwnas.supernet.elastic import ElasticSupernet, detailed_outputs
from hwnas.supernet.supernet import Supernet
from hwnas.train.losses import (
    Microbatch,
    distillation_loss,
    elastic_loss,
    split_output,
    supervised_loss,
)
from hwnas.train.models import has_distillation_token
from hwnas.train.recipe import Recipe
from hwnas.train.sampling import Sampler, make_sampler
from hwnas.train.tasks import outputs_of


@dataclass(frozen=True)
class StepNetworks:
    """Networks of one step, with the multiply-accumulates of each; none for a model that is one network."""

    archs: tuple[Arch, ...] = ()
    macs: tuple[int, ...] = ()


class TrainingStrategy(ABC):
    """Chooses what a step trains of a model.

    Args:
        model: Supernet or network to train.
        recipe: Settings of the training.
        seed: Seed of the training.
        world_size: Number of processes.

    Raises:
        InputError: The strategy cannot train this model.
    """

    same_on_all_ranks: ClassVar[bool] = True
    """True if all processes draw the same networks in a step."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        self.model = model
        self.recipe = recipe
        self.images = recipe.batch_size // world_size
        """Images of a step on one process."""
        self.task_outputs = outputs_of(model)
        """The meaning of the outputs for detection or segmentation; None: the model is a classifier."""

    def draw(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Draw the networks of one step."""
        return StepNetworks()

    @abstractmethod
    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the losses of one microbatch; the first one is reported."""

    def _supervised_loss(self, output: Any, microbatch: Microbatch) -> Tensor:
        if self.task_outputs is not None:
            return self.task_outputs.loss(output, microbatch.task_targets)
        return supervised_loss(output, microbatch, self.recipe.teacher)


class SingleNetwork(TrainingStrategy):
    """Trains a model that is one network, of a space or of timm."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        if isinstance(model, Supernet):
            message = f"strategy {recipe.strategy.name} trains a single network"
            raise InputError(message, got=type(model).__name__, hint="--arch …, or strategy.name=single")
        super().__init__(model, recipe, seed=seed, world_size=world_size)

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of the network."""
        yield self._supervised_loss(self.model(microbatch.mixed.images), microbatch)


class SupernetStrategy(TrainingStrategy):
    """Trains networks of a supernet that a sampler draws."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        if not isinstance(model, Supernet):
            message = f"strategy {recipe.strategy.name} trains a supernet"
            raise InputError(message, got=type(model).__name__, hint="strategy.name=network")
        super().__init__(model, recipe, seed=seed, world_size=world_size)
        self.space = model.space
        self.sampler: Sampler = make_sampler(model.space, recipe.sampling, seed=seed)

    def draw(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Draw the networks of one step."""
        return self._decode(self.sampler.draw(rng, count=self._count(), epoch=epoch))

    def _count(self) -> int:
        return 1

    def _decode(self, genomes: Genomes) -> StepNetworks:
        return StepNetworks(self.space.decode(genomes), tuple(self.space.costs(genomes).macs.tolist()))


class SinglePath(SupernetStrategy):
    """Trains one network per step (AutoFormer, GLiT)."""

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of the network."""
        yield self._supervised_loss(self.model(microbatch.mixed.images, networks.archs[0]), microbatch)


class MultiPath(SupernetStrategy):
    """Trains several networks in one forward and backward pass, each on its share of the images (ViT-ResNAS)."""

    same_on_all_ranks = False

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of all; image i goes to network i modulo their number."""
        yield self._supervised_loss(self.model(microbatch.mixed.images, networks.archs), microbatch)

    def _count(self) -> int:
        at_once = self.images // self.recipe.grad_accum_steps  # each microbatch runs all networks of the step
        return max(1, min(self.recipe.strategy.networks_of(self.images), at_once))


class Bilateral(SupernetStrategy):
    """Trains one network on the left and the right channels, with summed logits (first version of ViTAS)."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        super().__init__(model, recipe, seed=seed, world_size=world_size)
        _require_sharing(model, "bilateral")

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of the summed logits."""
        images, arch = microbatch.mixed.images, networks.archs[0]
        left, right = (self.model(images, arch, side=side) for side in ("left", "right"))
        # Boxes are regressed: their numbers are averaged, so that one side alone predicts boxes of the same size.
        yield self._supervised_loss(left + right if self.task_outputs is None else (left + right) / 2, microbatch)


class Cyclic(SinglePath):
    """Trains one network per step on a ring of channels (ViTAS)."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        super().__init__(model, recipe, seed=seed, world_size=world_size)
        _require_sharing(model, "cyclic")


class Sandwich(SupernetStrategy):
    """Trains the largest network on labels, and the smallest and random ones on the largest's outputs.

    That is the sandwich rule with inplace distillation (Yu and Huang 2019), with gradients summed in one step as in
    BigNAS (Yu et al. 2020): the extremes bound the accuracy of all networks, and the largest needs no other teacher.
    Networks for detection and segmentation all learn the targets.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        super().__init__(model, recipe, seed=seed, world_size=world_size)
        if has_distillation_token(model):
            message = "strategy sandwich needs networks without a distillation token, which only a teacher can train"
            raise InputError(message, got=self.space.name, hint="strategy.name=several, or a space without distilled-")
        self._extremes = self._decode(self.space.encode([self.space.largest(), self.space.smallest()]))

    def draw(self, rng: np.random.Generator, *, epoch: int) -> StepNetworks:
        """Draw the random networks; the largest and the smallest come first."""
        drawn = super().draw(rng, epoch=epoch)
        return StepNetworks(self._extremes.archs + drawn.archs, self._extremes.macs + drawn.macs)

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of the largest network, then those of its students."""
        largest, *students = networks.archs
        output = self.model(microbatch.mixed.images, largest)
        yield self._supervised_loss(output, microbatch)
        if self.task_outputs is not None:
            for student in students:
                yield self._supervised_loss(self.model(microbatch.mixed.images, student), microbatch)
            return
        detached = tuple(part.detach() for part in split_output(output) if part is not None)
        target = detached if len(detached) > 1 else detached[0]
        for student in students:
            output = self.model(microbatch.mixed.images, student)
            yield distillation_loss(output, target, temperature=self.recipe.strategy.temperature)

    def _count(self) -> int:
        return self.recipe.strategy.num_networks


class ElasticDistillation(Sandwich):
    """Trains the largest, the smallest and random networks inside a model on the outputs of the model as it was.

    The networks have the tokens and the width of the model, so they learn its features as well as its logits: the
    pooled features, and the tokens of the patches (Proteus, Zhang et al. 2025).
    """

    def __init__(self, model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> None:
        super().__init__(model, recipe, seed=seed, world_size=world_size)
        if not isinstance(model, ElasticSupernet):
            message = "strategy elastic trains the networks inside a pretrained model"
            raise InputError(message, got=self.space.name, hint="--elastic timm:NAME, or strategy.name=sandwich")
        if self.task_outputs is not None:
            message = "strategy elastic trains classifiers"
            raise InputError(message, got=self.space.name, hint="strategy.name=sandwich")
        self._supernet = model
        self._original = model.subnet(model.space.largest()).eval().requires_grad_(requires_grad=False)

    def losses(self, microbatch: Microbatch, networks: StepNetworks) -> Iterator[Tensor]:
        """Yield the loss of each network; the model runs once for all of them."""
        images = microbatch.mixed.images
        with torch.no_grad():
            target = detailed_outputs(self._original, images)
        for arch in networks.archs:
            assert isinstance(arch, ElasticArch)
            found = self._supernet.outputs(images, arch)
            yield elastic_loss(found, target, microbatch.mixed.targets, self.recipe.strategy, self.recipe.teacher)


def make_strategy(model: nn.Module, recipe: Recipe, *, seed: int, world_size: int = 1) -> TrainingStrategy:
    """Create the strategy that a recipe names.

    Args:
        model: Supernet or network to train.
        recipe: Settings of the training.
        seed: Seed of the training.
        world_size: Number of processes that train together.

    Raises:
        InputError: The strategy is unknown or cannot train this model.
    """
    strategy: TrainingStrategy = STRATEGIES.get(recipe.strategy.name)(model, recipe, seed=seed, world_size=world_size)
    if recipe.strategy.sort_units and not hasattr(model, "sortable"):
        message = "units can be sorted in a supernet of ViT-ResNAS or of an elastic space only"
        raise InputError(message, got=type(model).__name__, hint="strategy.sort_units=false")
    return strategy


def _require_sharing(model: nn.Module, sharing: str) -> None:
    got = getattr(model.config, "sharing", "none")
    if got != sharing:
        hint = f"a ViTAS space with {sharing} sharing"
        raise InputError(f"the supernet must have {sharing} sharing", got=got, hint=hint)


STRATEGIES: Registry[type[TrainingStrategy]] = Registry(
    "strategy",
    [
        ("single", SinglePath),
        ("several", MultiPath),
        ("bilateral", Bilateral),
        ("cyclic", Cyclic),
        ("sandwich", Sandwich),
        ("elastic", ElasticDistillation),
        ("network", SingleNetwork),
    ],
)
"""Training strategies by name."""
