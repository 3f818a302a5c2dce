"""The model of a training, with the weights that it starts from, and its teacher."""

from dataclasses import dataclass

from torch import nn

from hwnas.supernet.store import load_supernet
from hwnas.train.models import (
    continued_supernet,
    fresh_network,
    fresh_supernet,
    inherited_network,
    timm_network,
)
from hwnas.train.options import TrainConfig, supernet_file
from hwnas.train.teacher import load_teacher
from hwnas.train.weights import Origin, SpaceOrigin, TimmOrigin


@dataclass(frozen=True)
class Start:
    """A model as it is before the first step."""

    model: nn.Module
    notes: tuple[str, ...] = ()
    """What of given weights could not be used."""


def make_model(config: TrainConfig) -> Start:
    """The model of a training, with fresh weights or those of a supernet."""
    if config.supernet is not None:
        return _continued(config)
    if config.model is not None:
        return Start(_of_timm(config, config.model))
    if config.arch is None:
        return Start(fresh_supernet(config.chosen_space(), config.recipe, seed=config.seed))
    return Start(fresh_network(config.chosen_space(), config.chosen_arch(), config.recipe, seed=config.seed))


def make_teacher(config: TrainConfig) -> nn.Module | None:
    """The network whose answers join the labels."""
    if config.teacher is None:
        return None
    return load_teacher(
        config.teacher.name,
        image_size=config.image_size,
        num_classes=config.num_classes,
        pretrained=config.teacher.pretrained,
        checkpoint=config.teacher.checkpoint,
    )


def origin(config: TrainConfig) -> Origin | None:
    """Where a network of its own belongs."""
    if config.model is not None:
        return TimmOrigin(name=config.model, image_size=config.image_size, num_classes=config.num_classes)
    if config.arch is not None:
        return SpaceOrigin(space=config.chosen_space(), arch=config.chosen_arch())
    return None


def _of_timm(config: TrainConfig, name: str) -> nn.Module:
    return timm_network(
        name, config.recipe, image_size=config.image_size, num_classes=config.num_classes, seed=config.seed
    )


def _continued(config: TrainConfig) -> Start:
    """A supernet, or a network of it, with given weights, at the images and classes of this training."""
    assert config.supernet is not None
    held = load_supernet(supernet_file(config.supernet))
    supernet, fresh = continued_supernet(held, config.chosen_space(), config.recipe, seed=config.seed)
    notes = (f"drawn anew, for {config.num_classes} classes: {', '.join(fresh)}",) if fresh else ()
    if config.arch is None:
        return Start(supernet, notes)
    return Start(inherited_network(supernet, config.chosen_arch(), config.recipe), notes)
