"""Embedded datasets made from scikit-learn's handwritten digits: the digits alone, and digits among clutter.

An image among clutter is a function of (seed, split, index): a digit is placed, rotated and scaled at random, its
contrast varied, and pieces of other digits, strokes and noise are laid around it. The random numbers of one kind are
drawn for all images in order, so that a smaller dataset is the beginning of a larger one.

Array shapes: N images, P pixels of an image, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.train.data.images import ArrayDataset, Indices, Labels, stratified_split

Floats = NDArray[np.float32]
ClutterSplit = Literal["train", "heldout", "test"]

SPLITS: tuple[ClutterSplit, ...] = ("train", "heldout", "test")

CLUTTER_VERSION = 3
"""Raised whenever the images of a seed change."""

TRAIN_IMAGES = 10_000
HELDOUT_IMAGES = 2_500
TEST_IMAGES = 2_500

NUM_ORIGINALS = 1797
"""Digits of scikit-learn."""

HELDOUT_ORIGINALS = 0.25
"""Share of the original training digits that held-out images are made from."""

DIGIT_SIZE = (0.55, 0.8)
"""Side of the 8 x 8 digit, as a share of the image's side."""
ROTATION_DEGREES = 15.0
CONTRAST = (0.6, 1.0)
PIECES = 2
"""Pieces of other digits in each image."""
PIECE_WIDTH = (2.0, 4.0)
"""Sides of a piece, in pixels of the original digit."""
PIECE_CONTRAST = (0.3, 0.7)
STROKES = 1
STROKE_WIDTH = 0.025
"""Half of a stroke's width, as a share of the image's side."""
NOISE = 0.05
TINT = 0.3
"""Largest difference in contrast between the three channels."""

_TEST_SHARE = 0.2
_TEST_SEED = 0
"""The test digits are the same whatever the seed of the other splits."""
_LOOKUP_SIZE = 32
"""Size that originals are enlarged to before pixels are looked up, so that the nearest pixel is close enough."""
_CHUNK = 250
"""Images made at once: few enough that the arrays stay in the CPU cache."""


class OriginalDigits(NamedTuple):
    """The digits of scikit-learn, 8 x 8 pixels from 0 to 1."""

    pixels: Floats
    labels: Labels
    train: Indices
    test: Indices


@dataclass(frozen=True, kw_only=True)
class ClutterConfig:
    """Images among clutter to make."""

    split: ClutterSplit
    count: int
    image_size: int = 32
    channels: int = 3
    seed: int = 0
    """Decides training and held-out images; the test images are the same for every seed."""


