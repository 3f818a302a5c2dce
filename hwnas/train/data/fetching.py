"""Reading and augmenting the images at some positions of an epoch, in this process or in a worker.

Arrays are uint8 of the shape (B, C, H, W); normalization follows in the loader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hwnas.train.data.augment import AugmentConfig, Pixels, ShiftFlip, color_transform, crop_transform, epoch_order
from hwnas.train.data.finishing import Erasure, draw_erasure
from hwnas.train.data.images import (
    ArrayDataset,
    BadImageError,
    BadImageLog,
    ImageDataset,
    Indices,
    Labels,
    to_array,
)
from hwnas.train.seeds import preserve_rng_state, seed_global_rng

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_DECODED_BYTES = 1 << 30
"""Decoded images are kept in memory up to this size."""

_CROP_STREAM, _COLOR_STREAM, _ERASE_STREAM = range(3)
"""Streams of random numbers of one position."""

_PROBES = 16
"""Images whose size is looked at before all of a dataset are decoded."""


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """The images of a dataset, decoded; the next readable image stands in for an unreadable one."""

    pixels: Pixels
    labels: Labels
    sources: Indices
    """Index of the image that stands at each index."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, kw_only=True)
class FetchedBatch:
    """The images at some positions, before normalization."""

    pixels: Pixels
    labels: Labels
    indices: Indices
    """Indices of the images in the dataset."""
    erasures: tuple[Erasure, ...] = ()
    """Parts of the images that are erased once they are normalized."""
    bad: Sequence[tuple[str, str]] = ()
    """Names of unreadable images, and why; the main process logs them."""


class EpochPlan:
    """The images of a training epoch by position, augmented.

    Args:
        dataset: Training images.
        augment: How they are augmented.
        image_shape: Channels, height and width of the network's input.
        seed: Decides order and augmentation, together with the epoch.
        epoch: Number of the epoch.
        max_bad: Unreadable images that are skipped.
    """

    def __init__(
        self,
        dataset: ImageDataset | DecodedImages,
        *,
        augment: AugmentConfig,
        image_shape: tuple[int, int, int],
        seed: int,
        epoch: int,
        max_bad: int,
    ) -> None:
        self.dataset, self.augment, self.image_shape = dataset, augment, image_shape
        self.key = (seed, epoch)
        self.max_bad = max_bad
        count, size = len(dataset), image_shape[1]
        self.order = epoch_order(count, repeats=augment.repeats, seed=seed, epoch=epoch)
        self.shift_flip = ShiftFlip.of_epoch(augment, seed=seed, epoch=epoch, count=count, image_size=size)

    def fetch(self, positions: Indices) -> FetchedBatch:
        """Read and augment the images at some positions."""
        if not isinstance(self.dataset, DecodedImages):
            fetched = self._read(self.dataset, positions)
            return replace(fetched, erasures=self._erasures(positions[: len(fetched.indices)]))
        indices = self.dataset.sources[self.order[positions]]
        pixels = self.shift_flip.at(positions).apply(self.dataset.pixels[indices])
        labels = self.dataset.labels[indices]
        return FetchedBatch(pixels=pixels, labels=labels, indices=indices, erasures=self._erasures(positions))

    def _erasures(self, positions: Indices) -> tuple[Erasure, ...]:
        """Draw the parts of images that are erased."""
        if not self.augment.erase:
            return ()
        size = self.image_shape[1]
        drawn = (
            draw_erasure((*self.key, int(position), _ERASE_STREAM), probability=self.augment.erase, size=size, row=row)
            for row, position in enumerate(positions)
        )
        return tuple(erasure for erasure in drawn if erasure is not None)

    def _read(self, dataset: ImageDataset, positions: Indices) -> FetchedBatch:
        bad: dict[str, str] = {}
        pixels, indices = [], []
        found, before = None, None
        with preserve_rng_state():
            for position in positions:
                index = int(self.order[position])
                if index != before:  # the variants of an image are adjacent
                    found, before = self._next_readable(dataset, index, bad), index
                if found is None:
                    break
                pixels.append(self._augmented(found[0], int(position)))
                indices.append(found[1])
        return _make_batch(dataset, pixels, indices, bad, shape=self.image_shape)

    def _next_readable(self, dataset: ImageDataset, index: int, bad: dict[str, str]) -> "tuple[Image, int] | None":
        """Read an image, or the next readable one; None after more unreadable ones than are allowed."""
        for candidate in range(index, index + len(dataset)):
            try:
                return dataset.read(candidate % len(dataset)), candidate % len(dataset)
            except BadImageError as error:
                bad[error.key] = error.reason
                if len(bad) > self.max_bad:
                    break
        return None

    def _augmented(self, image: "Image", position: int) -> Pixels:
        # timm's transforms draw from the global generators, so these are seeded for each image and kind of transform.
        seed_global_rng(*self.key, position, _CROP_STREAM)
        image = self.shift_flip.move(self._crop(image), position)
        if self._color is not None:
            seed_global_rng(*self.key, position, _COLOR_STREAM)
            image = self._color(image)
        return to_array(image, channels=self.image_shape[0])

    @cached_property
    def _crop(self) -> "Callable[[Image], Image]":
        return crop_transform(self.augment, image_size=self.image_shape[1])

    @cached_property
    def _color(self) -> "Callable[[Image], Image] | None":
        return color_transform(self.augment, image_size=self.image_shape[1])


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """The images of a dataset as they are evaluated, without unreadable ones."""

    dataset: ImageDataset
    transform: "Callable[[Image], Image]"
    direct: bool
    """True if the transform would leave images in memory as they are."""
    image_shape: tuple[int, int, int]

    def fetch(self, positions: Indices) -> FetchedBatch:
        """Read the images with these indices."""
        if self.direct and isinstance(self.dataset, ArrayDataset):
            pixels = np.ascontiguousarray(self.dataset.array[positions].transpose(0, 3, 1, 2))
            labels = self.dataset.labels[positions]
            return FetchedBatch(pixels=pixels, labels=labels, indices=positions)
        bad: dict[str, str] = {}
        read, indices = [], []
        for index in positions:
            try:
                image = self.transform(self.dataset.read(int(index)))
            except BadImageError as error:
                bad[error.key] = error.reason
                continue
            read.append(to_array(image, channels=self.image_shape[0]))
            indices.append(int(index))
        return _make_batch(self.dataset, read, indices, bad, shape=self.image_shape)


