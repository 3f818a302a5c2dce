"""Datasets of labeled images, read by index: decoding, subsets, stratified splits and lists of image names.

A dataset is anything with the members of `ImageDataset`. Array shapes: (N, H, W, C) in a dataset in memory and
(C, H, W) for one decoded image.
"""

import io
import logging
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.files import printable, read_bytes, write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]

HELDOUT_LIST = "heldout.txt"
"""File of a run with the names of the images that were held out of training."""

MAX_BAD_IMAGES = 50
"""Unreadable images that are skipped by default before it is an error."""

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Exceptions of decoders for broken files, which depend on the format and the version of Pillow."""

_REFUSED_FORMATS = ("EPS",)
"""Formats that Pillow decodes by running another program."""

_MAX_LISTED = 20
_log = logging.getLogger(__name__)


_OBJECT = re.compile(r" ?<[^<>]+ object at 0x[0-9a-fA-F]+>")
"""An object in memory, which decoders name in place of the file; the error names the file itself."""


class BadImageError(InputError):
    """An image that cannot be read or decoded.

    Args:
        key: Name of the image.
        reason: Why it cannot be read.
    """

    def __init__(self, key: str, reason: object) -> None:
        self.key = printable(key)
        self.reason = _OBJECT.sub("", str(reason)) or type(reason).__name__
        super().__init__(f"{self.key} is not an image that can be read", got=self.reason)


class ImageDataset(Protocol):
    """A map-style dataset of labeled images, like torchvision's, with labels and names known without decoding."""

    @property
    def labels(self) -> Labels:
        """Class index of each image."""

    @property
    def keys(self) -> Sequence[str]:
        """Name of each image, unique in the dataset and the same whenever it is opened."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> "Image":
        """Decode one image to RGB.

        Raises:
            BadImageError: The image cannot be read.
        """


class NamedImages(Protocol):
    """Any dataset whose images have names: with one class, with boxes, or with a class for each pixel."""

    @property
    def keys(self) -> Sequence[str]:
        """Name of each image, unique in the dataset and the same whenever it is opened."""


class LabeledItems(Protocol):
    """Anything that gives pairs of an image and a class index, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[object, int]: ...


class ArrayDataset:
    """Images in memory, which are batched without decoding.

    Args:
        array: Pixels of shape (N, H, W, 1 or 3), uint8.
        labels: Class index of each image.
        keys: Name of each image.

    Raises:
        InputError: The array has another shape or type, or the lengths differ.
    """

    def __init__(self, array: NDArray[np.uint8], labels: Labels, keys: Sequence[str]) -> None:
        if array.ndim != 4 or array.shape[3] not in (1, 3) or array.dtype != np.uint8:
            message = "images in memory must be uint8 of the shape (images, height, width, 1 or 3)"
            raise InputError(message, got=f"{array.dtype} {array.shape}")
        if not len(array) == len(labels) == len(keys):
            message = "there must be one label and one key for each image"
            raise InputError(message, got=f"{len(array)} images, {len(labels)} labels, {len(keys)} keys")
        self.array = array
        self.labels = np.asarray(labels, dtype=np.int64)
        self.keys = keys

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int) -> "Image":
        """Return one image in RGB."""
        from PIL import Image

        pixels = self.array[index]
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")