def load_originals() -> OriginalDigits:
    """Load the digits, split into training and test digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels, _TEST_SHARE, seed=_TEST_SEED)
    return OriginalDigits((digits.images / 16).astype(np.float32), labels, train, test)


def make_digits(image_size: int, channels: int) -> tuple[ArrayDataset, ArrayDataset]:
    """Resize the original digits; return the training and the test dataset."""
    source = load_originals()
    grey = np.round(resize_bilinear(source.pixels, image_size) * 255).astype(np.uint8)
    images = np.repeat(grey[..., None], channels, axis=-1)
    train, test = (
        ArrayDataset(images[part], source.labels[part], [f"digits {index}" for index in part])
        for part in (source.train, source.test)
    )
    return train, test


def make_clutter(config: ClutterConfig) -> ArrayDataset:
    """Make the first images of a split of `digits-clutter`."""
    pixels, labels = originals_of_split(config)
    seed = 0 if config.split == "test" else config.seed
    rng = [np.random.default_rng((seed, SPLITS.index(config.split), stream)) for stream in range(2)]
    array = np.empty((config.count, config.image_size, config.image_size, config.channels), dtype=np.uint8)
    classes = np.empty(config.count, dtype=np.int64)
    for start in range(0, config.count, _CHUNK):
        part = slice(start, min(start + _CHUNK, config.count))
        draws = _Draws(rng[0].random((part.stop - start, _Draws.columns()), dtype=np.float32))
        chosen = draws.index(len(labels))
        classes[part] = labels[chosen]
        ink = _draw_ink(pixels, chosen, draws, size=config.image_size)
        array[part] = _colorize(ink, draws, rng[1], channels=config.channels, size=config.image_size)
    return ArrayDataset(array, classes, [f"digits-clutter {config.split} {index}" for index in range(config.count)])


def resize_bilinear(pixels: Floats, size: int) -> Floats:
    """Resize square images by linear interpolation between the centers of pixels."""
    old = pixels.shape[-1]
    positions = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (old / size) - 0.5, 0, old - 1)
    lower = np.minimum(positions.astype(np.int64), old - 2)
    weight = (positions - lower).astype(np.float32)
    rows = pixels[:, lower] * (1 - weight)[:, None] + pixels[:, lower + 1] * weight[:, None]
    resized: Floats = rows[..., lower] * (1 - weight) + rows[..., lower + 1] * weight
    return resized


class _Draws:
    """Uniform random numbers, one row per image, handed out column by column in a fixed order."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._next = 0

    @staticmethod
    def columns() -> int:
        """Return the number of columns that an image takes."""
        return 5 + 9 * PIECES + 5 * STROKES + 5

    def index(self, count: int) -> Indices:
        """Draw an integer from 0 to `count` - 1 for each image."""
        return np.minimum((self._column() * count).astype(np.int64), count - 1)

    def between(self, low: float, high: float) -> Floats:
        """Draw a number in a range for each image."""
        return self._column() * np.float32(high - low) + np.float32(low)

    def _column(self) -> Floats:
        self._next += 1
        column: Floats = self.values[:, self._next - 1]
        return column


def originals_of_split(config: ClutterConfig) -> tuple[Floats, Labels]:
    """Return the enlarged digits that a split is made from; no two splits share one."""
    source = load_originals()
    train, heldout = stratified_split(source.labels[source.train], HELDOUT_ORIGINALS, seed=config.seed)
    members = {"train": source.train[train], "heldout": source.train[heldout], "test": source.test}[config.split]
    large = resize_bilinear(source.pixels, _LOOKUP_SIZE)
    return np.ascontiguousarray(large[members]), source.labels[members]


def _draw_ink(pixels: Floats, chosen: Indices, draws: _Draws, *, size: int) -> Floats:
    """Return the ink at each pixel, from 0 to 1: the digit, pieces of others and strokes."""
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x_P, y_P = np.tile(grid, size), np.repeat(grid, size)
    side = draws.between(*DIGIT_SIZE)
    room = np.float32(0.5) - side * np.float32(0.45)
    center = [np.float32(0.5) + room * draws.between(-1, 1) for _ in range(2)]
    angle = draws.between(-ROTATION_DEGREES, ROTATION_DEGREES)
    ink = sample_digit(pixels, chosen, [x_P - center[0][:, None], y_P - center[1][:, None]], side, angle)
    for _ in range(PIECES):
        np.maximum(ink, _draw_piece(pixels, draws, x_P, y_P), out=ink)
    for _ in range(STROKES):
        np.maximum(ink, _draw_stroke(draws, x_P, y_P), out=ink)
    return ink


def _draw_piece(pixels: Floats, draws: _Draws, x_P: Floats, y_P: Floats) -> Floats:
    """Return a rectangle of another digit, anywhere in the image."""
    chosen = draws.index(len(pixels))
    side, angle = draws.between(*DIGIT_SIZE), draws.between(-180, 180)
    offsets = [axis - draws.between(0, 1)[:, None] for axis in (x_P, y_P)]
    widths = [draws.between(*PIECE_WIDTH) / np.float32(8) for _ in range(2)]
    ink = sample_digit(pixels, chosen, offsets, side, angle, window=widths, shift=draws.between(-0.2, 0.2))
    return ink * draws.between(*PIECE_CONTRAST)[:, None]


