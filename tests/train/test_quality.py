"""Quality of networks without a classifier: divergence from the model, and the accuracy of nearest images."""

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.elastic import uniform_cut
from hwnas.supernet.elastic import ElasticSupernet, detailed_outputs
from hwnas.train import quality
from hwnas.train.data.loader import Batch
from hwnas.train.pretrained import supernet_of
from hwnas.train.quality import QualityEvaluator, nearest_votes


@pytest.fixture(scope="module")
def supernet() -> ElasticSupernet:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=3).eval()
    return supernet_of(model, name="test_vit").eval()


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 0, 1]))
    return [
        Batch(torch.randn(len(label), 3, 32, 32, generator=generator), label, torch.arange(len(label)))
        for label in labels
    ]


def test_divergence_is_the_mean_over_images(supernet: ElasticSupernet, batches: list[Batch]) -> None:
    space = supernet.space
    model = supernet.subnet(space.largest())
    found = QualityEvaluator(supernet, batches, device="cpu", model=model)
    cut = uniform_cut(space, 0.5)
    with torch.inference_mode():
        images = torch.cat([batch.images for batch in batches])
        of_model, of_cut = (network(images).log_softmax(dim=1) for network in (model, supernet.subnet(cut).eval()))
        expected = (of_model.exp() * (of_model - of_cut)).sum(dim=1).mean()
    same, other, again = found.evaluate([space.largest(), cut, cut])
    assert same == pytest.approx(0, abs=1e-6)
    assert other == pytest.approx(float(expected), rel=1e-4)
    assert again == other
    assert other > 1e-3


def test_nearest_images_vote_with_the_weight_of_their_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "NEAREST", 3)
    angles = torch.tensor([0.0, 0.1, 0.2, 3.0])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    votes = nearest_votes(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([2, 0, 0, 1]), num_classes=3)
    weights = (angles[:3].cos() / 0.07).exp()
    assert votes[0].tolist() == pytest.approx([float(weights[1] + weights[2]), 0.0, float(weights[0])], rel=1e-5)
    alone = nearest_votes(torch.tensor([[1.0, 0.0]]), gallery[:1], torch.tensor([2]), num_classes=3)
    assert int(alone.argmax()) == 2


def test_images_are_classified_by_the_most_similar_ones(supernet: ElasticSupernet, batches: list[Batch]) -> None:
    arch = uniform_cut(supernet.space, 0.5)
    own = QualityEvaluator(supernet, batches, device="cpu", gallery=batches)
    (accuracy,) = own.evaluate([arch])
    with torch.inference_mode():
        features = detailed_outputs(
            supernet.subnet(arch).eval(), torch.cat([batch.images for batch in batches])
        ).features
    expected = by_hand(F.normalize(features, dim=1), torch.cat([batch.labels for batch in batches]))
    assert accuracy == pytest.approx(expected)
    other = [
        Batch(batch.images, batch.labels + 4, batch.indices) for batch in batches
    ]  # classes need not be those of the model
    assert QualityEvaluator(supernet, other, device="cpu", gallery=other).evaluate([arch]) == [accuracy]


def by_hand(features: Tensor, labels: Tensor) -> float:
    right = 0
    for index in range(len(features)):
        votes: dict[int, float] = {}
        for other, label in zip(features, labels.tolist(), strict=True):
            votes[label] = votes.get(label, 0.0) + float((features[index] @ other / 0.07).exp())
        right += max(votes, key=lambda label: votes[label]) == int(labels[index])
    return right / len(features)


def test_without_images_and_with_broken_weights_there_is_no_quality(batches: list[Batch]) -> None:
    model = timm.create_model("test_vit", img_size=32, num_classes=3)
    supernet = supernet_of(model, name="test_vit").eval()
    with pytest.raises(InputError, match="at least one image"):
        QualityEvaluator(supernet, [], device="cpu", gallery=batches).evaluate([supernet.space.largest()])
    with torch.no_grad():
        next(iter(supernet.shared.parameters())).fill_(float("nan"))
    with pytest.raises(InputError, match="must be finite numbers"):
        QualityEvaluator(supernet, batches, device="cpu", gallery=batches).evaluate([supernet.space.largest()])
