"""Teachers: networks whose answers join the labels."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError, MissingError
from hwnas.train.data.augment import IMAGENET, Normalization
from hwnas.train.models import create_timm_model
from hwnas.train.weights import load_model

_PREFIX = "timm:"


def load_teacher(
    name: str, *, image_size: int, num_classes: int, pretrained: bool = False, checkpoint: Path | None = None
) -> nn.Module:
    """A frozen teacher: `timm:NAME`, a file that holds a network, or a run folder that has one.

    A model of timm has its published weights if `pretrained`, or those of a checkpoint file; it is shown images that
    are normalised as it was trained with, which its config at timm says.
    """
    if name.startswith(_PREFIX):
        teacher = _timm_teacher(
            name, image_size=image_size, num_classes=num_classes, pretrained=pretrained, checkpoint=checkpoint
        )
    else:
        teacher = load_model(Path(name))
    return _checked(teacher.eval().requires_grad_(False), name, image_size=image_size, num_classes=num_classes)


class RenormalizedTeacher(nn.Module):
    """A network that is shown images in its own normalisation, whatever they come in."""

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
        """The outputs of the network."""
        return self.network(images * self.scale + self.shift)


@torch.no_grad()
def answers(teacher: nn.Module, images: Tensor) -> Tensor:
    """The teacher's logits."""
    logits = teacher(images)
    return logits[0] if isinstance(logits, tuple) else logits  # type: ignore[no-any-return]


def _timm_teacher(
    name: str, *, image_size: int, num_classes: int, pretrained: bool, checkpoint: Path | None
) -> nn.Module:
    if not pretrained and checkpoint is None:
        message = "a teacher of timm must have weights"
        raise InputError(message, got=name, hint="its published ones (pretrained), or a checkpoint file")
    if checkpoint is None:
        _require_published(name, num_classes)
    try:
        options: dict[str, Any] = {"pretrained": pretrained and checkpoint is None}
        teacher = create_timm_model(name, image_size=image_size, num_classes=num_classes, **options)
    except InputError:
        raise
    except Exception as error:  # whatever the hub's client raises where it finds no network
        message = f"the published weights of {name} must be at hand or downloadable"
        raise MissingError(message, got=_first_line(error), hint="a checkpoint file of the teacher") from error
    if checkpoint is not None:
        _load(teacher, checkpoint)
    own = _normalization(teacher)
    return teacher if own == IMAGENET else RenormalizedTeacher(teacher, own)


def _normalization(model: nn.Module) -> Normalization:
    """What the config of a model of timm says about its images."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    mean, std = (tuple(config.get(name) or getattr(IMAGENET, name)) for name in ("mean", "std"))
    return Normalization(mean=mean, std=std)


def _require_published(name: str, num_classes: int) -> None:
    """With another number of classes timm would leave out the published classifier and draw one at random."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name.removeprefix(_PREFIX))
    if config is not None and config.num_classes != num_classes:
        message = f"a teacher with its published weights must know the same {num_classes} classes"
        raise InputError(message, got=f"{name}, which knows {config.num_classes}", hint="--teacher-weights FILE")


def _load(teacher: nn.Module, path: Path) -> None:
    from timm.models import load_state_dict

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        teacher.load_state_dict(load_state_dict(str(path), device="cpu", weights_only=True))
    except Exception as error:  # torch raises its own kinds for broken files and for weights that do not fit
        raise InputError(f"{path} must hold the weights of the teacher", got=_first_line(error)) from error


def _checked(teacher: nn.Module, name: str, *, image_size: int, num_classes: int) -> nn.Module:
    channels = getattr(teacher, "input_shape", None) or (3,)
    try:
        logits = answers(teacher, torch.zeros(2, channels[0], image_size, image_size))
    except (AssertionError, InputError, RuntimeError, ValueError) as error:
        message = f"the teacher must take images of {image_size} x {image_size}"
        raise InputError(message, got=f"{name}: {_first_line(error)}") from error
    if logits.shape != (2, num_classes):
        message = f"the teacher must know the same {num_classes} classes"
        raise InputError(message, got=f"{name}, which answers with {tuple(logits.shape[1:])}")
    return teacher


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