def _draw_stroke(draws: _Draws, x_P: Floats, y_P: Floats) -> Floats:
    """Return a straight line between two points in each image."""
    ends = [draws.between(-0.1, 1.1) for _ in range(4)]
    return stroke_ink(ends, x_P, y_P) * draws.between(*PIECE_CONTRAST)[:, None]


def stroke_ink(ends: Sequence[Floats], x_P: Floats, y_P: Floats) -> Floats:
    """Return the ink of straight lines, by the distance of each pixel from the segment.

    Args:
        ends: x and y of the first points and of the second ones, as shares of the image's side.
        x_P: Horizontal position of each pixel.
        y_P: Vertical position of each pixel.
    """
    x0, y0, x1, y1 = (end[:, None] for end in ends)
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((x_P - x0) * dx + (y_P - y0) * dy) / (dx * dx + dy * dy + np.float32(1e-6)), 0, 1)
    distance = np.hypot(x_P - x0 - along * dx, y_P - y0 - along * dy)
    ink: Floats = np.clip(np.float32(1.5) - distance * np.float32(1 / STROKE_WIDTH), 0, 1)
    return ink


def sample_digit(
    pixels: Floats,
    chosen: Indices,
    offsets: Sequence[Floats],
    side: Floats,
    degrees: Floats,
    *,
    window: Sequence[Floats] | None = None,
    shift: Floats | None = None,
) -> Floats:
    """Sample a digit at points relative to its center.

    Args:
        pixels: Enlarged digits, as `originals_of_split` returns them.
        chosen: Which of them each row of the result is.
        offsets: Horizontal and vertical distance of the points from the center, as shares of the image's side.
        side: Side of each digit's square, as such a share.
        degrees: Rotation of each digit.
        window: Width and height, as shares of the digit, of the part to sample; None: all of it.
        shift: Distance of this part from the digit's center.

    Returns:
        The ink at each point, from 0 to 1, and 0 outside.
    """
    # Rotate and scale the points into the digit's own unit square, then look up the nearest pixel.
    cosine, sine = (function(np.deg2rad(degrees)) / side for function in (np.cos, np.sin))
    u = offsets[0] * cosine[:, None] + offsets[1] * sine[:, None]
    v = offsets[1] * cosine[:, None] - offsets[0] * sine[:, None]
    limits = window if window is not None else [np.ones_like(side)] * 2
    inside = (np.abs(u) < limits[0][:, None] / 2) & (np.abs(v) < limits[1][:, None] / 2)
    if shift is not None:
        u, v = u + shift[:, None], v - shift[:, None]
    column, row = (
        np.clip((axis + np.float32(0.5)) * _LOOKUP_SIZE, 0, _LOOKUP_SIZE - 1).astype(np.int32) for axis in (u, v)
    )
    flat = pixels.reshape(len(pixels), -1)
    ink: Floats = np.take(flat, chosen[:, None] * _LOOKUP_SIZE**2 + row * _LOOKUP_SIZE + column) * inside
    return ink


def _colorize(ink: Floats, draws: _Draws, rng: np.random.Generator, *, channels: int, size: int) -> NDArray[np.uint8]:
    """Return the images: ink on a background, both of varied brightness, tinted and with noise."""
    background, contrast = draws.between(0, 0.35), draws.between(*CONTRAST)
    tints = np.stack([draws.between(1 - TINT, 1) for _ in range(3)], axis=-1)[:, :channels]
    noise = rng.standard_normal((len(ink), ink.shape[1]), dtype=np.float32) * np.float32(NOISE)
    shade = (background[:, None] + ink * (contrast * (1 - background))[:, None])[..., None] * tints[:, None, :]
    bytes_NPC: NDArray[np.uint8] = np.clip((shade + noise[..., None]) * 255, 0, 255).astype(np.uint8)
    return bytes_NPC.reshape(len(ink), size, size, channels)
