"""Training pictures decoded once, where they fit into memory and have the network's size."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.train.data.bad_images import BadImages
from hwnas.train.data.images import ArrayImages, BadImageError, Images, Indices, Labels
from hwnas.train.data.pixels import as_bytes

LIMIT_BYTES = 1 << 30
"""More decoded pictures than this are not kept."""

_PROBES = 16


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Decoded pictures; where one cannot be read, `origins` has the number of the next one that can."""

    pictures: NDArray[np.uint8]
    """(pictures, channels, height, width)"""
    labels: Labels
    origins: Indices

    def __len__(self) -> int:
        return len(self.pictures)


def in_memory(images: Images, image_shape: tuple[int, int, int], *, bad: BadImages) -> Images | Kept:
    """The pictures decoded, if all have this size and they fit; else as they were."""
    if len(images) * int(np.prod(image_shape)) > LIMIT_BYTES:
        return images
    if isinstance(images, ArrayImages):
        return _kept_array(images, image_shape)
    probes = range(0, len(images), -(-len(images) // _PROBES))
    if not all(_fits(images, index, image_shape) for index in probes):
        return images
    return _decoded(images, image_shape, bad=bad)


def _kept_array(images: ArrayImages, image_shape: tuple[int, int, int]) -> Images | Kept:
    pictures = images.array.transpose(0, 3, 1, 2)
    if pictures.shape[1:] != image_shape:
        return images
    return Kept(pictures=np.ascontiguousarray(pictures), labels=images.labels, origins=np.arange(len(images)))


def _fits(images: Images, index: int, image_shape: tuple[int, int, int]) -> bool:
    """Whether a picture has the size; one that cannot be read does not tell."""
    try:
        return images.read(index).size == image_shape[:0:-1]
    except BadImageError:
        return True


def _decoded(images: Images, image_shape: tuple[int, int, int], *, bad: BadImages) -> Images | Kept:
    pictures = np.zeros((len(images), *image_shape), dtype=np.uint8)
    origins = np.arange(len(images))
    for index in range(len(images)):
        try:
            image = images.read(index)
        except BadImageError as error:
            bad.add(error.key, error.reason)
            origins[index] = -1
            continue
        if image.size != image_shape[:0:-1]:
            return images
        pictures[index] = as_bytes(image, channels=image_shape[0])
    return (
        Kept(pictures=pictures, labels=images.labels, origins=_next_readable(origins)) if max(origins) >= 0 else images
    )


def _next_readable(origins: Indices) -> Indices:
    readable = np.flatnonzero(origins >= 0)
    places = np.searchsorted(readable, np.arange(len(origins)))
    return readable[places % len(readable)]
