"""Mixing of images with one another: timm's mixup and CutMix, and ViT-ResNAS's token mixing."""

import math
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
    """B images with targets of C classes, and of P patches each."""

    images: Tensor
    targets: Tensor
    """(B, C), rows that sum to 1."""
    patch_targets: Tensor | None = None
    """(B, P, C); None: every patch has the targets of its image."""


Mixer = Callable[[Tensor, Tensor, np.random.Generator], MixedBatch]
"""Mixes images with labels as a function of a generator; the given images are not changed."""


def make_mixer(config: MixConfig, *, num_classes: int, patches: int | None = None) -> Mixer:
    """Create the mixer that a config describes.

    Args:
        config: Mixing of the recipe.
        num_classes: Number of classes.
        patches: Patches along one side of an image, if the network classifies patches.

    Raises:
        InputError: Token mixing is on and the network does not classify patches.
    """
    if config.token_mixup:
        if patches is None:
            message = "token_mixup needs networks that classify patches"
            raise InputError(message, got="networks that do not", hint="mix.token_mixup=false")
        return partial(_mix_tokens, config=config, num_classes=num_classes, patches=patches)
    if config.mixes:
        return partial(_mix, config=config, num_classes=num_classes)
    return partial(_do_not_mix, config=config, num_classes=num_classes)


def _do_not_mix(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, config: MixConfig, num_classes: int
) -> MixedBatch:
    return MixedBatch(images, _soft_targets(labels, config, num_classes))


def _mix(
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
        return MixedBatch(*mixup(images.clone(), labels))  # timm mixes in place


def _mix_tokens(
    images: Tensor, labels: Tensor, rng: np.random.Generator, *, config: MixConfig, num_classes: int, patches: int
) -> MixedBatch:
    """Apply CutMix of whole patches to the first half of a batch, and mixup to the second (ViT-ResNAS)."""
    targets = _soft_targets(labels, config, num_classes)
    half = len(images) // 2
    cut = _cutmix_patches(images[:half], targets[:half], rng, alpha=config.cutmix, patches=patches)
    blended = _mixup_with_patches(images[half:], targets[half:], rng, alpha=config.mixup, patches=patches)
    return MixedBatch(*(torch.cat(pair) for pair in zip(cut, blended, strict=True)))


def _cutmix_patches(
    images: Tensor, targets: Tensor, rng: np.random.Generator, *, alpha: float, patches: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Swap a rectangle of patches between images; return images, targets and targets of patches."""
    partners = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    top, bottom, left, right = _draw_rectangle(rng, alpha=alpha, patches=patches)
    patch_size = images.shape[-1] // patches
    rows, columns = slice(top * patch_size, bottom * patch_size), slice(left * patch_size, right * patch_size)
    images, original = images.clone(), images
    images[:, :, rows, columns] = original[partners][:, :, rows, columns]
    grid = targets[:, None, None].repeat(1, patches, patches, 1)
    grid[:, top:bottom, left:right] = targets[partners][:, None, None]
    return images, grid.mean(dim=(1, 2)), grid.flatten(1, 2)


def _draw_rectangle(rng: np.random.Generator, *, alpha: float, patches: int) -> tuple[int, int, int, int]:
    """Draw a rectangle of whole patches that lies inside the image: top, bottom, left and right.

    Its area is that of a draw from the Beta distribution, as nearly as whole patches allow without exceeding it. timm's
    box, a square around a point that is cut off at the border, swaps much less of a grid of few patches.
    """
    area = rng.beta(alpha, alpha) * patches**2
    if area < 1:
        return 0, 0, 0, 0
    height = int(rng.integers(math.ceil(area / patches), min(patches, int(area)), endpoint=True))
    width = int(area / height)
    top, left = (int(rng.integers(0, patches - side, endpoint=True)) for side in (height, width))
    return top, top + height, left, left + width


def _mixup_with_patches(
    images: Tensor, targets: Tensor, rng: np.random.Generator, *, alpha: float, patches: int
) -> tuple[Tensor, Tensor, Tensor]:
    partners = torch.as_tensor(rng.permutation(len(images)), device=images.device)
    weight = float(rng.beta(alpha, alpha))
    images = weight * images + (1 - weight) * images[partners]
    targets = weight * targets + (1 - weight) * targets[partners]
    return images, targets, targets[:, None].expand(-1, patches**2, -1)


def _soft_targets(labels: Tensor, config: MixConfig, num_classes: int) -> Tensor:
    from timm.data.mixup import mixup_target

    targets: Tensor = mixup_target(  # type: ignore[no-untyped-call]
        labels, num_classes, smoothing=config.smoothing
    )
    return targets
