"""The space that suits a set of images and a machine."""

from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from hwnas.devices import Machine
from hwnas.errors import InputError
from hwnas.space.space import MINI_SIZES
from hwnas.train.data.images import BadImageError, ImageDataset
from hwnas.train.data.sources import DataSplits, open_data
from hwnas.train.options import TrainOptions, resolve_data_config
from hwnas.train.presets import SMALL_SET

_SAMPLE = 64
"""Images whose size is looked at."""

_LARGE_SIDE = 160
"""Side of images from which a space for 224 pixels has something to see."""

_PROBE_SHAPE = (3, 32, 32)
"""At this size images are listed; only those that are made have a size of their own."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A space, and what it was chosen by."""

    space: str
    image_side: int
    """Median of the shorter sides of some images."""
    on_gpu: bool

    @property
    def smaller_spaces(self) -> tuple[str, ...]:
        """Spaces that take less time, from the largest images to the smallest."""
        sizes = [size for size in reversed(MINI_SIZES) if size <= self.image_side]
        names = [*(f"vitas-twins-mini-{size}" for size in sizes), "vitas-twins-micro"]
        return tuple(names[names.index(self.space) + 1 if self.space in names else 0 :])

    def describe(self) -> str:
        """Say what is proposed and why."""
        where = "a GPU" if self.on_gpu else "this CPU"
        return f"proposed for images of about {self.image_side} pixels on {where}: --space {self.space}"


def names_no_model(options: TrainOptions) -> bool:
    """Return True if options do not say what is trained."""
    return (options.space, options.arch, options.supernet, options.model, options.elastic) == (None,) * 5


def open_images(options: TrainOptions) -> DataSplits:
    """Open the images of a training whose network is not chosen yet."""
    return open_data(resolve_data_config(options), image_shape=_PROBE_SHAPE)


def with_proposed_space(options: TrainOptions, machine: Machine) -> tuple[TrainOptions, Proposal]:
    """Return options with the space that suits their images and a machine."""
    proposal = propose_space(open_images(options), machine)
    return replace(options, space=proposal.space), proposal


def propose_space(data: DataSplits, machine: Machine) -> Proposal:
    """Choose the space for images and a machine.

    On a GPU, fifty thousand images and more that are large enough have a space for 224 pixels; all others the mini
    space at the largest size that the images have. Of the families, ViTAS on Twins learns most in the same CPU time
    (`benchmarks/mini_spaces.py`).
    """
    side, on_gpu = _typical_side(data.train), bool(machine.gpus)
    if on_gpu and side >= _LARGE_SIDE and len(data.train) >= SMALL_SET:
        return Proposal(space="autoformer-tiny", image_side=side, on_gpu=True)
    size = max((size for size in MINI_SIZES if size <= side), default=None)
    name = (
        "vitas-twins-micro" if size is None and side <= _PROBE_SHAPE[1] else f"vitas-twins-mini-{size or MINI_SIZES[0]}"
    )
    return Proposal(space=name, image_side=side, on_gpu=on_gpu)


def _typical_side(images: ImageDataset) -> int:
    sides = []
    for index in np.linspace(0, len(images) - 1, min(_SAMPLE, len(images)), dtype=int):
        try:
            sides.append(min(images.read(int(index)).size))
        except BadImageError:
            continue
    if not sides:
        raise InputError("some images must be readable", got=f"none of {_SAMPLE} that were tried")
    return round(median(sides))