class ObjectDataset:
    """A map-style dataset of the caller, such as torchvision's: items are pairs of an image and a class index.

    Args:
        items: Anything with `__len__` and `__getitem__`; an image is a PIL image or a uint8 array (H, W, 1 or 3).
        labels: Class index of each image; by default `items.targets`, else every item is read once.

    Raises:
        InputError: The object is no such dataset, an item is no such pair, or there is not one class index for each.
    """

    def __init__(self, items: "LabeledItems", labels: Sequence[int] | None = None) -> None:
        if isinstance(items, (str, bytes)) or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
            message = "a dataset must have __len__ and __getitem__, and give pairs of an image and a class index"
            raise InputError(message, got=type(items).__name__)
        self.items = items
        self.keys: Sequence[str] = [str(index) for index in range(len(items))]
        if labels is None:
            labels = getattr(items, "targets", None)
        if labels is None:
            labels = [self._item(index)[1] for index in range(len(items))]
        self.labels = require_labels(labels, source="a dataset object")
        if self.labels.shape != (len(items),):
            got = f"{self.labels.shape} for {len(items)} items"
            raise InputError("a dataset must have one class index for each item", got=got)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> "Image":
        """Return one image in RGB."""
        from PIL import Image

        image = self._item(index)[0]
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        try:
            pixels = np.asarray(image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadImageError(self.keys[index], error) from error
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
            raise BadImageError(self.keys[index], f"{pixels.dtype} of {pixels.shape}, not uint8 of (H, W, 1 or 3)")
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            image, label = self.items[index]
        except Exception as error:  # of any type: it is the caller's own code
            message = f"item {index} of a dataset must be a pair of an image and a class index"
            raise InputError(message, got=f"{type(error).__name__}: {error}") from error
        return image, label


@dataclass(frozen=True)
class SubsetDataset:
    """Some images of another dataset."""

    dataset: ImageDataset
    indices: Indices

    @cached_property
    def labels(self) -> Labels:
        """Class index of each image."""
        return self.dataset.labels[self.indices]

    @cached_property
    def keys(self) -> Sequence[str]:
        """Names of the images in the other dataset."""
        return [self.dataset.keys[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        return self.dataset.read(int(self.indices[index]))


@dataclass(frozen=True)
class RenumberedDataset:
    """Another dataset, whose classes have other numbers."""

    dataset: ImageDataset
    numbers: Labels
    """The new number of each class."""

    @cached_property
    def labels(self) -> Labels:
        """Class index of each image."""
        return self.numbers[self.dataset.labels]

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images, those of the other dataset."""
        return self.dataset.keys

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        return self.dataset.read(index)


def renumbered(dataset: ImageDataset, numbers: Any) -> ImageDataset:
    """Give the classes of a dataset other numbers. An `ArrayDataset` stays one."""
    changed = np.asarray(numbers, dtype=np.int64)
    if isinstance(dataset, ArrayDataset):
        return ArrayDataset(dataset.array, changed[dataset.labels], dataset.keys)
    return RenumberedDataset(dataset, changed)


def subset(dataset: ImageDataset, indices: Any) -> ImageDataset:
    """Select images of a dataset by index, in this order. A subset of an `ArrayDataset` is one too."""
    chosen = np.asarray(indices, dtype=np.int64)
    if isinstance(dataset, ArrayDataset):
        return ArrayDataset(dataset.array[chosen], dataset.labels[chosen], [dataset.keys[index] for index in chosen])
    if isinstance(dataset, SubsetDataset):
        return SubsetDataset(dataset.dataset, dataset.indices[chosen])
    return SubsetDataset(dataset, chosen)


def decode_image(data: bytes, key: str) -> "Image":
    """Decode the bytes of an image file to RGB.

    Args:
        data: Content of the file, in any format of Pillow.
        key: Name of the image, for errors.

    Raises:
        BadImageError: The bytes are no image, or its pixels have more than 8 bits.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _REFUSED_FORMATS:
                raise BadImageError(key, f"the format {image.format} is not decoded")
            if not min(image.size):
                raise BadImageError(key, f"it has {image.size[0]} x {image.size[1]} pixels")
            if image.mode[0] in "IF":
                raise BadImageError(key, f"pixels of more than 8 bits (mode {image.mode})")
            if "transparency" in image.info:  # dropped with a warning otherwise
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise BadImageError(key, error) from error


def oriented(image: "Image", stated: tuple[int, int] | None, key: str) -> "Image":
    """Turn an image as its EXIF entry says, as browsers and tools for annotation show it.

    An image that has the stated size alone without being turned was annotated as it is stored, and is returned so.

    Args:
        image: A decoded image.
        stated: Width and height that its annotations are for; None: they state none.
        key: Name of the image, for errors.

    Raises:
        BadImageError: The entry cannot be read.
    """
    from PIL import ImageOps

    try:
        turned: Image | None = ImageOps.exif_transpose(image)
    except DECODER_ERRORS as error:
        raise BadImageError(key, error) from error
    return image if turned is None or (image.size == stated != turned.size) else turned


def to_array(image: "Image", *, channels: int) -> NDArray[np.uint8]:
    """Return the pixels of an image as (C, H, W); one channel is its luma."""
    mode = "RGB" if channels == 3 else "L"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


@dataclass(kw_only=True)
class BadImageLog:
    """Unreadable images that were skipped."""

    limit: int = MAX_BAD_IMAGES
    """Raise an error at one more than this."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Reason by image name, in the order in which the images were met."""

    def add(self, key: str, reason: str) -> None:
        """Record an unreadable image, once however often it is met.

        Raises:
            InputError: More images than the limit are unreadable; it lists them.
        """
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) > self.limit:
            hint = f"repair or remove them, or allow more: --max-bad {2 * self.limit or 1}"
            raise InputError(f"more than {self.limit} images cannot be read", got=self.summary(), hint=hint)
        _log.warning("skipped %s, which cannot be read: %s", key, reason)

    def summary(self) -> str:
        """Return their number and the first of them."""
        more = len(self) - _MAX_LISTED
        listed = "; ".join(f"{key} ({reason})" for key, reason in list(self.reasons.items())[:_MAX_LISTED])
        return f"{len(self)}: {listed}" + (f"; and {more} more" if more > 0 else "")

    def __len__(self) -> int:
        return len(self.reasons)


def require_labels(labels: Any, *, source: str) -> Labels:
    """Return class indices as an array.

    Args:
        labels: Class index of each image.
        source: Origin of the indices, for errors.

    Raises:
        InputError: An index is no whole number of 64 bits, or negative.
    """
    try:
        array = np.asarray(labels)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"class indices of {source} must be whole numbers", got=error) from error
    if array.size and array.dtype.kind not in "iub":
        raise InputError(f"class indices of {source} must be whole numbers", got=f"values of type {array.dtype}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**63:
        raise InputError(f"class indices of {source} must not be negative", got=f"{array.min()} to {array.max()}")
    return array.astype(np.int64)


def number_classes(labels: Labels, *, source: str) -> tuple[str, ...]:
    """Return the numbers of the classes as their names.

    Args:
        labels: Class index of each training image.
        source: Origin of the indices, for errors.

    Raises:
        InputError: The largest index is not below the number of images. Every class needs images, and an index decides
            how much memory the classes take.
    """
    largest = int(labels.max(initial=-1))
    if largest >= len(labels):
        message = f"class indices of {source} must be below the number of training images, {len(labels):,}"
        raise InputError(message, got=f"{largest:,}", hint="number the classes from 0 without gaps")
    return tuple(map(str, range(largest + 1)))


def require_names(dataset: ImageDataset) -> None:
    """Raise an InputError if the name of an image has a line break, as lists of images have one name per line."""
    for key in dataset.keys:
        if "\n" in key or "\r" in key:
            raise InputError("names of images must have no line breaks", got=printable(key), hint="rename the file")


def stratified_sample(labels: Labels, count: int, *, seed: int, keep: int = 0) -> Indices:
    """Draw images, each class in proportion to its size.

    Args:
        labels: Class index of each image.
        count: Number of images to draw.
        seed: Decides the draw.
        keep: Images of each class that must not be drawn.

    Returns:
        Sorted indices, at least one of each class; the share of each class is right to within one image.

    Raises:
        InputError: So many images cannot be drawn with one of each class among them and `keep` of each left.
    """
    sizes = np.bincount(labels)
    classes = np.count_nonzero(sizes)
    if sizes[sizes > 0].min() <= keep or not classes <= count <= len(labels) - keep * classes:
        left = " and leave one of each" if keep else ""
        message = f"the drawn images must have one of each class{left}"
        raise InputError(message, got=f"{count} of {len(labels)} images in {classes} classes")
    rng = np.random.default_rng(seed)
    chosen = []
    for label, quota in enumerate(_quotas(sizes, count, keep=keep)):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[:quota])
    return np.sort(np.concatenate(chosen))


def stratified_split(labels: Labels, amount: float, *, seed: int) -> tuple[Indices, Indices]:
    """Split images in two, with the classes in the same proportions.

    Args:
        labels: Class index of each image.
        amount: Images to split off: a fraction below 1, raised to one image of each class, else a number.
        seed: Decides the draw.

    Returns:
        Indices of the images that stay, and of those split off.

    Raises:
        InputError: A class would be missing on one side.
    """
    least = int(np.count_nonzero(np.bincount(labels)))
    count = max(round(amount * len(labels)), least) if amount < 1 else int(amount)
    split_off = stratified_sample(labels, count, seed=seed, keep=1)
    return np.setdiff1d(np.arange(len(labels)), split_off), split_off


def write_image_list(path: Path, dataset: NamedImages) -> None:
    """Write the names of the images of a dataset, one per line."""
    write_atomic(path, "".join(f"{key}\n" for key in dataset.keys).encode("utf-8", "surrogateescape"))


def read_image_list(path: Path) -> tuple[str, ...]:
    """Read names of images, one per line."""
    return tuple(read_bytes(path).decode("utf-8", "surrogateescape").split("\n")[:-1])


def require_same_images(path: Path, dataset: NamedImages) -> None:
    """Raise an InputError unless a dataset has the images of a list, in its order."""
    listed, found = read_image_list(path), tuple(dataset.keys)
    if listed != found:
        differ = len(set(listed) ^ set(found))
        raise InputError(
            f"the held-out images must be those of {path}",
            got=f"{len(found)} images, where {len(listed)} are listed; {differ} differ",
            hint="use the dataset, the seed and the held-out share of the run",
        )


def _quotas(sizes: Indices, count: int, *, keep: int) -> Indices:
    """Return the images to draw of each class: in proportion, at least one, `count` in total."""
    # Largest-remainder apportionment: round down, then correct the classes that are furthest from their exact share.
    shares = sizes * (count / sizes.sum())
    least, most = np.minimum(1, sizes), np.maximum(sizes - keep, 0)
    quotas: Indices = np.clip(np.floor(shares).astype(np.int64), least, most)
    while quotas.sum() != count:
        step = 1 if quotas.sum() < count else -1
        room = quotas < most if step > 0 else quotas > least
        quotas[np.argmax(np.where(room, step * (shares - quotas), -np.inf))] += step
    return quotas
