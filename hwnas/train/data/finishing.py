"""The last steps of images, on the device of the training: bytes are normalized, and parts of them erased.

What is erased is drawn where images are loaded, as a function of the seed, the epoch and the position; the noise is
drawn on the device, from a seed of its own for each image.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hwnas.train.data.augment import IMAGENET, Normalization

_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)
"""Share of an image and ratio of the sides of an erased part (Zhong et al. 2020)."""
_TRIES = 10
"""Draws of a part before an image is left as it is, where parts are longer than its side."""


class Erasure(NamedTuple):
    """A part of an image that noise takes the place of."""

    row: int
    """Number of the image in its batch."""
    top: int
    left: int
    height: int
    width: int
    seed: int
    """Seed of the noise."""


@dataclass(frozen=True)
class Finish:
    """Normalizes a batch of bytes and erases parts of its images."""

    normalization: Normalization = IMAGENET
    erasures: tuple[Erasure, ...] = ()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (B, C, H, W) in float32 on the device of the bytes."""
        with torch.inference_mode(False), torch.no_grad():  # images that were evaluated may be trained on later
            mean, std = _columns(self.normalization, pixels.shape[1], pixels.device)
            images = pixels.float().sub_(mean).div_(std)
            for erasure in self.erasures:
                _erase(images, erasure)
        return images


def draw_erasure(key: Sequence[int], *, probability: float, size: int, row: int) -> Erasure | None:
    """Draw the part of a square image that is erased.

    Args:
        key: Integers that decide the draw.
        probability: Probability that a part is erased.
        size: Side of the image.
        row: Number of the image in its batch.

    Returns:
        The part; None if nothing is erased.
    """
    words = np.random.SeedSequence(key).generate_state(3)
    rng = random.Random(int(words[0]))
    if rng.random() > probability:
        return None
    for _ in range(_TRIES):
        area = rng.uniform(*_AREA) * size**2
        aspect = math.exp(rng.uniform(*map(math.log, _ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if width < size and height < size:
            top, left = rng.randint(0, size - height), rng.randint(0, size - width)
            return Erasure(row=row, top=top, left=left, height=height, width=width, seed=int(words[2]))
    return None


def _erase(images: Tensor, erasure: Erasure) -> None:
    rows = slice(erasure.top, erasure.top + erasure.height)
    columns = slice(erasure.left, erasure.left + erasure.width)
    rng = _generator(images.device).manual_seed(erasure.seed)
    noise = torch.empty(images.shape[1], erasure.height, erasure.width, device=images.device)
    images[erasure.row, :, rows, columns] = noise.normal_(generator=rng)


@lru_cache(maxsize=16)
def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device)


@lru_cache(maxsize=64)
def _columns(normalization: Normalization, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of bytes, kept on a device."""
    columns = (torch.from_numpy(255 * part)[:, None, None].to(device) for part in normalization.columns(channels))
    mean, std = columns
    return mean, std
