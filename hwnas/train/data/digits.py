"""Scikit-learn's handwritten digits as pictures."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.train.data.images import ArrayImages, Indices, Labels
from hwnas.train.data.split import split_off

CLASSES = tuple("0123456789")
_TEST_SHARE = 0.2
_TEST_SEED = 0
"""The test digits are the same whatever the seed of the other splits."""


class Originals(NamedTuple):
    """The digits themselves: 8x8 pixels, each from 0 to 1."""

    pixels: NDArray[np.float32]
    labels: Labels
    train: Indices
    test: Indices


def originals() -> Originals:
    """The 1,797 digits, and which of them are for testing alone."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = split_off(labels, _TEST_SHARE, seed=_TEST_SEED)
    return Originals((digits.images / 16).astype(np.float32), labels, train, test)


def enlarged(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Square pictures at another size, by linear interpolation between the centres of pixels."""
    old = pixels.shape[-1]
    places = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (old / size) - 0.5, 0, old - 1)
    lower = np.minimum(places.astype(np.int64), old - 2)
    share = (places - lower).astype(np.float32)
    rows = pixels[:, lower] * (1 - share)[:, None] + pixels[:, lower + 1] * share[:, None]
    result: NDArray[np.float32] = rows[..., lower] * (1 - share) + rows[..., lower + 1] * share
    return result


def digits(image_size: int, channels: int) -> tuple[ArrayImages, ArrayImages]:
    """The digits as they are, resized: those to train on and those to test on."""
    source = originals()
    grey = np.round(enlarged(source.pixels, image_size) * 255).astype(np.uint8)
    pictures = np.repeat(grey[..., None], channels, axis=-1)
    train, test = (
        ArrayImages(pictures[part], source.labels[part], [f"digits {index}" for index in part])
        for part in (source.train, source.test)
    )
    return train, test
