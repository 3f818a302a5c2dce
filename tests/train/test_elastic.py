"""Preparation of a pretrained model as a supernet: order of units, classifier, normalization and weights in files."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from hwnas.errors import InputError, MissingError
from hwnas.space.elastic import uniform_cut
from hwnas.supernet.elastic import ElasticSupernet, detailed_outputs
from hwnas.supernet.sorting import importance
from hwnas.train.data.augment import IMAGENET, Normalization
from hwnas.train.data.loader import Batch
from hwnas.train.elastic import CUTS, activation_scores, fit_classifier, order_units, taylor_scores
from hwnas.train.pretrained import fold_normalization, load_pretrained, own_normalization, supernet_of
from tests.marks import slow_but

SIDE = 64


def make_supernet(name: str = "test_vit", *, num_classes: int = 5) -> ElasticSupernet:
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=SIDE, depth=3, num_classes=num_classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
    supernet = supernet_of(model, name=name)
    supernet.eval()
    return supernet


def images(count: int) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def largest_outputs(supernet: ElasticSupernet, x: Tensor) -> Tensor:
    found: Tensor = supernet.subnet(supernet.space.largest())(x)
    return found


@pytest.mark.parametrize(
    "name",
    slow_but(["test_vit", "test_vit3", "eva02_tiny_patch14_224", "beit3_base_patch16_224"], "test_vit", "test_vit3"),
)
def test_the_order_changes_no_output(name: str) -> None:
    supernet = make_supernet(name)
    x = images(32)
    before = largest_outputs(supernet, x[:4])
    weights = {key: value.clone() for key, value in supernet.shared.state_dict().items()}
    order = order_units(supernet, x)
    after = largest_outputs(supernet, x[:4])
    assert (after - before).abs().max() <= 2e-6 * before.abs().max()
    assert any((weights[key] != value).any() for key, value in supernet.shared.state_dict().items())
    assert set(order.divergences) == {"unsorted", "activation", "taylor", "l1"}
    means = {score: sum(values) for score, values in order.divergences.items()}
    assert order.score == min((score for score in means if score != "unsorted"), key=lambda score: means[score])


def test_kept_units_come_first_in_the_order_of_their_scores() -> None:
    supernet = make_supernet()
    order = order_units(supernet, images(32))
    again = order_units(supernet, images(32))
    for scores in again.scores[order.score]:
        assert list(scores) == pytest.approx(sorted(scores, reverse=True), rel=1e-4)


def test_scores_of_activations_follow_the_formula() -> None:
    supernet = make_supernet()
    network, x = supernet.subnet(supernet.space.largest()).eval(), images(6)
    scores = activation_scores(supernet, network, [x[:4], x[4:]])
    hidden: dict[str, Tensor] = {}
    block: Any = network.get_submodule("blocks.1")
    block.mlp.fc2.register_forward_pre_hook(lambda _, inputs: hidden.update(fc2=inputs[0].detach()))
    block.attention.proj.register_forward_pre_hook(lambda _, inputs: hidden.update(proj=inputs[0].detach()))
    network.requires_grad_(requires_grad=False)(x)
    unit = 7
    expected = float((hidden["fc2"][:, :, unit].abs().mean(1) ** 2).sum().sqrt() * block.mlp.fc2.weight[:, unit].norm())
    assert float(scores[3][unit]) == pytest.approx(expected, rel=1e-4)
    dim = supernet.space.config.head_dim
    first = slice(0, dim)
    expected = float((hidden["proj"][:, :, first].abs().mean(1) ** 2).sum().sqrt())
    expected *= float(block.attention.proj.weight[:, first].norm())
    assert float(scores[2][0]) == pytest.approx(expected, rel=1e-4)


def test_scores_by_taylor_are_sums_of_weight_times_gradient() -> None:
    supernet = make_supernet()
    network, x = supernet.subnet(supernet.space.largest()).eval(), images(4)
    scores = taylor_scores(supernet, network, [x])
    logits = network(x)
    torch.nn.functional.cross_entropy(logits, logits.argmax(1)).backward()  # type: ignore[no-untyped-call]
    products = {name: (p * p.grad).detach() for name, p in network.named_parameters() if p.grad is not None}
    for score, group in zip(scores, supernet.sortable(), strict=True):
        torch.testing.assert_close(score, importance(products, group))


def test_cuts_lack_about_their_share_in_all_blocks_alike() -> None:
    supernet = make_supernet("beit3_base_patch16_224")
    space = supernet.space
    for cut in CUTS:
        arch = uniform_cut(supernet.space, cut)
        assert len(set(arch.blocks)) == 1
        macs = space.costs(space.encode([space.largest(), arch])).macs
        assert abs(1 - macs[1] / macs[0] - cut) < 0.05


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="at least 16 images"):
        order_units(make_supernet(), images(8))


def test_a_classifier_is_fitted_to_the_features() -> None:
    supernet = make_supernet()
    x = images(40)
    network = supernet.subnet(supernet.space.largest()).eval()
    with torch.no_grad():
        features = detailed_outputs(network, x).features
    labels = (features[:, 0] > features[:, 0].median()).long()  # a class that the features show
    batches = [Batch(x[rows], labels[rows], rows) for rows in torch.split(torch.arange(40), 16)]
    accuracy = fit_classifier(supernet, batches)
    assert accuracy > 0.95
    agreement = (largest_outputs(supernet, x).argmax(1) == labels).float().mean()
    assert float(agreement) == pytest.approx(accuracy)


def test_another_normalization_is_folded_into_the_patch_embedding() -> None:
    supernet = make_supernet()
    own = Normalization(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.rand(3, 3, SIDE, SIDE)
    as_trained, as_given = (
        (pixels - torch.tensor(values.mean)[:, None, None]) / torch.tensor(values.std)[:, None, None]
        for values in (own, IMAGENET)
    )
    expected = largest_outputs(supernet, as_trained)
    fold_normalization(supernet, own)
    found = largest_outputs(supernet, as_given)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_model_without_a_bias_of_patches_gets_one_for_its_normalization() -> None:
    model = timm.create_model("vit_base_patch32_clip_224", img_size=SIDE, depth=1)
    assert own_normalization(model) != IMAGENET
    assert supernet_of(model, name="vit_base_patch32_clip_224").space.config.patch_bias


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file_at_another_image_size(tmp_path: Path, suffix: str) -> None:
    model = timm.create_model("test_vit3", img_size=SIDE, num_classes=4)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    same = load_pretrained("timm:test_vit3", image_size=SIDE, checkpoint=path)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in model.state_dict().items())
    larger = load_pretrained("timm:test_vit3", image_size=2 * SIDE, checkpoint=path)
    assert larger.num_classes == 4
    assert larger.pos_embed.shape[1] == (2 * SIDE // 16) ** 2 + 1  # type: ignore[index]


def test_weights_of_another_model_and_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(InputError, match="must hold the weights of timm:test_vit3"):
        load_pretrained("timm:test_vit3", image_size=160, checkpoint=path)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="must hold weights"):
        load_pretrained("timm:test_vit3", image_size=160, checkpoint=tmp_path / "broken.pth")
    with pytest.raises(InputError, match="no file"):
        load_pretrained("timm:test_vit3", image_size=160, checkpoint=tmp_path / "none.pth")


def test_published_weights_that_cannot_be_downloaded_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(MissingError, match="must be on this machine or downloadable") as caught:
        load_pretrained("timm:vit_tiny_patch16_224", image_size=224, pretrained=True)
    assert "--checkpoint" in str(caught.value.hint)
