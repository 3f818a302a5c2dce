"""Fetching the pictures of some positions, in whichever process; what comes out are bytes of (B, C, H, W)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hwnas.train.data.augment import AugmentConfig, Bytes, ShiftFlip, color_transform, crop_transform, epoch_order
from hwnas.train.data.images import (
    ArrayDataset,
    BadImageError,
    BadImageLog,
    ImageDataset,
    Indices,
    Labels,
    to_array,
    to_image,
)
from hwnas.train.seeds import borrowed_generators, seed_global_rng

if TYPE_CHECKING:
    from PIL.Image import Image

_PART, _COLOUR, _ERASE = range(3)
"""Streams of random numbers of one position."""


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """Decoded pictures; where one cannot be read, `origins` has the number of the next one that can."""

    pictures: NDArray[np.uint8]
    """(pictures, channels, height, width)"""
    labels: Labels
    origins: Indices

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, kw_only=True)
class FetchedBatch:
    """The pictures of some positions, and those that could not be read; the process that asked counts them."""

    pictures: Bytes
    labels: Labels
    indices: Indices
    positions: Indices
    bad: Sequence[tuple[str, str]] = ()


class EpochPlan:
    """What stands at each position of a training epoch."""

    def __init__(
        self,
        images: ImageDataset | DecodedImages,
        *,
        augment: AugmentConfig,
        image_shape: tuple[int, int, int],
        seed: int,
        epoch: int,
        max_bad: int,
    ) -> None:
        self.images, self.augment, self.image_shape = images, augment, image_shape
        self.key = (seed, epoch)
        self.max_bad = max_bad
        count, size = len(images), image_shape[1]
        self.order = epoch_order(count, repeats=augment.repeats, seed=seed, epoch=epoch)
        self.moves = ShiftFlip.of_epoch(augment, seed=seed, epoch=epoch, count=count, image_size=size)

    def fetch(self, positions: Indices) -> FetchedBatch:
        """The pictures of some positions."""
        if not isinstance(self.images, DecodedImages):
            return self._read(self.images, positions)
        indices = self.images.origins[self.order[positions]]
        pictures = self.moves.at(positions).apply(self.images.pictures[indices])
        labels = self.images.labels[indices]
        return FetchedBatch(pictures=pictures, labels=labels, indices=indices, positions=positions)

    def finish(self, images: Tensor, positions: Indices) -> None:
        """Erase parts of normalised images."""
        if not self.augment.erase:
            return
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(self.augment.erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
        with borrowed_generators():
            for image, position in zip(images, positions, strict=True):
                seed_global_rng(*self.key, int(position), _ERASE)
                erase(image)

    def _read(self, images: ImageDataset, positions: Indices) -> FetchedBatch:
        bad: dict[str, str] = {}
        pictures, indices = [], []
        with borrowed_generators():
            for position in positions:
                found = self._readable(images, int(self.order[position]), bad)
                if found is None:
                    break
                pictures.append(self._varied(found[0], int(position)))
                indices.append(found[1])
        return _fetched(images, pictures, indices, positions, bad, shape=self.image_shape)

    def _readable(self, images: ImageDataset, index: int, bad: dict[str, str]) -> "tuple[Image, int] | None":
        """A picture, or the next one that can be read; None after too many that cannot."""
        for place in range(index, index + len(images)):
            try:
                return images.read(place % len(images)), place % len(images)
            except BadImageError as error:
                bad[error.key] = error.reason
                if len(bad) > self.max_bad:
                    break
        return None

    def _varied(self, image: "Image", position: int) -> Bytes:
        seed_global_rng(*self.key, position, _PART)
        moves = self.moves.at(np.asarray([position]))
        moved: Bytes = moves.apply(to_array(self._part(image), channels=3)[None])[0]
        if self._colour is None and self.image_shape[0] == 3:
            return moved
        seed_global_rng(*self.key, position, _COLOUR)
        image = to_image(moved) if self._colour is None else self._colour(to_image(moved))
        return to_array(image, channels=self.image_shape[0])

    @cached_property
    def _part(self) -> "Callable[[Image], Image]":
        return crop_transform(self.augment, image_size=self.image_shape[1])

    @cached_property
    def _colour(self) -> "Callable[[Image], Image] | None":
        return color_transform(self.augment, image_size=self.image_shape[1])


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """Pictures as they are judged, those that cannot be read left out."""

    images: ImageDataset
    view: "Callable[[Image], Image]"
    direct: bool
    """Whether pictures in memory are already what the view of them would be."""
    image_shape: tuple[int, int, int]

    def fetch(self, positions: Indices) -> FetchedBatch:
        """The pictures with these numbers."""
        if self.direct and isinstance(self.images, ArrayDataset):
            pictures = np.ascontiguousarray(self.images.array[positions].transpose(0, 3, 1, 2))
            labels = self.images.labels[positions]
            return FetchedBatch(pictures=pictures, labels=labels, indices=positions, positions=positions)
        bad: dict[str, str] = {}
        pictures_read, indices = [], []
        for index in positions:
            try:
                image = self.view(self.images.read(int(index)))
            except BadImageError as error:
                bad[error.key] = error.reason
                continue
            pictures_read.append(to_array(image, channels=self.image_shape[0]))
            indices.append(int(index))
        return _fetched(self.images, pictures_read, indices, positions, bad, shape=self.image_shape)

    def finish(self, images: Tensor, positions: Indices) -> None:
        """Nothing is changed in pictures that are judged."""


def _fetched(
    images: ImageDataset,
    pictures: Sequence[Bytes],
    indices: Sequence[int],
    positions: Indices,
    bad: dict[str, str],
    *,
    shape: tuple[int, int, int],
) -> FetchedBatch:
    chosen = np.asarray(indices, dtype=np.int64)
    stacked = np.stack(pictures) if pictures else np.empty((0, *shape), dtype=np.uint8)
    return FetchedBatch(
        pictures=stacked, labels=images.labels[chosen], indices=chosen, positions=positions, bad=tuple(bad.items())
    )


LIMIT_BYTES = 1 << 30
"""More decoded pictures than this are not kept."""

_PROBES = 16


def decode_if_small(
    images: ImageDataset, image_shape: tuple[int, int, int], *, bad: BadImageLog
) -> ImageDataset | DecodedImages:
    """The pictures decoded, if all have this size and they fit; else as they were."""
    if len(images) * int(np.prod(image_shape)) > LIMIT_BYTES:
        return images
    if isinstance(images, ArrayDataset):
        return _kept_array(images, image_shape)
    probes = range(0, len(images), -(-len(images) // _PROBES))
    if not all(_fits(images, index, image_shape) for index in probes):
        return images
    return _decoded(images, image_shape, bad=bad)


def _kept_array(images: ArrayDataset, image_shape: tuple[int, int, int]) -> ImageDataset | DecodedImages:
    pictures = images.array.transpose(0, 3, 1, 2)
    if pictures.shape[1:] != image_shape:
        return images
    return DecodedImages(pictures=np.ascontiguousarray(pictures), labels=images.labels, origins=np.arange(len(images)))


def _fits(images: ImageDataset, index: int, image_shape: tuple[int, int, int]) -> bool:
    """Whether a picture has the size; one that cannot be read does not tell."""
    try:
        return images.read(index).size == image_shape[:0:-1]
    except BadImageError:
        return True


def _decoded(
    images: ImageDataset, image_shape: tuple[int, int, int], *, bad: BadImageLog
) -> ImageDataset | DecodedImages:
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
        pictures[index] = to_array(image, channels=image_shape[0])
    return (
        DecodedImages(pictures=pictures, labels=images.labels, origins=_next_readable(origins))
        if max(origins) >= 0
        else images
    )


def _next_readable(origins: Indices) -> Indices:
    readable = np.flatnonzero(origins >= 0)
    places = np.searchsorted(readable, np.arange(len(origins)))
    return readable[places % len(readable)]
