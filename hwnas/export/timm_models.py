"""Models of timm by name, as shapes: built on the `meta` device, so that no weight is made or downloaded."""

import difflib
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
    """A model of timm on the `meta` device, and the image that it takes."""

    name: str
    module: nn.Module
    image_size: tuple[int, int]
    """Height and width."""
    channels: int

    def workload(self) -> Workload:
        """Its workload for one image."""
        return trace_workload(self.module, image_size=self.image_size, channels=self.channels)


def own_size(name: str) -> int | None:
    """The side of the square image that a model is for; None where that is not known, or not square."""
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size if config else (0, 0, -1)
    return height if height == width else None


def build_timm(name: str, *, image_size: int | tuple[int, int] | None = None) -> TimmModel:
    """A model by its name in timm, for images of its own default size or of another one."""
    if not timm.is_model(name):
        raise _unknown(name)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    module = _created(name) if size is None else _created_for(name, size)
    channels, *default = (int(length) for length in module.pretrained_cfg["input_size"])
    height, width = size or default
    return TimmModel(name=name, module=module, image_size=(height, width), channels=channels)


def _created_for(name: str, size: tuple[int, int]) -> Any:
    """The model for this size; models that take any size are not told."""
    try:
        return _created(name, img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _created(name)


def _created(name: str, **options: Any) -> Any:
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        asked = "".join(f" with {option} {value}" for option, value in options.items())
        message = f"timm must be able to build {name}{asked}"
        raise InputError(message, got=error, hint="leave the size out, or the tag after the dot") from error


def _unknown(name: str) -> UnknownNameError:
    names = timm.list_models()
    near = nearest(name, names)
    return UnknownNameError(
        f"timm model {name!r} is not known",
        got=name,
        known=difflib.get_close_matches(name, names, n=8),
        hint=f"timm:{near}" if near else "a name that timm.list_models() gives",
    )
