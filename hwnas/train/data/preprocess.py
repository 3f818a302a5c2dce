"""How an image becomes the input of a network, and the names of its outputs, for those who run exported networks.

A training writes the record beside its weights, and what is made of these weights carries it on. Its keys are those of
timm's `pretrained_cfg`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np

from hwnas.config import Above, Between, from_mapping, load_json, require_valid, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.train.data.augment import EVAL_CROP_SHARE, IMAGENET
from hwnas.train.data.images import BadImageError, ImageDataset
from hwnas.train.data.sources import DataSplits

if TYPE_CHECKING:
    from hwnas.train.data.samples import AnnotatedData

PREPROCESS = "preprocess.json"
"""File with the record, beside weights."""

BACKGROUND = "background"
"""Name of the first class of detectors and segmenters."""

_PROBED = 16
"""Images whose sizes decide the share that is cropped."""


_Size = Annotated[int, Between(1, 16_384)]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Preparation of an image for a network, with the names of timm's `pretrained_cfg`.

    With `crop_mode` `center` the shorter side is resized to `input_size / crop_pct`, rounded down, and the center is
    cropped. With `letterbox`, as for detectors and segmenters, the longer side is resized to `input_size`, and the
    image is placed at the top left. Pixels from 0 to 1 are then normalised by `mean` and `std` of each channel, in RGB
    order; what is missing at the right or below has the color `mean`, which becomes 0.
    """

    input_size: tuple[_Size, _Size, _Size]
    """Channels, height and width."""
    num_classes: Annotated[int, Between(1, 1_000_000)]
    interpolation: str = "bicubic"
    crop_pct: Annotated[float, Above(0, 1)] = EVAL_CROP_SHARE
    """0.875, or 1 if most images are no larger than the input: such an image is never cropped here."""
    crop_mode: Literal["center", "letterbox"] = "center"
    mean: tuple[float, ...] = IMAGENET.mean
    std: tuple[Annotated[float, Above(0, 1000)], ...] = IMAGENET.std
    label_names: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs; empty if they are not known. Those of detectors and segmenters
    begin with the background."""

    def __post_init__(self) -> None:
        require_valid(self)
        if self.label_names and len(self.label_names) != self.num_classes:
            message = f"label_names must have a name for each of the {self.num_classes} classes, or none"
            raise InputError(message, got=f"{len(self.label_names)} names")

    @classmethod
    def of(
        cls, *, input_size: tuple[int, int, int], num_classes: int, beside: Path | None = None, letterbox: bool = False
    ) -> Self:
        """Return the record of a network, with what is known of the images that its weights were trained on.

        Args:
            input_size: Channels, height and width of the network's input.
            num_classes: Outputs of the network.
            beside: File of its weights; None: they are random.
            letterbox: True for detectors and segmenters.
        """
        mean, std = _statistics(input_size[0])
        plain = cls(input_size=input_size, num_classes=num_classes, mean=mean, std=std)
        if letterbox:
            plain = replace(plain, interpolation="bilinear", crop_pct=1.0, crop_mode="letterbox")
        known = None if beside is None else read_preprocess(beside.parent)
        if known is None or (known.num_classes, known.crop_mode) != (num_classes, plain.crop_mode):
            return plain
        return replace(plain, crop_pct=known.crop_pct, label_names=known.label_names)

    def to_timm(self) -> dict[str, Any]:
        """Return the record as plain values; class names that are not known are left out."""
        values = to_mapping(self)
        if not self.label_names:
            del values["label_names"]
        return values

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(self.to_timm(), ensure_ascii=False)


def preprocess_of(space: AnySpace, arch: Arch, *, weights: Path | None) -> Preprocess:
    """Return the record of a network of a space.

    Args:
        space: The space.
        arch: The network.
        weights: File of its weights, or of those that they are taken from; None: they are random.
    """
    return Preprocess.of(
        input_size=space.input_shape_of(arch),
        num_classes=space.config.num_classes,
        beside=weights,
        letterbox=space.config.task_head is not None,
    )


def describe_data(data: DataSplits, *, num_classes: int, image_shape: tuple[int, int, int]) -> Preprocess:
    """Return the record of networks that are trained on a dataset.

    Args:
        data: The dataset; the sizes of its images decide how they are cropped.
        num_classes: Outputs of the networks.
        image_shape: Channels, height and width of their input.
    """
    plain = Preprocess.of(input_size=image_shape, num_classes=num_classes)
    names = data.classes if len(data.classes) == num_classes else ()
    return replace(plain, crop_pct=_crop_share(data.train, image_shape[1]), label_names=names)


def describe_annotated(data: "AnnotatedData", *, image_shape: tuple[int, int, int]) -> Preprocess:
    """Return the record of networks that are trained on a dataset for detection or segmentation."""
    plain = Preprocess.of(input_size=image_shape, num_classes=data.num_classes, letterbox=True)
    return replace(plain, label_names=(BACKGROUND, *data.classes))


def write_preprocess(folder: Path, record: Preprocess) -> None:
    """Write a record to a folder of weights."""
    write_atomic(folder / PREPROCESS, json.dumps(record.to_timm(), indent=2, ensure_ascii=False) + "\n")


def read_preprocess(folder: Path) -> Preprocess | None:
    """Read the record of a folder of weights; None if there is none.

    Raises:
        InputError: The file is no such record.
    """
    path = folder / PREPROCESS
    if not path.is_file():
        return None
    data = load_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a table of named values", got=type(data).__name__)
    return from_mapping(Preprocess, data, where=str(path))


def _statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation; those of three channels are exact, as they are written."""
    if channels == 3:
        return IMAGENET.mean, IMAGENET.std
    mean, std = IMAGENET.columns(channels)
    return tuple(map(float, mean)), tuple(map(float, std))


def _crop_share(images: ImageDataset, size: int) -> float:
    """Return the share of the shorter side that is kept of most images of a dataset."""
    numbers = np.unique(np.linspace(0, len(images) - 1, min(_PROBED, len(images))).astype(int))
    larger = [side > size for number in numbers if (side := _shorter_side(images, int(number))) is not None]
    return EVAL_CROP_SHARE if not larger or 2 * sum(larger) > len(larger) else 1.0


def _shorter_side(images: ImageDataset, number: int) -> int | None:
    try:
        return min(images.read(number).size)
    except BadImageError:
        return None
