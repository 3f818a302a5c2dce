import pytest
import torch
from torch.nn import functional as F

from hwnas.train.losses import Microbatch, distillation_loss, kl_divergence, supervised_loss
from hwnas.train.mixing import MixedBatch
from hwnas.train.recipe import TeacherConfig

LOGITS, ANSWERS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 1.0]]), torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
PATCHES = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
MIXED = MixedBatch(torch.zeros(2, 3, 4, 4), TARGETS)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return float(-(targets * probabilities.log()).sum(-1).mean())


def test_labels_alone() -> None:
    assert float(supervised_loss(LOGITS, Microbatch(MIXED), TeacherConfig())) == pytest.approx(
        cross_entropy(LOGITS, TARGETS)
    )


def test_patches_have_the_label_of_their_image_unless_they_have_their_own() -> None:
    whole = float(supervised_loss((LOGITS, PATCHES), Microbatch(MIXED), TeacherConfig()))
    label = cross_entropy(LOGITS, TARGETS)
    assert whole == pytest.approx(label + cross_entropy(PATCHES, TARGETS[:, None].expand(2, 2, 3)))
    own = torch.eye(3)[torch.tensor([[0, 1], [2, 0]])]
    mixed = MixedBatch(MIXED.images, TARGETS, own)
    assert float(supervised_loss((LOGITS, PATCHES), Microbatch(mixed), TeacherConfig())) == pytest.approx(
        label + cross_entropy(PATCHES, own)
    )


def test_hard_labels_are_the_teachers_best_class() -> None:
    config = TeacherConfig(labels="hard", weight=0.25, smoothing=0.0)
    expected = 0.75 * cross_entropy(LOGITS, TARGETS) + 0.25 * cross_entropy(LOGITS, torch.eye(3)[[1, 0]])
    assert float(supervised_loss(LOGITS, Microbatch(MIXED, ANSWERS), config)) == pytest.approx(expected)


def test_soft_labels_are_the_teachers_distribution() -> None:
    config = TeacherConfig(labels="soft", weight=1.0, temperature=2.0)
    teacher = F.softmax(ANSWERS / 2, -1)
    expected = 4 * (cross_entropy(LOGITS / 2, teacher) - cross_entropy(ANSWERS / 2, teacher))
    assert float(supervised_loss(LOGITS, Microbatch(MIXED, ANSWERS), config)) == pytest.approx(expected, rel=1e-5)


def test_divergence_from_itself_is_none() -> None:
    assert float(kl_divergence(LOGITS, LOGITS, temperature=3.0)) == pytest.approx(0, abs=1e-6)


def test_pupils_learn_patches_too() -> None:
    both = float(distillation_loss((LOGITS, PATCHES), (ANSWERS, PATCHES.flip(0)), temperature=1.0))
    alone = float(distillation_loss(LOGITS, ANSWERS, temperature=1.0))
    patches = float(kl_divergence(PATCHES, PATCHES.flip(0), temperature=1.0))
    assert both == pytest.approx(alone + patches)
