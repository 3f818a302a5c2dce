"""Labelled pictures that are reached by number."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


class BadImageError(InputError):
    """A picture that cannot be read; `key` names it."""

    def __init__(self, key: str, reason: object) -> None:
        super().__init__(f"{key} is not a picture that can be read", got=reason)
        self.key = key
        self.reason = str(reason)


class Images(Protocol):
    """Labelled pictures reached by number."""

    @property
    def labels(self) -> Labels:
        """The class of each picture."""

    @property
    def keys(self) -> Sequence[str]:
        """What a file list calls each picture."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> "Image":
        """One picture, in RGB; one that cannot be read is a `BadImageError`."""


class ArrayImages:
    """Pictures in memory: the fast way to make batches."""

    def __init__(self, array: NDArray[np.uint8], labels: Labels, keys: Sequence[str]) -> None:
        if array.ndim != 4 or array.shape[3] not in (1, 3) or array.dtype != np.uint8:
            message = "pictures in memory must be bytes of the shape (pictures, height, width, 1 or 3)"
            raise InputError(message, got=f"{array.dtype} {array.shape}")
        if not len(array) == len(labels) == len(keys):
            message = "there must be one label and one key for each picture"
            raise InputError(message, got=f"{len(array)} pictures, {len(labels)} labels, {len(keys)} keys")
        self.array = array
        self.labels = np.asarray(labels, dtype=np.int64)
        self.keys = keys

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int) -> "Image":
        """One picture."""
        from PIL import Image

        pixels = self.array[index]
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")


@dataclass(frozen=True)
class Subset:
    """Some of the pictures of another set."""

    images: Images
    indices: Indices

    @cached_property
    def labels(self) -> Labels:
        """The class of each picture."""
        return self.images.labels[self.indices]

    @cached_property
    def keys(self) -> Sequence[str]:
        """Their names in the other set."""
        return [self.images.keys[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> "Image":
        """One picture."""
        return self.images.read(int(self.indices[index]))


def subset(images: Images, indices: Any) -> Images:
    """The pictures with these numbers, in this order; those of an array stay one."""
    chosen = np.asarray(indices, dtype=np.int64)
    if isinstance(images, ArrayImages):
        return ArrayImages(images.array[chosen], images.labels[chosen], [images.keys[index] for index in chosen])
    if isinstance(images, Subset):
        return Subset(images.images, images.indices[chosen])
    return Subset(images, chosen)


def decode(data: bytes, key: str) -> "Image":
    """The picture that a file's bytes hold, in RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode[0] in "IF":
                raise BadImageError(key, f"pixels of more than 8 bits (mode {image.mode})")
            if "transparency" in image.info:  # a palette's transparency is lost with a warning otherwise
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    # What Pillow raises for broken files depends on their format.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadImageError(key, error) from error
