"""Losses of a network: on labels, on labels of patches and on the outputs of other networks."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.supernet.elastic import ElasticOutputs
from hwnas.train.mixing import MixedBatch
from hwnas.train.recipe import StrategyConfig, TeacherConfig


@dataclass(frozen=True)
class Microbatch:
    """Images that are run at once, with their targets."""

    mixed: MixedBatch
    teacher_logits: Tensor | None = None
    """(B, C); None: there is no teacher."""
    task_targets: Any = None
    """Targets of detection or segmentation in place of classes; None: images have classes."""


def supervised_loss(output: Any, microbatch: Microbatch, teacher: TeacherConfig) -> Tensor:
    """Compute the loss on labels, on those of patches and on a teacher's logits, as far as there are any.

    Args:
        output: Logits, or these with those of a distillation token or of patches. A distillation token learns from the
            teacher in place of the class token (DeiT).
        microbatch: Targets of the images.
        teacher: Weights of the distillation loss.
    """
    logits, patch_logits = split_output(output)
    loss = F.cross_entropy(logits.float(), microbatch.mixed.targets)
    if microbatch.teacher_logits is not None:
        distilled = _distillation_logits(output)
        student = logits if distilled is None else distilled
        distillation = _teacher_loss(student, microbatch.teacher_logits, teacher)
        loss = (1 - teacher.weight) * loss + teacher.weight * distillation
    if patch_logits is not None:
        loss = loss + _patch_loss(patch_logits, microbatch.mixed)
    return loss


def distillation_loss(output: Any, target_output: Any, *, temperature: float) -> Tensor:
    """Compute the loss of a student on the outputs of another network, including those of patches.

    Args:
        output: Output of the student.
        target_output: Output of the other network, detached.
        temperature: Softens both.
    """
    pairs = zip(split_output(output), split_output(target_output), strict=True)
    losses = [
        kl_divergence(logits, target, temperature=temperature)
        for logits, target in pairs
        if logits is not None and target is not None
    ]
    return torch.stack(losses).sum()


def elastic_loss(
    found: ElasticOutputs, target: ElasticOutputs, classes: Tensor, strategy: StrategyConfig, teacher: TeacherConfig
) -> Tensor:
    """Compute the loss of a network inside a pretrained model on the outputs of the model, and on labels.

    Args:
        found: Outputs of the network.
        target: Outputs of the model for the same images.
        classes: Labels, or the shares of classes of mixed images.
        strategy: Outputs that are learned, and the temperature of the logits.
        teacher: Share of the divergence of the logits; the loss on labels has the rest.
    """
    loss = feature_loss(found, target)
    if strategy.outputs == "features":
        return loss
    loss = loss + teacher.weight * kl_divergence(found.logits, target.logits, temperature=strategy.temperature)
    if teacher.weight < 1:
        loss = loss + (1 - teacher.weight) * F.cross_entropy(found.logits.float(), classes)
    return loss


def feature_loss(found: ElasticOutputs, target: ElasticOutputs) -> Tensor:
    """Compute 1 - cosine of the pooled features, plus the smooth L1 distance of the patches' tokens.

    The target's tokens are resized to the grid of a network with larger patches or smaller images.
    """
    cosine = F.cosine_similarity(found.features.float(), target.features.float(), dim=-1).mean()
    tokens = _resized_tokens(target.tokens.float(), found.tokens.shape[1])
    return 1 - cosine + F.smooth_l1_loss(found.tokens.float(), tokens)


def _resized_tokens(tokens: Tensor, count: int) -> Tensor:
    """Interpolate the tokens of a square grid to another number of patches."""
    if tokens.shape[1] == count:
        return tokens
    before, after = (math.isqrt(number) for number in (tokens.shape[1], count))
    grid = tokens.transpose(1, 2).reshape(len(tokens), -1, before, before)
    return F.interpolate(grid, size=(after, after), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def kl_divergence(logits: Tensor, target_logits: Tensor, *, temperature: float) -> Tensor:
    """Compute the Kullback-Leibler divergence of softened outputs from softened targets."""
    logits, target_logits = (values.float().flatten(0, -2) / temperature for values in (logits, target_logits))
    loss = F.kl_div(logits.log_softmax(-1), target_logits.log_softmax(-1), reduction="batchmean", log_target=True)
    # Gradients shrink with the square of the temperature, which this factor undoes (Hinton et al. 2015).
    return loss * temperature**2


def split_output(output: Any) -> tuple[Tensor, Tensor | None]:
    """Return the logits of images, and those of patches if the head computes them."""
    logits, *others = output if isinstance(output, tuple) else (output,)
    return logits, next((part for part in others if part.ndim == 3), None)


def _distillation_logits(output: Any) -> Tensor | None:
    """Return the logits of the distillation token, if there is one."""
    others = output[1:] if isinstance(output, tuple) else ()
    return next((part for part in others if part.ndim == 2), None)


def _teacher_loss(logits: Tensor, teacher_logits: Tensor, teacher: TeacherConfig) -> Tensor:
    if teacher.labels == "hard":
        return F.cross_entropy(logits.float(), teacher_logits.argmax(-1), label_smoothing=teacher.smoothing)
    return kl_divergence(logits, teacher_logits, temperature=teacher.temperature)


def _patch_loss(patch_logits: Tensor, mixed: MixedBatch) -> Tensor:
    targets = mixed.patch_targets
    if targets is None:
        targets = mixed.targets[:, None].expand(-1, patch_logits.shape[1], -1)
    return F.cross_entropy(patch_logits.float().flatten(0, 1), targets.flatten(0, 1))
