"""Augmentation of training images with timm's transforms, and the transform that images are evaluated with.

Every random draw is a function of the seed, the epoch and the position in the epoch. Array shapes: (B, C, H, W), uint8.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.config import Between, require_valid, shown
from hwnas.errors import InputError, unknown
from hwnas.train.data.images import Indices

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")
"""Interpolations that timm resizes with."""

PADDING_SHARE = 1 / 8
"""Largest shift of the crop `pad`, as a share of the side: 4 pixels of 32, as is usual on CIFAR."""

EVAL_CROP_SHARE = 0.875
"""Share of the shorter side that is evaluated of an image larger than the network's input: 224 of 256 pixels."""

Crop = Literal["random-resized", "pad", "none"]
Pixels = NDArray[np.uint8]

_MAX_ASPECT = 64
"""Ratio of the sides above which an image is cropped before it is resized."""

_ORDER_STREAM, _SHIFT_FLIP_STREAM = 0, 1
"""Streams of random numbers of an epoch."""


_PLAIN_RAND_AUGMENT = re.compile(r"rand-m(?:[0-9]|10)(?:-mstd0\.5)?(?:-inc1)?")
"""The notation of all recipes, which is known to be valid without loading timm."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images, part of a recipe."""

    crop: Crop = "random-resized"
    """`random-resized`: a random part, resized; `pad`: shifted by up to 1/8 of its side over black; `none`: as it is
    evaluated."""
    scale: tuple[Annotated[float, Between(0, 1)], Annotated[float, Between(0, 1)]] = (0.08, 1.0)
    """Smallest and largest area of a `random-resized` part, as a share of the image's."""
    flip: Annotated[float, Between(0, 1)] = 0.5
    """Probability of a horizontal flip."""
    rand_augment: str = ""
    """RandAugment in timm's notation, for example `rand-m9-mstd0.5-inc1`; empty: none."""
    color_jitter: Annotated[float, Between(0, 10)] = 0.0
    """Strength of the jitter of brightness, contrast and saturation. RandAugment replaces it, as in timm, unless
    `jitter_always`."""
    jitter_always: bool = False
    """Jitter colors after RandAugment, too (ViTAS)."""
    erase: Annotated[float, Between(0, 1)] = 0.0
    """Probability of random erasing, with noise."""
    interpolation: str = "bicubic"
    """Interpolation of resized images, one of `INTERPOLATIONS`."""
    repeats: Annotated[int, Between(1, 100)] = 1
    """Variants of an image in an epoch, which has proportionally fewer images (DeiT's repeated augmentation)."""

    def __post_init__(self) -> None:
        if self.crop not in ("random-resized", "pad", "none"):
            raise unknown("crop", str(self.crop), ("random-resized", "pad", "none"))
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        require_valid(self)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError("scale must be two shares, 0 < smallest <= largest <= 1", got=self.scale)
        if self.rand_augment and not _PLAIN_RAND_AUGMENT.fullmatch(self.rand_augment):
            rand_augment(self.rand_augment, image_size=32)

    @property
    def shift_flip_only(self) -> bool:
        """True if images are at most shifted, flipped and erased, which is done for a batch at once."""
        return self.crop != "random-resized" and not self.rand_augment and not self.color_jitter


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixels from 0 to 1."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def columns(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and standard deviation of each channel; one channel has the means of the three."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        return (mean, std) if channels == 3 else (mean.mean(keepdims=True), std.mean(keepdims=True))


IMAGENET = Normalization()
"""Normalization of nearly all published networks."""


def rand_augment(config: str, *, image_size: int, interpolation: str = "bicubic") -> Any:
    """Create timm's RandAugment.

    Args:
        config: Its settings in timm's notation.
        image_size: Side of the images, which translations are proportional to.
        interpolation: One of `INTERPOLATIONS`.

    Raises:
        InputError: timm cannot read the settings.
    """
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    parameters: dict[str, Any] = {
        "translate_const": int(image_size * 0.45),
        "img_mean": tuple(round(255 * value) for value in IMAGENET.mean),
    }
    if interpolation != "random":
        parameters["interpolation"] = str_to_pil_interp(interpolation)  # type: ignore[no-untyped-call]
    if not config.startswith("rand"):
        raise InputError("rand_augment must begin with 'rand'", got=shown(config), hint="rand-m9-mstd0.5-inc1")
    try:
        transform = rand_augment_transform(config, parameters)
        _require_moderate(transform)
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        message = "rand_augment must be in timm's notation"
        raise InputError(message, got=shown(config), hint="rand-m9-mstd0.5-inc1") from error
    # At full strength timm's Posterize keeps no bit of a pixel, which Pillow refuses since version 13: keep one.
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return transform


def _require_moderate(transform: Any) -> None:
    """Raise a ValueError for strengths and numbers of operations that no image withstands, or that take hours."""
    operation = transform.ops[0]
    largest = 10 if operation.magnitude_max is None else operation.magnitude_max
    if not (1 <= transform.num_layers <= 16 and 0 <= operation.magnitude <= 100 and 1 <= largest <= 30):
        raise ValueError("n must be 1 to 16, m 0 to 100, mmax 1 to 30")
    if not (0 <= operation.prob <= 1 and operation.magnitude_std >= 0):
        raise ValueError("p must be 0 to 1")


