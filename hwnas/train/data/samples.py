"""Images with boxes, masks or a class for each pixel: samples, datasets of them and their letterboxed form.

A sample is a pair of an image and its target, as torchvision's detectors take them. The target of detection is a dict:
`boxes`, float32 (N, 4) as left, top, right, bottom in pixels; `labels`, int64 (N,), from 1, as 0 is the background;
`masks`, uint8 (N, H, W), where the dataset has them; `iscrowd`, int64 (N,), 1 for a box around many objects; and
`image_id`, int64. The target of segmentation is the class of each pixel, int64 (H, W); `IGNORED` pixels count neither
in the loss nor in the evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from hwnas.errors import InputError
from hwnas.files import printable
from hwnas.train.data.augment import IMAGENET
from hwnas.train.data.images import MAX_BAD_IMAGES, Indices

Task = Literal["detection", "segmentation"]
Target = Any
"""A dict of tensors (detection) or a tensor (segmentation)."""
Sample = tuple[Tensor, Target]

IGNORED = 255
"""Class of pixels that are not evaluated."""

PADDING = tuple(round(255 * value) for value in IMAGENET.mean)
"""Color beside a letterboxed image, which is about zero in a normalized one."""

_MAX_LISTED = 8

MIN_BOX_PIXELS = 1.0
"""Boxes that are narrower after clipping or resizing are dropped."""


class AnnotatedImages(Protocol):
    """Images with annotations, read by index."""

    @property
    def keys(self) -> Sequence[str]:
        """Name of each image, unique and the same whenever the dataset is opened."""

    def read(self, index: int) -> Sample:
        """Read one image and its target, in the image's own pixels, as torchvision's tv_tensors.

        Raises:
            BadImageError: The image or its annotations cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class AnnotatedDataset:
    """A map-style dataset of letterboxed samples, for the loaders of this package or of torch."""

    images: AnnotatedImages
    indices: Indices
    """Indices of its images in `images`."""
    image_size: int
    crowds: bool = True
    """Keep boxes around crowds, which an evaluation ignores and a training must not learn."""
    masks: bool = True
    """Keep the masks of boxes."""

    @cached_property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        return [self.images.keys[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Sample:
        """Read a sample in the image's own pixels; raise BadImageError if that is not possible."""
        image, target = self.images.read(int(self.indices[index]))
        if isinstance(target, dict) and not self.crowds:
            target = select_boxes(target, target["iscrowd"] == 0)
        if isinstance(target, dict) and not self.masks:
            target.pop("masks", None)
        return image, target

    def __getitem__(self, index: int) -> Sample:
        return letterbox(*self.read(index), self.image_size)


@dataclass(frozen=True, kw_only=True)
class AnnotatedData:
    """A dataset with boxes or classes of pixels, split into training, held-out and test images."""

    name: str
    task: Task
    classes: tuple[str, ...]
    """Names of the classes 1, 2, ...; 0 is the background and has no name."""
    image_size: int
    train: AnnotatedDataset
    heldout: AnnotatedDataset
    """Split from the training images; a search chooses networks by them."""
    test: AnnotatedDataset | None
    """None: there are none."""
    fingerprint: str
    """Digest of the dataset's identity and its split."""
    flip: bool = True
    """Mirrored images show the same classes."""
    notes: tuple[str, ...] = ()
    """What a user should know about the split."""
    masks: bool = False
    """Boxes have masks."""
    max_bad: int = MAX_BAD_IMAGES
    """Unreadable images that are skipped before it is an error."""

    def with_classes(self, classes: Sequence[str]) -> Self:
        """Return the same images with the numbers that other data, as of a training, give to their classes.

        Args:
            classes: Names of the classes 1, 2, ... there.

        Raises:
            InputError: A class of these images is none of them.
        """
        if tuple(classes) == self.classes:
            return self
        others = [name for name in self.classes if name not in classes]
        has_names = self.classes != tuple(str(number + 1) for number in range(len(self.classes)))
        if others and not has_names and len(classes) >= len(self.classes):
            return replace(self, classes=tuple(classes))
        if others:
            message = f"the classes of {self.name} must be those that the networks were trained on"
            got = ", ".join(map(printable, others[:_MAX_LISTED]))
            raise InputError(message, got=got, known=tuple(classes))
        numbers = torch.arange(IGNORED + 1 if self.task == "segmentation" else self.num_classes)
        numbers[1 : self.num_classes] = torch.tensor([list(classes).index(name) + 1 for name in self.classes])
        parts = {
            name: replace(part, images=_Renumbered(part.images, numbers))
            for name, part in (("train", self.train), ("heldout", self.heldout), ("test", self.test))
            if part is not None
        }
        changed: dict[str, Any] = {"classes": tuple(classes), **parts}
        return replace(self, **changed)

    @property
    def num_classes(self) -> int:
        """Number of classes with the background, as torchvision's detectors count them."""
        return len(self.classes) + 1


@dataclass(frozen=True)
class _Renumbered:
    """Images whose classes have other numbers."""

    images: AnnotatedImages
    numbers: Tensor
    """Number of each class, by the number that the images give to it."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        return self.images.keys

    def read(self, index: int) -> Sample:
        """Read an image and its target."""
        image, target = self.images.read(index)
        if isinstance(target, dict):
            return image, {**target, "labels": self.numbers[target["labels"]]}
        return image, tv_tensors.wrap(self.numbers[target.as_subclass(Tensor)], like=target)


@dataclass(frozen=True, kw_only=True)
class AnnotatedSource:
    """A dataset before it is split."""

    classes: tuple[str, ...]
    train: AnnotatedImages
    test: AnnotatedImages | None
    identity: str
    masks: bool = False
    """Its boxes have masks."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SemanticImages:
    """Instances as classes of pixels, for segmentation; pixels of crowds are ignored."""

    instances: AnnotatedImages

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        return self.instances.keys

    def read(self, index: int) -> Sample:
        """Read an image and the class of each of its pixels; smaller objects lie over larger ones, all over crowds."""
        image, target = self.instances.read(index)
        classes = torch.zeros(image.shape[-2:], dtype=torch.int64)
        masks = target["masks"].bool()
        order = masks.flatten(1).sum(1) + target["iscrowd"] * classes.numel()
        for row in order.argsort(descending=True, stable=True).tolist():
            classes[masks[row]] = IGNORED if target["iscrowd"][row] else int(target["labels"][row])
        return image, tv_tensors.Mask(classes)


def instances_target(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    size: tuple[int, int],
    image_id: int,
    iscrowd: NDArray[np.int64] | None = None,
    masks: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """Make the target of an image from arrays; boxes are clipped to the image, and dropped if nothing is left.

    Args:
        boxes: (N, 4), left, top, right, bottom.
        labels: (N,), from 1.
        size: Height and width of the image.
        image_id: Number of the image.
        iscrowd: (N,), 1 for a crowd; None: there are none.
        masks: (N, H, W); None: there are none.
    """
    limits = np.asarray([size[1], size[0]] * 2, dtype=np.float32)
    clipped = np.clip(boxes.reshape(-1, 4), 0, limits)
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(clipped), format="XYXY", canvas_size=size),
        "labels": torch.from_numpy(labels),
        "iscrowd": torch.from_numpy(np.zeros(len(labels), dtype=np.int64) if iscrowd is None else iscrowd),
        "image_id": torch.tensor(image_id),
    }
    if masks is not None:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
    return drop_empty_boxes(target)


def select_boxes(target: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
    """Return the target with some of its boxes, by a mask of True and False."""
    return {
        key: value if key == "image_id" else tv_tensors.wrap(value[chosen], like=value) for key, value in target.items()
    }


def drop_empty_boxes(target: dict[str, Any]) -> dict[str, Any]:
    """Drop boxes that are narrower or lower than a pixel."""
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    wide = (sides >= MIN_BOX_PIXELS).all(dim=1)
    return target if bool(wide.all()) else select_boxes(target, wide)


def letterbox(image: Tensor, target: Target, size: int) -> Sample:
    """Resize a sample to fit a square, place it at the top left, and return plain tensors.

    Args:
        image: uint8 (3, H, W).
        target: As `AnnotatedImages.read` gives it.
        size: Side of the square.
    """
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    new = [max(1, round(height * scale)), max(1, round(width * scale))]
    if new != [height, width]:
        image, target = resize(image, target, new)
    return plain(*pad(image, target, [0, 0, size - new[1], size - new[0]]))


def resize(image: Tensor, target: Target, size: list[int]) -> Sample:
    """Resize a sample to a height and width: images by bilinear interpolation, masks by the nearest pixel."""
    resized: Sample = v2.Resize(size, antialias=True)(image, target)
    return resized


def pad(image: Tensor, target: Target, sides: list[int]) -> Sample:
    """Pad a sample on the left, top, right and bottom; classes of pixels outside are `IGNORED`."""
    if not any(sides):
        return image, target
    padded: Sample = v2.Pad(sides, fill=fill_of(target))(image, target)
    return padded


def fill_of(target: Target) -> dict[Any, Any]:
    """Return what images and masks are filled with outside of the image."""
    return {tv_tensors.Image: PADDING, tv_tensors.Mask: 0 if isinstance(target, dict) else IGNORED}


def plain(image: Tensor, target: Target) -> Sample:
    """Return a sample as plain tensors, without boxes that have become empty."""
    if isinstance(target, dict):
        kept = drop_empty_boxes(target)
        return image.as_subclass(Tensor), {key: value.as_subclass(Tensor) for key, value in kept.items()}
    return image.as_subclass(Tensor), target.as_subclass(Tensor)


def require_image_size(image_size: int) -> None:
    """Raise an InputError unless images of this side can be made and hold boxes."""
    if not 16 <= image_size <= 4096:
        raise InputError("images with boxes must have a side of 16 to 4096 pixels", got=image_size)
