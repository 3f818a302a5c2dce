"""Labelled pictures that are reached by number."""

import io
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.runs import write_atomic

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


class ImageDataset(Protocol):
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


class ArrayDataset:
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
class SubsetDataset:
    """Some of the pictures of another set."""

    images: ImageDataset
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


def subset(images: ImageDataset, indices: Any) -> ImageDataset:
    """The pictures with these numbers, in this order; those of an array stay one."""
    chosen = np.asarray(indices, dtype=np.int64)
    if isinstance(images, ArrayDataset):
        return ArrayDataset(images.array[chosen], images.labels[chosen], [images.keys[index] for index in chosen])
    if isinstance(images, SubsetDataset):
        return SubsetDataset(images.images, images.indices[chosen])
    return SubsetDataset(images, chosen)


def decode_image(data: bytes, key: str) -> "Image":
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


def to_array(image: "Image", *, channels: int) -> NDArray[np.uint8]:
    """The pixels of a picture; one channel is its lightness."""
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def to_image(pixels: NDArray[np.uint8]) -> "Image":
    """The picture of some pixels, in colour."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


DEFAULT_LIMIT = 50
"""How many unreadable pictures are skipped where nobody says."""

_SHOWN = 20
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BadImageLog:
    """Pictures that were skipped; one more than the limit is an error that lists them."""

    limit: int = DEFAULT_LIMIT
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, by key, in the order in which they were met."""

    def add(self, key: str, reason: str) -> None:
        """Count a picture once, however often it is met."""
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) > self.limit:
            message = f"more than {self.limit} pictures cannot be read"
            raise InputError(
                message,
                got=self.summary(),
                hint=f"repair or remove them, or allow more: --max-bad {2 * self.limit or 1}",
            )
        _log.warning("skipped %s, which cannot be read: %s", key, reason)

    def summary(self) -> str:
        """Their number and the first of them."""
        more = len(self) - _SHOWN
        listed = "; ".join(f"{key} ({reason})" for key, reason in list(self.reasons.items())[:_SHOWN])
        return f"{len(self)}: {listed}" + (f"; and {more} more" if more > 0 else "")

    def __len__(self) -> int:
        return len(self.reasons)


HELDOUT_LIST = "heldout.txt"
"""The file of a run that names the pictures held out of training."""


def stratified_sample(labels: Labels, count: int, *, seed: int, keep: int = 0) -> Indices:
    """The numbers of `count` pictures, sorted; each class gives its share, to within one, and keeps at least `keep`."""
    sizes = np.bincount(labels)
    classes = np.count_nonzero(sizes)
    if sizes[sizes > 0].min() <= keep or not classes <= count <= len(labels) - keep * classes:
        left = " and leave one of each" if keep else ""
        message = f"pictures that are chosen must hold one of each class{left}"
        raise InputError(message, got=f"{count} of {len(labels)} pictures in {classes} classes")
    rng = np.random.default_rng(seed)
    chosen = []
    for label, quota in enumerate(_quotas(sizes, count, keep=keep)):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[:quota])
    return np.sort(np.concatenate(chosen))


def stratified_split(labels: Labels, amount: float, *, seed: int) -> tuple[Indices, Indices]:
    """The numbers of the pictures that stay and of those split off.

    `amount` is a share below 1, which grows to one picture of each class, or else a number.
    """
    least = int(np.count_nonzero(np.bincount(labels)))
    count = max(round(amount * len(labels)), least) if amount < 1 else int(amount)
    away = stratified_sample(labels, count, seed=seed, keep=1)
    return np.setdiff1d(np.arange(len(labels)), away), away


def write_image_list(path: Path, images: ImageDataset) -> None:
    """Write the names of pictures, one a line."""
    write_atomic(path, "".join(f"{key}\n" for key in images.keys))


def read_image_list(path: Path) -> tuple[str, ...]:
    """Read the names of pictures, one a line."""
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list of pictures {path} cannot be read", got=error) from error


def require_same_images(path: Path, images: ImageDataset) -> None:
    """The pictures must be those that a list names, in its order."""
    listed, found = read_image_list(path), tuple(images.keys)
    if listed != found:
        differ = len(set(listed) ^ set(found))
        raise InputError(
            f"the held-out pictures must be those of {path}",
            got=f"{len(found)} pictures, listed are {len(listed)}, {differ} differ",
            hint="the data set, its seed and the held-out share of the run",
        )


def _quotas(sizes: Indices, count: int, *, keep: int) -> Indices:
    """How many each class gives: in proportion, at least one, `count` in all."""
    shares = sizes * (count / sizes.sum())
    least, most = np.minimum(1, sizes), np.maximum(sizes - keep, 0)
    quotas: Indices = np.clip(np.floor(shares).astype(np.int64), least, most)
    while quotas.sum() != count:
        step = 1 if quotas.sum() < count else -1
        room = quotas < most if step > 0 else quotas > least
        quotas[np.argmax(np.where(room, step * (shares - quotas), -np.inf))] += step
    return quotas
