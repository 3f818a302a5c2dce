"""Augmentation of samples with boxes, masks or classes of pixels, with torchvision's transforms.

Every random draw is a function of the seed, the epoch and the position in the epoch.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torchvision.transforms import v2

from hwnas.config import Between, require_valid
from hwnas.errors import InputError
from hwnas.train.data.samples import Sample, Target, fill_of, plain


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentConfig:
    """Augmentation of training images with boxes, masks or classes of pixels."""

    flip: Annotated[float, Between(0, 1)] = 0.5
    """Probability of a horizontal flip."""
    scale: tuple[Annotated[float, Between(0.05, 8)], Annotated[float, Between(0.05, 8)]] = (0.6, 1.5)
    """Smallest and largest size of the image, relative to the letterboxed one, before a random square is cut out."""
    photometric: Annotated[float, Between(0, 1)] = 0.5
    """Probability of each change of brightness, contrast, saturation, hue and order of channels (SSD)."""

    def __post_init__(self) -> None:
        require_valid(self)
        if self.scale[0] > self.scale[1]:
            raise InputError("scale must be two factors, smallest <= largest", got=self.scale)


def augment(sample: Sample, config: DetectionAugmentConfig, *, size: int, seed: int) -> Sample:
    """Augment a sample to a square of plain tensors.

    Args:
        sample: Image and target in the image's own pixels, as `AnnotatedDataset.read` gives them.
        config: How it is augmented.
        size: Side of the square.
        seed: Decides all draws.
    """
    image, target = sample
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        moved, target = _transform(config, target, size=size)(image, target)
    return plain(moved, target)


def _transform(config: DetectionAugmentConfig, target: Target, *, size: int) -> Any:
    color = [v2.RandomPhotometricDistort(p=config.photometric)] if config.photometric else []
    steps = [
        v2.ScaleJitter((size, size), scale_range=config.scale, antialias=True),
        *color,  # after images have become smaller, before they are padded
        v2.RandomCrop(size, pad_if_needed=True, fill=fill_of(target)),
        v2.RandomHorizontalFlip(config.flip),
    ]
    return v2.Compose(steps)