def crop_transform(config: AugmentConfig, *, image_size: int) -> "Callable[[Image], Image]":
    """Create the transform that crops and resizes a training image to the network's input size."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    if config.crop != "random-resized":
        return eval_transform(image_size=image_size, interpolation=config.interpolation)
    transform: Callable[[Image], Image] = RandomResizedCropAndInterpolation(  # type: ignore[no-untyped-call]
        image_size, scale=config.scale, interpolation=config.interpolation
    )
    return transform


def color_transform(config: AugmentConfig, *, image_size: int) -> "Callable[[Image], Image] | None":
    """Create the transform of a cropped training image: RandAugment, color jitter, both or none."""
    from torchvision.transforms import ColorJitter, Compose

    transforms: list[Callable[[Image], Image]] = []
    if config.rand_augment:
        transforms.append(rand_augment(config.rand_augment, image_size=image_size, interpolation=config.interpolation))
    if config.color_jitter and (config.jitter_always or not transforms):
        transforms.append(ColorJitter(*[config.color_jitter] * 3))
    if len(transforms) > 1:
        both: Callable[[Image], Image] = Compose(transforms)
        return both
    return transforms[0] if transforms else None


def eval_transform(
    *, image_size: int, crop_share: float | None = None, interpolation: str = "bicubic"
) -> "Callable[[Image], Image]":
    """Create the transform of images to evaluate: resize the shorter side, crop the center.

    Args:
        image_size: Side of the network's input.
        crop_share: Share of the shorter side that the crop keeps; None: 0.875 of an image larger than the network's
            input, and all of any other.
        interpolation: One of `INTERPOLATIONS`.

    Raises:
        InputError: The share is not above 0 and at most 1.
    """
    if crop_share is not None and not 0 < crop_share <= 1:
        raise InputError("crop_share must be above 0 and at most 1", got=crop_share)
    fixed = "bicubic" if interpolation == "random" else interpolation
    return partial(_resize_and_crop, image_size=image_size, crop_share=crop_share, interpolation=fixed)


def epoch_order(count: int, *, repeats: int, seed: int, epoch: int) -> Indices:
    """Return the index of the image at each position of an epoch; the variants of an image are adjacent."""
    order = np.random.default_rng((seed, epoch, _ORDER_STREAM)).permutation(count)
    return np.repeat(order, repeats)[:count] if repeats > 1 else order


class ShiftFlip(NamedTuple):
    """Shift and horizontal flip of several images, applied to all of them at once."""

    rows: Indices
    """Top of the window onto each padded image."""
    columns: Indices
    """Left side of the window."""
    flipped: NDArray[np.bool_]
    padding: int

    @classmethod
    def of_epoch(cls, config: AugmentConfig, *, seed: int, epoch: int, count: int, image_size: int) -> Self:
        """Draw the shifts and flips of every position of an epoch."""
        rng = np.random.default_rng((seed, epoch, _SHIFT_FLIP_STREAM))
        padding = round(image_size * PADDING_SHARE) if config.crop == "pad" else 0
        windows = rng.integers(0, 2 * padding + 1, size=(2, count))
        return cls(windows[0], windows[1], rng.random(count) < config.flip, padding)

    def move(self, image: "Image", position: int) -> "Image":
        """Shift and flip the image at a position; pixels shifted in from outside are black."""
        from PIL import Image

        if self.padding:
            left, top = int(self.columns[position]) - self.padding, int(self.rows[position]) - self.padding
            image = image.crop((left, top, left + image.width, top + image.height))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flipped[position] else image

    def at(self, positions: Indices) -> "ShiftFlip":
        """Select some positions."""
        return ShiftFlip(self.rows[positions], self.columns[positions], self.flipped[positions], self.padding)

    def apply(self, images: Pixels) -> Pixels:
        """Shift and flip images; pixels shifted in from outside are black."""
        if self.padding:
            images = self._shift(images)
        if self.flipped.any():
            images = images if self.padding else images.copy()
            images[self.flipped] = images[self.flipped][..., ::-1]
        return images

    def _shift(self, images: Pixels) -> Pixels:
        size = images.shape[-1]
        padded = np.pad(images, ((0, 0), (0, 0), (self.padding,) * 2, (self.padding,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        shifted: Pixels = windows[np.arange(len(images)), :, self.rows, self.columns]
        return shifted


def _resize_and_crop(image: "Image", *, image_size: int, crop_share: float | None, interpolation: str) -> "Image":
    from timm.data.transforms import str_to_interp_mode
    from torchvision.transforms import functional

    shorter = min(image.size)
    if max(image.size) > _MAX_ASPECT * shorter:
        # Only the middle is kept; resizing all of a line of 1 x 65,535 pixels first would take gigabytes.
        sides = [min(side, _MAX_ASPECT * shorter) for side in image.size]
        image = functional.center_crop(image, sides[::-1])
    share = crop_share or (EVAL_CROP_SHARE if shorter > image_size else 1.0)
    if share < 1 or shorter != image_size:
        mode = str_to_interp_mode(interpolation)  # type: ignore[no-untyped-call]
        image = functional.resize(image, int(image_size / share), mode)
    result: Image = functional.center_crop(image, image_size)
    return result


def _at_least_one_bit(level_fn: Callable[..., tuple[int]], level: float, hparams: object) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)