def decode_if_small(
    dataset: ImageDataset, image_shape: tuple[int, int, int], *, bad: BadImageLog
) -> ImageDataset | DecodedImages:
    """Decode a dataset whose images all have the network's input size and fit into memory.

    Args:
        dataset: Training images.
        image_shape: Channels, height and width of the network's input.
        bad: Records unreadable images.

    Returns:
        The decoded images, or else the dataset as it is.
    """
    if len(dataset) * int(np.prod(image_shape)) > MAX_DECODED_BYTES:
        return dataset
    if isinstance(dataset, ArrayDataset):
        pixels = dataset.array.transpose(0, 3, 1, 2)
        if pixels.shape[1:] != image_shape:
            return dataset
        sources = np.arange(len(dataset))
        return DecodedImages(pixels=np.ascontiguousarray(pixels), labels=dataset.labels, sources=sources)
    probes = range(0, len(dataset), -(-len(dataset) // _PROBES))
    if not all(_may_have_size(dataset, index, image_shape) for index in probes):
        return dataset
    return _decode_all(dataset, image_shape, bad=bad)


def _may_have_size(dataset: ImageDataset, index: int, image_shape: tuple[int, int, int]) -> bool:
    """Return True if an image has the size, or cannot be read."""
    try:
        return dataset.read(index).size == image_shape[:0:-1]
    except BadImageError:
        return True


def _decode_all(
    dataset: ImageDataset, image_shape: tuple[int, int, int], *, bad: BadImageLog
) -> ImageDataset | DecodedImages:
    pixels = np.zeros((len(dataset), *image_shape), dtype=np.uint8)
    is_readable = np.ones(len(dataset), dtype=np.bool_)
    for index in range(len(dataset)):
        try:
            image = dataset.read(index)
        except BadImageError as error:
            bad.add(error.key, error.reason)
            is_readable[index] = False
            continue
        if image.size != image_shape[:0:-1]:
            return dataset
        pixels[index] = to_array(image, channels=image_shape[0])
    readable = np.flatnonzero(is_readable)
    if not len(readable):
        return dataset
    following = np.searchsorted(readable, np.arange(len(dataset)))
    return DecodedImages(pixels=pixels, labels=dataset.labels, sources=readable[following % len(readable)])


def _make_batch(
    dataset: ImageDataset,
    pixels: Sequence[Pixels],
    indices: Sequence[int],
    bad: dict[str, str],
    *,
    shape: tuple[int, int, int],
) -> FetchedBatch:
    chosen = np.asarray(indices, dtype=np.int64)
    # The channels of a decoded image lie side by side. Left so, all that is computed of the images would be slower, and
    # other kernels would compute it than of a batch that comes from a worker.
    stacked = np.empty((len(pixels), *shape), dtype=np.uint8)
    for row, image in zip(stacked, pixels, strict=True):
        row[:] = image
    return FetchedBatch(pixels=stacked, labels=dataset.labels[chosen], indices=chosen, bad=tuple(bad.items()))
