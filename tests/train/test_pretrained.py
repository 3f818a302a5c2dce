"""Elastic supernets of timm's models: at their largest they compute what the model computes."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from hwnas.errors import InputError, UnknownNameError
from hwnas.space import SPACES
from hwnas.space.elastic import ElasticArch, ElasticBlock
from hwnas.supernet.elastic import ElasticHead, RotaryConfig, rotary_table
from hwnas.supernet.network import Network
from hwnas.train.pretrained import elastic_space, space_of, supernet_of

KINDS = {
    "deit_tiny_patch16_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "deit3_small_patch16_224": 64,
    "vit_small_patch14_dinov2": 70,
    "vit_small_patch14_reg4_dinov2": 70,
    "flexivit_small": 64,
    "vit_base_patch32_clip_quickgelu_224": 96,
    "vit_base_patch16_siglip_224": 64,
    "vit_base_patch32_siglip_gap_256": 96,
    "vit_little_patch16_reg1_gap_256": 64,
    "vit_intern300m_patch14_448": 56,
    "beit3_base_patch16_224": 64,
    "eva02_tiny_patch14_224": 70,
    "eva02_base_patch16_clip_224": 64,
    "vit_small_patch16_dinov3": 64,
    "vit_small_patch16_dinov3_qkvb": 64,
    "vit_small_plus_patch16_dinov3": 64,
    "test_vit3": 64,
}
"""One model of each kind, with the side of the images that it is built for here."""


def make_model(name: str, **options: Any) -> Any:
    """A shallow model with random weights; norms, biases and scales are not 0 or 1."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"depth": 2, "img_size": KINDS[name], **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 1 else 0.02))
    return model


def features(network: Network, x: Tensor) -> Tensor:
    """The input of the classifier, which a model without one returns."""
    for segment in network.segments().values():
        x = segment.features(x) if isinstance(segment, ElasticHead) else segment(x)
    return x


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_the_largest_network_is_the_model(name: str) -> None:
    model = make_model(name)
    supernet = supernet_of(model, name=name).eval()
    x = torch.randn(2, 3, KINDS[name], KINDS[name])
    network = supernet.subnet(supernet.space.largest())
    expected = model(x)
    found = network(x) if model.num_classes else features(network, x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_the_first_heads_and_units_are_kept() -> None:
    model = make_model("deit_tiny_patch16_224")
    supernet = supernet_of(model, name="deit_tiny_patch16_224").eval()
    x = torch.randn(2, 3, 64, 64)
    arch = ElasticArch(blocks=(ElasticBlock(num_heads=2, hidden_dim=0), ElasticBlock(num_heads=3, hidden_dim=256)))
    found = supernet.subnet(arch)(x)
    for block, kept in zip(model.blocks, arch.blocks, strict=True):
        block.attn.proj.weight[:, 64 * kept.num_heads :] = 0
        block.mlp.fc2.weight[:, kept.hidden_dim :] = 0
    model.blocks[0].mlp.fc2.bias.zero_()  # a skipped MLP adds nothing
    expected = model(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_block_that_skips_everything_is_no_segment() -> None:
    space = elastic_space("test_vit")
    original = space.original.blocks
    arch = ElasticArch(blocks=(original[0], ElasticBlock(num_heads=0, hidden_dim=0), *original[2:]))
    supernet = supernet_of(timm.create_model("test_vit"), name="test_vit")
    assert list(supernet.outline(arch)) == ["stem", "blocks.0", *(f"blocks.{n}" for n in range(2, 6)), "head"]


def test_rotary_positions_leave_the_tokens_in_front() -> None:
    config = RotaryConfig(kind="centered", grid=3, prefix_tokens=2, head_dim=8, temperature=100.0, scaled_grid=None)
    cosines, sines = rotary_table(config)
    assert cosines.shape == (11, 8)
    assert (cosines[:2] == 1).all()
    assert (sines[:2] == 0).all()
    np.testing.assert_allclose(cosines**2 + sines**2, np.ones((11, 8)), atol=1e-6)


def test_other_classes_give_a_fresh_classifier() -> None:
    model = make_model("deit3_small_patch16_224")
    supernet = supernet_of(model, name="deit3_small_patch16_224", num_classes=7)
    assert supernet.space.config.num_classes == 7
    weights = dict(supernet.shared.named_parameters())
    assert weights["head.classifier.weight"].shape == (7, 384)
    torch.testing.assert_close(weights["head.norm.weight"], model.norm.weight)


def test_a_model_without_classifier_gets_one_of_1000_classes() -> None:
    assert elastic_space("timm:vit_small_patch14_dinov2", image_size=224).config.num_classes == 1000


def test_choices_are_shares_of_the_model() -> None:
    config = SPACES.get("elastic:timm:vit_base_patch16_224").config
    assert config.num_heads == (0, 4, 6, 8, 10, 12)
    assert config.hidden_dims == (0, 768, 1152, 1536, 1920, 2304, 2688, 3072)


def test_a_space_is_found_by_both_of_its_names() -> None:
    space = SPACES.get("elastic:timm:test_vit")
    assert space.name == "elastic-test_vit"
    assert SPACES.get("elastic-test_vit") is space
    assert SPACES.get("Elastic:timm:test_vit") is space
    assert "elastic:timm:test_vit" in SPACES
    assert space.published == {"test_vit": space.largest()}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vit_base_patch16_rpn_224", "has blocks that elastic spaces do not support"),
        ("vit_small_patch16_18x2_224", "has blocks that elastic spaces do not support"),
        ("vit_base_r26_s32_224", "has patch embedding that elastic spaces do not support"),
        ("vit_pe_core_small_patch16_384", "has attention that elastic spaces do not support"),
        ("cait_xxs24_224", "elastic spaces are made of"),
        ("resnet18", "elastic spaces are made of"),
    ],
)
def test_other_models_are_refused_by_name(name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        SPACES.get(f"elastic:timm:{name}")
    assert name in caught.value.message
    assert caught.value.known


def test_a_model_that_timm_lacks_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="deit_tinny"):
        SPACES.get("elastic:timm:deit_tinny_patch16_224")


def test_images_that_are_not_square_are_refused() -> None:
    model = timm.create_model("test_vit", img_size=(64, 96))
    with pytest.raises(InputError, match="images"):
        space_of(model, name="test_vit")
