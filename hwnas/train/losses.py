"""What networks are trained on: labels, labels of patches, and the answers of other networks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.train.mixing import MixedBatch
from hwnas.train.recipe import TeacherConfig


@dataclass(frozen=True)
class Microbatch:
    """One part of a step: images with labels, and a teacher's logits for them, if there is one."""

    mixed: MixedBatch
    answers: Tensor | None = None


def supervised_loss(output: Any, lesson: Microbatch, teacher: TeacherConfig) -> Tensor:
    """The loss on labels, together with those of patches and a teacher's where there are any."""
    logits, patch_logits = parts(output)
    loss = F.cross_entropy(logits.float(), lesson.mixed.targets)
    if lesson.answers is not None:
        loss = (1 - teacher.weight) * loss + teacher.weight * _taught(logits, lesson.answers, teacher)
    if patch_logits is not None:
        loss = loss + _patch_loss(patch_logits, lesson.mixed)
    return loss


def distillation_loss(output: Any, answers: Any, *, temperature: float) -> Tensor:
    """The loss of a network that learns all that another one answers, patches included."""
    pairs = zip(parts(output), parts(answers), strict=True)
    losses = [
        kl_divergence(one, two, temperature=temperature) for one, two in pairs if one is not None and two is not None
    ]
    return torch.stack(losses).sum()


def kl_divergence(logits: Tensor, answers: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the answers, both softened.

    Times the temperature squared, so that gradients keep their size (Hinton et al. 2015).
    """
    logits, answers = (values.float().flatten(0, -2) / temperature for values in (logits, answers))
    loss = F.kl_div(logits.log_softmax(-1), answers.log_softmax(-1), reduction="batchmean", log_target=True)
    return loss * temperature**2


def parts(output: Any) -> tuple[Tensor, Tensor | None]:
    """The logits of images, and those of patches where a head gives them."""
    return output if isinstance(output, tuple) else (output, None)


def _taught(logits: Tensor, answers: Tensor, teacher: TeacherConfig) -> Tensor:
    if teacher.labels == "hard":
        return F.cross_entropy(logits.float(), answers.argmax(-1), label_smoothing=teacher.smoothing)
    return kl_divergence(logits, answers, temperature=teacher.temperature)


def _patch_loss(patch_logits: Tensor, mixed: MixedBatch) -> Tensor:
    targets = mixed.patch_targets
    if targets is None:
        targets = mixed.targets[:, None].expand(-1, patch_logits.shape[1], -1)
    return F.cross_entropy(patch_logits.float().flatten(0, 1), targets.flatten(0, 1))
