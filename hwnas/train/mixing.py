"""Images mixed with one another: timm's mixup and CutMix, and ViT-ResNAS's mixing of whole patches."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.recipe import MixConfig
from hwnas.train.seeds import seeded_numpy


@dataclass(frozen=True)
class MixedBatch:
    """Images and what they show: B of them, P patches each, C classes."""

    images: Tensor
    targets: Tensor
    """(B, C), rows that sum to 1."""
    patch_targets: Tensor | None = None
    """(B, P, C); None: every patch shows what its image shows."""


Mixer = Callable[[Tensor, Tensor, np.random.Generator], MixedBatch]
"""Images and labels to mixed ones, a function of the generator; the images given are not changed."""


def make_mixer(config: MixConfig, *, num_classes: int, patches: int | None = None) -> Mixer:
    """The mixer that a config describes; `patches` along one side of an image, where patches have labels."""
    if config.token_mixup:
        if patches is None:
            message = "token_mixup needs networks that classify patches"
            raise InputError(message, got="networks that do not", hint="mix.token_mixup=false")
        return partial(_token_mixed, config=config, num_classes=num_classes, patches=patches)
    if config.mixes:
        return partial(_mixed, config=config, num_classes=num_classes)
    return partial(_plain, config=config, num_classes=num_classes)


def _plain(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, config: MixConfig, num_classes: int
) -> MixedBatch:
    return MixedBatch(images, _targets(labels, config, num_classes))


def _mixed(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, config: MixConfig, num_classes: int
) -> MixedBatch:
    from timm.data.mixup import Mixup

    mixup = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.prob,
        switch_prob=config.switch_prob,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
    )
    with seeded_numpy(rng):
        return MixedBatch(*mixup(images.clone(), labels))


def _token_mixed(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, config: MixConfig, num_classes: int, patches: int
) -> MixedBatch:
    """The first half with rectangles of patches swapped, the second half mixed up."""
    targets = _targets(labels, config, num_classes)
    half = len(images) // 2
    swapped = _swapped(images[:half], targets[:half], rng, alpha=config.cutmix, patches=patches)
    blended = _blended(images[half:], targets[half:], rng, alpha=config.mixup, patches=patches)
    return MixedBatch(*(torch.cat(pair) for pair in zip(swapped, blended, strict=True)))


def _swapped(
    images: Tensor, targets: Tensor, rng: np.random.Generator, *, alpha: float, patches: int
) -> tuple[Tensor, Tensor, Tensor]:
    from timm.data.mixup import rand_bbox

    others = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    with seeded_numpy(rng):
        top, bottom, left, right = rand_bbox(  # type: ignore[no-untyped-call]
            (patches, patches), rng.beta(alpha, alpha)
        )
    cell = images.shape[-1] // patches
    rows, columns = slice(top * cell, bottom * cell), slice(left * cell, right * cell)
    images, original = images.clone(), images
    images[:, :, rows, columns] = original[others][:, :, rows, columns]
    grid = targets[:, None, None].repeat(1, patches, patches, 1)
    grid[:, top:bottom, left:right] = targets[others][:, None, None]
    return images, grid.mean(dim=(1, 2)), grid.flatten(1, 2)


def _blended(
    images: Tensor, targets: Tensor, rng: np.random.Generator, *, alpha: float, patches: int
) -> tuple[Tensor, Tensor, Tensor]:
    others = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    share = float(rng.beta(alpha, alpha))
    images = share * images + (1 - share) * images[others]
    targets = share * targets + (1 - share) * targets[others]
    return images, targets, targets[:, None].expand(-1, patches**2, -1)


def _targets(labels: Tensor, config: MixConfig, num_classes: int) -> Tensor:
    from timm.data.mixup import mixup_target

    targets: Tensor = mixup_target(  # type: ignore[no-untyped-call]
        labels, num_classes, smoothing=config.smoothing
    )
    return targets
