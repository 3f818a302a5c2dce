"""Fetching the pictures of some positions, in whichever process; what comes out are bytes of (B, C, H, W)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hwnas.train.data.augment import AugmentConfig, colour_transform, part_transform
from hwnas.train.data.images import ArrayImages, BadImageError, Images, Indices, Labels
from hwnas.train.data.memory import Kept
from hwnas.train.data.moves import Bytes, Moves, epoch_order
from hwnas.train.data.pixels import as_bytes, as_image
from hwnas.train.data.randomness import borrowed_generators, seed_generators

if TYPE_CHECKING:
    from PIL.Image import Image

_PART, _COLOUR, _ERASE = range(3)
"""Streams of random numbers of one position."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
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
        images: Images | Kept,
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
        self.moves = Moves.of_epoch(augment, seed=seed, epoch=epoch, count=count, image_size=size)

    def fetch(self, positions: Indices) -> Fetched:
        """The pictures of some positions."""
        if not isinstance(self.images, Kept):
            return self._read(self.images, positions)
        indices = self.images.origins[self.order[positions]]
        pictures = self.moves.at(positions).apply(self.images.pictures[indices])
        labels = self.images.labels[indices]
        return Fetched(pictures=pictures, labels=labels, indices=indices, positions=positions)

    def finish(self, images: Tensor, positions: Indices) -> None:
        """Erase parts of normalised images."""
        if not self.augment.erase:
            return
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(self.augment.erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
        with borrowed_generators():
            for image, position in zip(images, positions, strict=True):
                seed_generators(*self.key, int(position), _ERASE)
                erase(image)

    def _read(self, images: Images, positions: Indices) -> Fetched:
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

    def _readable(self, images: Images, index: int, bad: dict[str, str]) -> "tuple[Image, int] | None":
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
        seed_generators(*self.key, position, _PART)
        moves = self.moves.at(np.asarray([position]))
        moved: Bytes = moves.apply(as_bytes(self._part(image), channels=3)[None])[0]
        if self._colour is None and self.image_shape[0] == 3:
            return moved
        seed_generators(*self.key, position, _COLOUR)
        image = as_image(moved) if self._colour is None else self._colour(as_image(moved))
        return as_bytes(image, channels=self.image_shape[0])

    @cached_property
    def _part(self) -> "Callable[[Image], Image]":
        return part_transform(self.augment, image_size=self.image_shape[1])

    @cached_property
    def _colour(self) -> "Callable[[Image], Image] | None":
        return colour_transform(self.augment, image_size=self.image_shape[1])


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """Pictures as they are judged, those that cannot be read left out."""

    images: Images
    view: "Callable[[Image], Image]"
    direct: bool
    """Whether pictures in memory are already what the view of them would be."""
    image_shape: tuple[int, int, int]

    def fetch(self, positions: Indices) -> Fetched:
        """The pictures with these numbers."""
        if self.direct and isinstance(self.images, ArrayImages):
            pictures = np.ascontiguousarray(self.images.array[positions].transpose(0, 3, 1, 2))
            labels = self.images.labels[positions]
            return Fetched(pictures=pictures, labels=labels, indices=positions, positions=positions)
        bad: dict[str, str] = {}
        pictures_read, indices = [], []
        for index in positions:
            try:
                image = self.view(self.images.read(int(index)))
            except BadImageError as error:
                bad[error.key] = error.reason
                continue
            pictures_read.append(as_bytes(image, channels=self.image_shape[0]))
            indices.append(int(index))
        return _fetched(self.images, pictures_read, indices, positions, bad, shape=self.image_shape)

    def finish(self, images: Tensor, positions: Indices) -> None:
        """Nothing is changed in pictures that are judged."""


def _fetched(
    images: Images,
    pictures: Sequence[Bytes],
    indices: Sequence[int],
    positions: Indices,
    bad: dict[str, str],
    *,
    shape: tuple[int, int, int],
) -> Fetched:
    chosen = np.asarray(indices, dtype=np.int64)
    stacked = np.stack(pictures) if pictures else np.empty((0, *shape), dtype=np.uint8)
    return Fetched(
        pictures=stacked, labels=images.labels[chosen], indices=chosen, positions=positions, bad=tuple(bad.items())
    )
