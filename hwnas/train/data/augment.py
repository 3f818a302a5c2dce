"""How training pictures are varied, with timm's transforms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError, unknown
from hwnas.train.data.images import Indices

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")
"""What timm can resize with."""

PADDING_SHARE = 1 / 8
"""How far a picture is shifted at most by the crop `pad`, as a share of its side: 4 of 32 pixels."""

SMALL_CROP_SHARE = 0.875
"""How much of the shorter side of a larger picture is looked at when it is judged."""

Crop = Literal["random-resized", "pad", "none"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures are varied."""

    crop: Crop = "random-resized"
    """A part of the picture, resized; the picture shifted by up to 1/8 over black; or the picture as it is judged."""
    scale: tuple[float, float] = (0.08, 1.0)
    """The area of a resized part, as a share of the picture's."""
    flip: float = 0.5
    """How often left and right are swapped."""
    rand_augment: str = ""
    """RandAugment as timm writes it, `rand-m9-mstd0.5-inc1` for example; empty: none."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation vary; as in timm, RandAugment takes its place."""
    erase: float = 0.0
    """How often a rectangle is replaced by noise."""
    interpolation: str = "bicubic"
    repeats: int = 1
    """How many variants of a picture an epoch has; it then shows as many fewer pictures."""

    def __post_init__(self) -> None:
        if self.crop not in ("random-resized", "pad", "none"):
            raise unknown("crop", str(self.crop), ("random-resized", "pad", "none"))
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError("scale must be two shares, 0 < smallest <= largest <= 1", got=self.scale)
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share from 0 to 1", got=getattr(self, name))
        if self.color_jitter < 0:
            raise InputError("color_jitter must not be negative", got=self.color_jitter)
        if self.repeats < 1:
            raise InputError("repeats must be at least 1", got=self.repeats)
        if self.rand_augment:
            rand_augment(self.rand_augment, image_size=32)

    @property
    def shift_flip_only(self) -> bool:
        """Whether pictures are at most shifted, flipped and erased, which is done for a whole batch at once."""
        return self.crop != "random-resized" and not self.rand_augment and not self.color_jitter


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What pixels from 0 to 1 are centred and scaled by, per channel."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def columns(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each channel; one channel has the means of the three."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        return (mean, std) if channels == 3 else (mean.mean(keepdims=True), std.mean(keepdims=True))


IMAGENET = Normalization()
"""What nearly all published networks are trained with."""


def rand_augment(config: str, *, image_size: int, interpolation: str = "bicubic") -> Any:
    """Timm's RandAugment; it keeps at least one bit of each pixel, as Pillow has refused to keep none since 13."""
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    parameters: dict[str, Any] = {
        "translate_const": int(image_size * 0.45),
        "img_mean": tuple(round(255 * value) for value in IMAGENET.mean),
    }
    if interpolation != "random":
        parameters["interpolation"] = str_to_pil_interp(interpolation)  # type: ignore[no-untyped-call]
    if not config.startswith("rand"):
        raise InputError("rand_augment must begin with 'rand'", got=config, hint="rand-m9-mstd0.5-inc1")
    try:
        transform = rand_augment_transform(config, parameters)
    except (AssertionError, ValueError, KeyError) as error:
        message = "rand_augment must be written as timm does"
        raise InputError(message, got=config, hint="rand-m9-mstd0.5-inc1") from error
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return transform


def crop_transform(config: AugmentConfig, *, image_size: int) -> "Callable[[Image], Image]":
    """The part of a training picture that is looked at, at the size of the network."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    if config.crop != "random-resized":
        return eval_transform(image_size=image_size, interpolation=config.interpolation)
    transform: Callable[[Image], Image] = RandomResizedCropAndInterpolation(  # type: ignore[no-untyped-call]
        image_size, scale=config.scale, interpolation=config.interpolation
    )
    return transform


def color_transform(config: AugmentConfig, *, image_size: int) -> "Callable[[Image], Image] | None":
    """What changes the look of a training picture."""
    if config.rand_augment:
        transform: Callable[[Image], Image] = rand_augment(
            config.rand_augment, image_size=image_size, interpolation=config.interpolation
        )
        return transform
    if config.color_jitter:
        from torchvision.transforms import ColorJitter

        jitter: Callable[[Image], Image] = ColorJitter(*[config.color_jitter] * 3)
        return jitter
    return None


def eval_transform(
    *, image_size: int, crop_share: float | None = None, interpolation: str = "bicubic"
) -> "Callable[[Image], Image]":
    """A picture as it is judged: the shorter side resized, the middle cut out.

    Without a `crop_share`, 0.875 of the shorter side of a picture larger than the network's is looked at, and all of
    others.
    """
    if crop_share is not None and not 0 < crop_share <= 1:
        raise InputError("crop_share must be above 0 and at most 1", got=crop_share)
    plain = "bicubic" if interpolation == "random" else interpolation
    return partial(_view, image_size=image_size, crop_share=crop_share, interpolation=plain)


def _view(image: "Image", *, image_size: int, crop_share: float | None, interpolation: str) -> "Image":
    from timm.data.transforms import str_to_interp_mode
    from torchvision.transforms import functional

    shorter = min(image.size)
    share = crop_share or (SMALL_CROP_SHARE if shorter > image_size else 1.0)
    if share < 1 or shorter != image_size:
        mode = str_to_interp_mode(interpolation)  # type: ignore[no-untyped-call]
        image = functional.resize(image, int(image_size / share), mode)
    result: Image = functional.center_crop(image, image_size)
    return result


def _at_least_one_bit(level_fn: Callable[..., tuple[int]], level: float, hparams: object) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


Bytes = NDArray[np.uint8]
_ORDER, _MOVES = 0, 1
"""Streams of random numbers of an epoch."""


class ShiftFlip(NamedTuple):
    """How far the window onto some pictures is moved over their padding, and which are flipped."""

    rows: Indices
    columns: Indices
    flipped: NDArray[np.bool_]
    padding: int

    @classmethod
    def of_epoch(cls, config: AugmentConfig, *, seed: int, epoch: int, count: int, image_size: int) -> Self:
        """The moves of every position of an epoch."""
        rng = np.random.default_rng((seed, epoch, _MOVES))
        padding = round(image_size * PADDING_SHARE) if config.crop == "pad" else 0
        places = rng.integers(0, 2 * padding + 1, size=(2, count))
        return cls(places[0], places[1], rng.random(count) < config.flip, padding)

    def at(self, positions: Indices) -> "ShiftFlip":
        """Those of some positions."""
        return ShiftFlip(self.rows[positions], self.columns[positions], self.flipped[positions], self.padding)

    def apply(self, pictures: Bytes) -> Bytes:
        """Pictures moved and flipped; what comes in from outside is black."""
        if self.padding:
            pictures = self._shifted(pictures)
        if self.flipped.any():
            pictures = pictures if self.padding else pictures.copy()
            pictures[self.flipped] = pictures[self.flipped][..., ::-1]
        return pictures

    def _shifted(self, pictures: Bytes) -> Bytes:
        size = pictures.shape[-1]
        padded = np.pad(pictures, ((0, 0), (0, 0), (self.padding,) * 2, (self.padding,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        shifted: Bytes = windows[np.arange(len(pictures)), :, self.rows, self.columns]
        return shifted


def epoch_order(count: int, *, repeats: int, seed: int, epoch: int) -> Indices:
    """Which picture stands at each position of an epoch; the variants of a picture stand side by side."""
    order = np.random.default_rng((seed, epoch, _ORDER)).permutation(count)
    return np.repeat(order, repeats)[:count] if repeats > 1 else order
