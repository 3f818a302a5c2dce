"""Teachers: frozen networks whose logits are learned in addition to the labels."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.train.data.augment import IMAGENET, Normalization
from hwnas.train.pretrained import first_line, load_pretrained, own_normalization
from hwnas.train.weights import load_model

_PREFIX = "timm:"


def load_teacher(
    name: str, *, image_size: int, num_classes: int, pretrained: bool = False, checkpoint: Path | None = None
) -> nn.Module:
    """Load a frozen teacher.

    A model of timm gets images with the normalization that it was trained with, according to its config.

    Args:
        name: `timm:NAME`, a file of one network, or a run that has one.
        image_size: Side of the training images.
        num_classes: Number of classes of the training.
        pretrained: Use the published weights of a model of timm.
        checkpoint: Weights of a model of timm in a file.

    Raises:
        InputError: The teacher cannot be loaded, or does not take such images or know such classes.
        MissingError: The published weights can be neither found nor downloaded.
    """
    if name.startswith(_PREFIX):
        teacher = _timm_teacher(
            name, image_size=image_size, num_classes=num_classes, pretrained=pretrained, checkpoint=checkpoint
        )
    else:
        teacher = load_model(Path(name))
    return _check(teacher.eval().requires_grad_(False), name, image_size=image_size, num_classes=num_classes)


class RenormalizedTeacher(nn.Module):
    """Converts images to a network's own normalization.

    Args:
        network: The network.
        own: Normalization that it was trained with.
        given: Normalization of the images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, own: Normalization, *, given: Normalization = IMAGENET) -> None:
        super().__init__()
        self.network = network
        mean, std, given_mean, given_std = (
            torch.tensor(values).view(3, 1, 1) for values in (own.mean, own.std, given.mean, given.std)
        )
        self.register_buffer("scale", given_std / std)
        self.register_buffer("shift", (given_mean - mean) / std)

    def forward(self, images: Tensor) -> Any:
        """Run the network on renormalized images."""
        return self.network(images * self.scale + self.shift)


@torch.no_grad()
def compute_teacher_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    """Run a teacher without gradients and return the logits of its (first) head."""
    logits = teacher(images)
    return logits[0] if isinstance(logits, tuple) else logits  # type: ignore[no-any-return]


def _timm_teacher(
    name: str, *, image_size: int, num_classes: int, pretrained: bool, checkpoint: Path | None
) -> nn.Module:
    if not pretrained and checkpoint is None:
        message = "a teacher of timm needs weights"
        raise InputError(message, got=name, hint="its published ones (pretrained), or a checkpoint file")
    if checkpoint is None:
        _require_same_classes(name, num_classes)
    teacher = load_pretrained(
        name, image_size=image_size, num_classes=num_classes, pretrained=pretrained, checkpoint=checkpoint
    )
    own = own_normalization(teacher)
    return teacher if own == IMAGENET else RenormalizedTeacher(teacher, own)


def _require_same_classes(name: str, num_classes: int) -> None:
    # With another number of classes, timm would replace the published classifier by a random one without a word.
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name.removeprefix(_PREFIX))
    if config is not None and config.num_classes != num_classes:
        message = f"a teacher with its published weights must know the same {num_classes} classes"
        raise InputError(message, got=f"{name}, which knows {config.num_classes}", hint=_remedy(name))


def _check(teacher: nn.Module, name: str, *, image_size: int, num_classes: int) -> nn.Module:
    channels = getattr(teacher, "input_shape", None) or (3,)
    try:
        logits = compute_teacher_logits(teacher, torch.zeros(2, channels[0], image_size, image_size))
    except (AssertionError, InputError, RuntimeError, ValueError) as error:
        message = f"the teacher must take images of {image_size} x {image_size}"
        raise InputError(message, got=f"{name}: {first_line(error)}") from error
    if logits.shape != (2, num_classes):
        message = f"the teacher must know the same {num_classes} classes"
        got = f"{name}, whose output has the shape {tuple(logits.shape)}"
        raise InputError(message, got=got, hint=_remedy(name))
    return teacher


def _remedy(name: str) -> str:
    """Return how a teacher learns the classes of a training."""
    model, weights = (name, " --pretrained") if name.startswith(_PREFIX) else ("timm:NAME", " --pretrained")
    return f"hwnas train --model {model}{weights} --data DIR --out teacher, and then --teacher teacher"
