"""The model of a training, with the weights that it starts from, and its teacher."""

from typing import Any

from torch import nn

from hwnas.pipeline.training.options import TrainConfig, supernet_file
from hwnas.supernet.store import load_supernet
from hwnas.supernet.supernet import Supernet
from hwnas.train.models import (
    continued_supernet,
    fresh_network,
    fresh_supernet,
    inherited_network,
    timm_network,
)
from hwnas.train.teacher import load_teacher
from hwnas.train.weights import Origin, SpaceOrigin, TimmOrigin


def make_model(config: TrainConfig) -> nn.Module:
    """The model as it is before the first step."""
    if config.model is not None:
        return timm_network(
            config.model,
            config.recipe,
            image_size=config.image_size,
            num_classes=config.num_classes,
            seed=config.seed,
        )
    space = config.chosen_space()
    if config.supernet is None:
        if config.arch is None:
            return fresh_supernet(space, config.recipe, seed=config.seed)
        return fresh_network(space, config.chosen_arch(), config.recipe, seed=config.seed)
    supernet = _continued(config)
    return supernet if config.arch is None else inherited_network(supernet, config.chosen_arch(), config.recipe)


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


def _continued(config: TrainConfig) -> Supernet[Any, Any, Any]:
    """A supernet with the weights of the one that is given, at the images and classes of this training."""
    assert config.supernet is not None
    held = load_supernet(supernet_file(config.supernet))
    return continued_supernet(held, config.chosen_space(), config.recipe, seed=config.seed)
