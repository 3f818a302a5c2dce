"""Order, shifts and flips of one epoch: functions of the seed and the epoch, for all positions at once.

Pictures are bytes of the shape (B, C, H, W) here.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.train.data.augment import PADDING_SHARE, AugmentConfig
from hwnas.train.data.images import Indices

Bytes = NDArray[np.uint8]
_ORDER, _MOVES = 0, 1
"""Streams of random numbers of an epoch."""


class Moves(NamedTuple):
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

    def at(self, positions: Indices) -> "Moves":
        """Those of some positions."""
        return Moves(self.rows[positions], self.columns[positions], self.flipped[positions], self.padding)

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
