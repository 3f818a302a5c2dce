"""Models of timm by name, without weights: built on torch's `meta` device, so nothing is allocated or downloaded."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from hwnas.errors import InputError, UnknownNameError, nearest
from hwnas.export.tracer import trace_workload
from hwnas.workload import Workload


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """A model of timm on the `meta` device and the image that it takes."""

    name: str
    module: nn.Module
    image_size: tuple[int, int]
    """Height and width."""
    channels: int

    def workload(self) -> Workload:
        """Trace its workload for one image."""
        return trace_workload(self.module, image_size=self.image_size, channels=self.channels)


def default_image_size(name: str) -> int | None:
    """Return the side of the square images that a model was made for; None if unknown or not square."""
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size if config else (0, 0, -1)
    return height if height == width else None


def build_timm(name: str, *, image_size: int | tuple[int, int] | None = None) -> TimmModel:
    """Build a model of timm on the `meta` device.

    Args:
        name: Name in timm, with or without a tag behind a dot.
        image_size: Side, or height and width, of the images; None for the model's default.

    Raises:
        UnknownNameError: timm has no model of this name.
        InputError: timm cannot build the model for this image size or tag.
    """
    if not timm.is_model(name):
        names = timm.list_models()
        near = _nearest_model(name, names)
        raise UnknownNameError(
            f"timm model {name!r} is not known",
            got=name,
            known=difflib.get_close_matches(name, names, n=8),
            hint=f"timm:{near}" if near else "a name that timm.list_models() lists",
        )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        module = _create(name) if size is None else _create(name, img_size=size)
    except TypeError as error:  # convolutional models take images of any size and have no such argument
        if "img_size" not in str(error):
            raise
        module = _create(name)
    channels, *default = (int(length) for length in module.pretrained_cfg["input_size"])
    height, width = size or default
    return TimmModel(name=name, module=module, image_size=(height, width), channels=channels)


def _nearest_model(name: str, names: Sequence[str]) -> str | None:
    """Return the model whose name, or the beginning of it, is spelled most like the given one."""
    beginnings: dict[str, str] = {}
    for known in sorted(names, key=len):
        beginnings.setdefault(known[: len(name)], known)
    near = nearest(name, [*names, *beginnings])
    return None if near is None else beginnings.get(near, near)


def _create(name: str, **options: Any) -> Any:
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **options)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
        details = "".join(f" with {option} {value}" for option, value in options.items())
        message = f"timm must be able to build {name}{details}"
        raise InputError(message, got=error, hint="leave the size out, or the tag after the dot") from error
