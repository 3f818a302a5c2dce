"""Scikit-learn's handwritten digits as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.train.data.images import ArrayDataset, Indices, Labels, stratified_split

CLASSES = tuple("0123456789")
_TEST_SHARE = 0.2
_TEST_SEED = 0
"""The test digits are the same whatever the seed of the other splits."""


class OriginalDigits(NamedTuple):
    """The digits themselves: 8x8 pixels, each from 0 to 1."""

    pixels: NDArray[np.float32]
    labels: Labels
    train: Indices
    test: Indices


def load_originals() -> OriginalDigits:
    """The 1,797 digits, and which of them are for testing alone."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels, _TEST_SHARE, seed=_TEST_SEED)
    return OriginalDigits((digits.images / 16).astype(np.float32), labels, train, test)


def resize_bilinear(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Square pictures at another size, by linear interpolation between the centres of pixels."""
    old = pixels.shape[-1]
    places = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (old / size) - 0.5, 0, old - 1)
    lower = np.minimum(places.astype(np.int64), old - 2)
    share = (places - lower).astype(np.float32)
    rows = pixels[:, lower] * (1 - share)[:, None] + pixels[:, lower + 1] * share[:, None]
    result: NDArray[np.float32] = rows[..., lower] * (1 - share) + rows[..., lower + 1] * share
    return result


def digits(image_size: int, channels: int) -> tuple[ArrayDataset, ArrayDataset]:
    """The digits as they are, resized: those to train on and those to test on."""
    source = load_originals()
    grey = np.round(resize_bilinear(source.pixels, image_size) * 255).astype(np.uint8)
    pictures = np.repeat(grey[..., None], channels, axis=-1)
    train, test = (
        ArrayDataset(pictures[part], source.labels[part], [f"digits {index}" for index in part])
        for part in (source.train, source.test)
    )
    return train, test


Floats = NDArray[np.float32]
Split = Literal["train", "heldout", "test"]

VERSION = 3
"""Raised whenever the pictures of a seed change."""

TRAIN_PICTURES = 10_000
HELDOUT_PICTURES = 2_500
TEST_PICTURES = 2_500

HELDOUT_ORIGINALS = 0.25
"""The share of the digits that are not for testing from which held-out pictures are made."""

DIGIT_SIZE = (0.55, 0.8)
"""The side of the 8x8 digit, as a share of the picture's."""
ROTATION_DEGREES = 15.0
CONTRAST = (0.6, 1.0)
PIECES = 2
"""Pieces of other digits in each picture."""
PIECE_WIDTH = (2.0, 4.0)
"""The sides of a piece, in the digit's own pixels."""
PIECE_CONTRAST = (0.3, 0.7)
STROKES = 1
STROKE_WIDTH = 0.025
"""Half of a stroke's width, as a share of the picture's side."""
NOISE = 0.05
TINT = 0.3
"""How far the three channels may differ in contrast."""

_SPLITS: tuple[Split, ...] = ("train", "heldout", "test")
_DETAIL = 32
"""The size at which originals are looked up, so that the nearest pixel is near enough."""
_CHUNK = 250
"""Pictures that are made at once: few enough that the arrays stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class ClutterConfig:
    """Which pictures to make."""

    split: Split
    count: int
    image_size: int = 32
    channels: int = 3
    seed: int = 0


def make_clutter(config: ClutterConfig) -> ArrayDataset:
    """Make the first `count` pictures of a split."""
    pixels, labels = _pool(config)
    rng = [np.random.default_rng((_seed(config), _SPLITS.index(config.split), stream)) for stream in range(2)]
    array = np.empty((config.count, config.image_size, config.image_size, config.channels), dtype=np.uint8)
    found = np.empty(config.count, dtype=np.int64)
    for start in range(0, config.count, _CHUNK):
        part = slice(start, min(start + _CHUNK, config.count))
        draws = _Draws(rng[0].random((part.stop - start, _Draws.estimate_memory()), dtype=np.float32))
        chosen = draws.index(len(labels))
        found[part] = labels[chosen]
        mask = _scene(pixels, chosen, draws, size=config.image_size)
        array[part] = _coloured(mask, draws, rng[1], channels=config.channels, size=config.image_size)
    return ArrayDataset(array, found, [f"digits-clutter {config.split} {index}" for index in range(config.count)])


class _Draws:
    """Uniform random numbers, one row a picture, handed out column by column in a fixed order."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._next = 0

    @staticmethod
    def estimate_memory() -> int:
        """Columns that a picture takes."""
        return 5 + 9 * PIECES + 5 * STROKES + 5

    def index(self, count: int) -> Indices:
        """A whole number below `count`."""
        return np.minimum((self._column() * count).astype(np.int64), count - 1)

    def between(self, low: float, high: float) -> Floats:
        """A number in a range."""
        return self._column() * np.float32(high - low) + np.float32(low)

    def _column(self) -> Floats:
        self._next += 1
        column: Floats = self.values[:, self._next - 1]
        return column


def _seed(config: ClutterConfig) -> int:
    """The test pictures do not depend on the seed."""
    return 0 if config.split == "test" else config.seed


def _pool(config: ClutterConfig) -> tuple[Floats, Labels]:
    """The digits from which the pictures of a split are made; no two splits share one."""
    source = load_originals()
    train, heldout = stratified_split(source.labels[source.train], HELDOUT_ORIGINALS, seed=config.seed)
    members = {"train": source.train[train], "heldout": source.train[heldout], "test": source.test}[config.split]
    large = resize_bilinear(source.pixels, _DETAIL)
    return np.ascontiguousarray(large[members]), source.labels[members]


def _scene(pixels: Floats, chosen: Indices, draws: _Draws, *, size: int) -> Floats:
    """How much ink there is at each pixel, from 0 to 1."""
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x_P, y_P = np.tile(grid, size), np.repeat(grid, size)
    side = draws.between(*DIGIT_SIZE)
    room = np.float32(0.5) - side * np.float32(0.45)
    centre = [np.float32(0.5) + room * draws.between(-1, 1) for _ in range(2)]
    angle = draws.between(-ROTATION_DEGREES, ROTATION_DEGREES)
    ink = _placed(pixels, chosen, [x_P - centre[0][:, None], y_P - centre[1][:, None]], side, angle)
    for _ in range(PIECES):
        np.maximum(ink, _piece(pixels, draws, x_P, y_P), out=ink)
    for _ in range(STROKES):
        np.maximum(ink, _stroke(draws, x_P, y_P), out=ink)
    return ink


def _piece(pixels: Floats, draws: _Draws, x_P: Floats, y_P: Floats) -> Floats:
    """A rectangle out of a digit, anywhere in the picture."""
    chosen = draws.index(len(pixels))
    side, angle = draws.between(*DIGIT_SIZE), draws.between(-180, 180)
    offsets = [axis - draws.between(0, 1)[:, None] for axis in (x_P, y_P)]
    widths = [draws.between(*PIECE_WIDTH) / np.float32(8) for _ in range(2)]
    ink = _placed(pixels, chosen, offsets, side, angle, window=widths, shift=draws.between(-0.2, 0.2))
    return ink * draws.between(*PIECE_CONTRAST)[:, None]


def _stroke(draws: _Draws, x_P: Floats, y_P: Floats) -> Floats:
    """A straight line between two points."""
    x0, y0, x1, y1 = (draws.between(-0.1, 1.1)[:, None] for _ in range(4))
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((x_P - x0) * dx + (y_P - y0) * dy) / (dx * dx + dy * dy + np.float32(1e-6)), 0, 1)
    distance = np.hypot(x_P - x0 - along * dx, y_P - y0 - along * dy)
    ink: Floats = np.clip(np.float32(1.5) - distance * np.float32(1 / STROKE_WIDTH), 0, 1)
    return ink * draws.between(*PIECE_CONTRAST)[:, None]


