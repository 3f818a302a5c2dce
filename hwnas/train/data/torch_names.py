"""The sets of torchvision that timm opens by a name `torch/…`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.train.data.images import ArrayImages, BadImageError, Images, Labels

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("cifar10", "cifar100", "fashion_mnist", "image_folder", "imagenet", "kmnist", "mnist", "places365", "qmnist")
"""What timm knows under `torch/` and what gives its labels without reading its pictures."""


@dataclass(frozen=True)
class TorchImages:
    """Pictures of a torchvision dataset."""

    dataset: Any
    labels: Labels
    name: str

    @cached_property
    def keys(self) -> Sequence[str]:
        """Paths where there are files, else numbers."""
        samples = getattr(self.dataset, "samples", None)
        if samples is None:
            return [f"{self.name} {index}" for index in range(len(self))]
        return [str(path) for path, _ in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> "Image":
        """One picture."""
        try:
            image: Image = self.dataset[index][0].convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise BadImageError(self.keys[index], error) from error
        return image


def open_torch(name: str, *, root: Path | None, train: bool, download: bool) -> tuple[Images, tuple[str, ...]]:
    """One part of a set, and the names of its classes."""
    from timm.data.dataset_factory import create_dataset

    short = name.removeprefix("torch/").casefold()
    if short not in NAMES:
        raise unknown("data: torch/", short, NAMES, hint="--data torch/{}")
    if root is None:
        raise InputError(f"{name} needs the folder in which it lies", hint="--root DIR")
    split = "train" if train else "validation"
    try:
        dataset = create_dataset(name.casefold(), root=str(root), split=split, download=download)
    except (RuntimeError, OSError) as error:  # torchvision's own words for what is not there or broken
        raise InputError(f"{name} must lie in {root}", got=error, hint="download it (--download)") from error
    return _images(dataset, f"{name} {'train' if train else 'test'}"), _classes(dataset)


def _images(dataset: Any, name: str) -> Images:
    labels = np.asarray(dataset.targets, dtype=np.int64)
    if labels.ndim == 2:  # QMNIST keeps more beside the class
        labels = labels[:, 0]
    array = np.asarray(getattr(dataset, "data", ()))
    if array.dtype == np.uint8 and array.ndim in (3, 4) and len(array) == len(labels):
        pixels = array[..., None] if array.ndim == 3 else array
        return ArrayImages(pixels, labels, [f"{name} {index}" for index in range(len(labels))])
    return TorchImages(dataset, labels, name)


def _classes(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or range(int(np.max(dataset.targets)) + 1)
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)
