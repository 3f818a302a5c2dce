"""The embedded dataset `digits-scene`: several of scikit-learn's handwritten digits in an image, with boxes and masks.

A scene is a function of (seed, split, index) and is drawn when it is read. Held-out and test scenes are made of digits
that no training scene has.

Array shapes: D digits of a scene, P pixels of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from hwnas.train.data.digits import (
    SPLITS,
    ClutterConfig,
    ClutterSplit,
    Floats,
    originals_of_split,
    sample_digit,
    stroke_ink,
)
from hwnas.train.data.images import Indices, Labels
from hwnas.train.data.samples import Sample, instances_target

SCENE_VERSION = 1
"""Raised whenever the scenes of a seed change."""

TRAIN_SCENES = 4_000
HELDOUT_SCENES = 500
TEST_SCENES = 500

MAX_DIGITS = 5
MIN_DIGITS = 2
DIGIT_SIDE = (0.22, 0.42)
"""Side of a digit's square, as a share of the image's side."""
ROTATION_DEGREES = 15.0
OVERLAP = 0.25
"""Largest overlap of the squares of two digits, as a share of the smaller one's side."""
ATTEMPTS = 8
"""Places that are tried for a digit before it is left out."""
STROKES = 2
INK_OF_OBJECT = 0.35
"""Ink from which a pixel belongs to a digit."""
MIN_PIXELS = 6
"""Digits of which fewer pixels are visible are not annotated."""
CONTRAST = (0.55, 1.0)
NOISE = 0.05


class _Placed(NamedTuple):
    """The digits of a scene, in shares of the image's side."""

    chosen: Indices
    x_D: Floats
    y_D: Floats
    side_D: Floats


@dataclass(frozen=True, kw_only=True)
class DigitsScenes:
    """The scenes of one split."""

    split: ClutterSplit
    count: int
    image_size: int
    seed: int = 0
    """Decides training and held-out scenes; the test scenes are the same for every seed."""

    @cached_property
    def keys(self) -> Sequence[str]:
        """Name of each scene."""
        return [f"digits-scene {self.split} {index}" for index in range(self.count)]

    def read(self, index: int) -> Sample:
        """Draw a scene."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((0 if self.split == "test" else self.seed, SPLITS.index(self.split), index))
        pixels, labels = self._originals
        placed = _place(rng, len(labels))
        ink_DP = self._ink(rng, pixels, placed)
        owner_P = _top_digit(ink_DP)
        image = _paint(rng, ink_DP, owner_P, size=self.image_size)
        boxes, masks, seen = _visible(owner_P, len(placed.chosen), size=self.image_size)
        target = instances_target(
            boxes, labels[placed.chosen][seen] + 1, size=(self.image_size,) * 2, image_id=index, masks=masks
        )
        return tv_tensors.Image(torch.from_numpy(image)), target

    @cached_property
    def _originals(self) -> tuple[Floats, Labels]:
        return originals_of_split(ClutterConfig(split=self.split, count=1, seed=self.seed))

    @cached_property
    def _grid(self) -> tuple[Floats, Floats]:
        """Horizontal and vertical position of each pixel, from 0 to 1."""
        axis = (np.arange(self.image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(self.image_size)
        return np.tile(axis, self.image_size), np.repeat(axis, self.image_size)

    def _ink(self, rng: np.random.Generator, pixels: Floats, placed: _Placed) -> Floats:
        """Return the ink of the strokes, in the first row, and of each digit, from 0 to 1."""
        x_P, y_P = self._grid
        angle = _between(rng, -ROTATION_DEGREES, ROTATION_DEGREES, len(placed.chosen))
        offsets = [x_P - placed.x_D[:, None], y_P - placed.y_D[:, None]]
        digits = sample_digit(pixels, placed.chosen, offsets, placed.side_D, angle)
        ends = [_between(rng, -0.1, 1.1, STROKES) for _ in range(4)]
        strokes = stroke_ink(ends, x_P, y_P) * _between(rng, 0.3, 0.6, STROKES)[:, None]
        return np.concatenate([strokes.max(axis=0, keepdims=True), digits])


def _place(rng: np.random.Generator, num_originals: int) -> _Placed:
    """Draw which digits a scene has, and where, such that they overlap little."""
    squares: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(MIN_DIGITS, MAX_DIGITS + 1))):
        side = float(rng.uniform(*DIGIT_SIDE))
        places = rng.uniform(side / 2, 1 - side / 2, size=(ATTEMPTS, 2))
        free = [(x, y) for x, y in places if all(_apart(x, y, side, other) for other in squares)]
        if free:
            squares.append((*free[0], side))
    x_D, y_D, side_D = np.asarray(squares, dtype=np.float32).T
    return _Placed(rng.integers(num_originals, size=len(squares)), x_D, y_D, side_D)


def _apart(x: float, y: float, side: float, other: tuple[float, float, float]) -> bool:
    overlap = (side + other[2]) / 2 - max(abs(x - other[0]), abs(y - other[1]))
    return overlap <= OVERLAP * min(side, other[2])


def _top_digit(ink_DP: Floats) -> NDArray[np.int64]:
    """Return the number of the digit that each pixel belongs to, from 1; a later digit lies over an earlier one."""
    is_digit = ink_DP > INK_OF_OBJECT
    is_digit[0] = True  # the strokes are background
    top: NDArray[np.int64] = len(is_digit) - 1 - np.argmax(is_digit[::-1], axis=0)
    return top


def _paint(rng: np.random.Generator, ink_DP: Floats, owner_P: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
    """Return the image (3, H, W): strokes and digits of different colors on a dark background, with noise."""
    background = _between(rng, 0, 0.3, 3)[:, None]
    colors = _between(rng, *CONTRAST, 3 * len(ink_DP)).reshape(3, -1)
    image = background + ink_DP[0] * colors[:, :1] * (1 - background)
    for digit in range(1, len(ink_DP)):
        ink = np.where(owner_P > digit, 0, ink_DP[digit])
        image += ink * (colors[:, digit, None] - image)
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(NOISE)
    pixels: NDArray[np.uint8] = np.clip(image * 255, 0, 255).astype(np.uint8)
    return pixels.reshape(3, size, size)


def _visible(
    owner_P: NDArray[np.int64], count: int, *, size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Indices]:
    """Return boxes and masks of the visible digits, and which these are."""
    masks = (owner_P == np.arange(1, count + 1)[:, None]).reshape(count, size, size)
    seen = np.flatnonzero(masks.sum(axis=(1, 2)) >= MIN_PIXELS)
    boxes = np.asarray([box_of_mask(mask) for mask in masks[seen]], dtype=np.float32).reshape(-1, 4)
    return boxes, masks[seen].astype(np.uint8), seen


def box_of_mask(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _between(rng: np.random.Generator, low: float, high: float, count: int) -> Floats:
    return rng.random(count, dtype=np.float32) * np.float32(high - low) + np.float32(low)