def _placed(
    pixels: Floats,
    chosen: Indices,
    offsets: Sequence[Floats],
    side: Floats,
    degrees: Floats,
    *,
    window: Sequence[Floats] | None = None,
    shift: Floats | None = None,
) -> Floats:
    """A digit seen at points relative to its middle; of a `window`, only what lies within it."""
    cosine, sine = (turn(np.deg2rad(degrees)) / side for turn in (np.cos, np.sin))
    u = offsets[0] * cosine[:, None] + offsets[1] * sine[:, None]
    v = offsets[1] * cosine[:, None] - offsets[0] * sine[:, None]
    limits = window if window is not None else [np.ones_like(side)] * 2
    inside = (np.abs(u) < limits[0][:, None] / 2) & (np.abs(v) < limits[1][:, None] / 2)
    if shift is not None:
        u, v = u + shift[:, None], v - shift[:, None]
    column, row = (np.clip((place + np.float32(0.5)) * _DETAIL, 0, _DETAIL - 1).astype(np.int32) for place in (u, v))
    flat = pixels.reshape(len(pixels), -1)
    ink: Floats = np.take(flat, chosen[:, None] * _DETAIL**2 + row * _DETAIL + column) * inside
    return ink


def _coloured(ink: Floats, draws: _Draws, rng: np.random.Generator, *, channels: int, size: int) -> NDArray[np.uint8]:
    """The picture: ink on a ground, both varied, tinted and noised."""
    ground, contrast = draws.between(0, 0.35), draws.between(*CONTRAST)
    tints = np.stack([draws.between(1 - TINT, 1) for _ in range(3)], axis=-1)[:, :channels]
    noise = rng.standard_normal((len(ink), ink.shape[1]), dtype=np.float32) * np.float32(NOISE)
    shade = (ground[:, None] + ink * (contrast * (1 - ground))[:, None])[..., None] * tints[:, None, :]
    bytes_NPC: NDArray[np.uint8] = np.clip((shade + noise[..., None]) * 255, 0, 255).astype(np.uint8)
    return bytes_NPC.reshape(len(ink), size, size, channels)
