"""Networks of elastic spaces as plain models of timm."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from hwnas.errors import InputError
from hwnas.space.elastic import ElasticArch, ElasticBlock
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.train.plain_timm import differing_blocks, plain_model
from hwnas.train.pretrained import supernet_of
from tests.marks import slow_but

KINDS = {
    "test_vit": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "vit_small_patch14_reg4_dinov2": 70,
    "vit_little_patch16_reg1_gap_256": 64,
    "vit_base_patch32_clip_quickgelu_224": 96,
    "eva02_tiny_patch14_224": 70,
    "eva02_base_patch16_clip_224": 64,
    "vit_small_patch16_dinov3": 64,
    "vit_small_plus_patch16_dinov3": 64,
    "vit_base_patch16_siglip_224": 64,
}
"""One model of each kind, with the side of its images here."""


def make_supernet(name: str, *, depth: int = 3, sizes: bool = False) -> ElasticSupernet:
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=KINDS[name], num_classes=5, depth=depth).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 1 else 0.02))
    supernet = supernet_of(model, name=name, sizes=sizes)
    supernet.eval()
    return supernet


def block(supernet: ElasticSupernet, **changes: int) -> ElasticBlock:
    changed: ElasticBlock = replace(supernet.space.largest().blocks[0], **changes)
    return changed


@torch.inference_mode()
def assert_plain(supernet: ElasticSupernet, arch: ElasticArch) -> dict[str, Any]:
    """Compare with the model of timm, and return its options."""
    network = supernet.subnet(arch)
    plain = plain_model(network, supernet.space, arch)
    x = torch.randn(2, *supernet.space.input_shape_of(arch))
    expected = network(x)
    assert (plain.module(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    return dict(plain.options)


@pytest.mark.parametrize("name", slow_but(KINDS, *(name for name in KINDS if "base" not in name)))
def test_the_model_itself_is_plain(name: str) -> None:
    supernet = make_supernet(name)
    assert assert_plain(supernet, supernet.space.largest()) == {"img_size": KINDS[name], "depth": 3}


NARROWED = [name for name in KINDS if "siglip" not in name]


@pytest.mark.parametrize("name", NARROWED)
def test_fewer_blocks_and_hidden_units_are_plain(name: str) -> None:
    supernet = make_supernet(name)
    narrow = block(supernet, hidden_dim=supernet.space.config.hidden_dims[-3])
    arch = ElasticArch(blocks=(narrow, ElasticBlock(num_heads=0, hidden_dim=0), narrow))
    assert differing_blocks(supernet.space, arch) is None
    options = assert_plain(supernet, arch)
    assert options["depth"] == 2
    assert int(options["mlp_ratio"] * supernet.space.config.embed_dim) == narrow.hidden_dim


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_other_images_and_patches_are_plain(name: str) -> None:
    supernet = make_supernet(name, sizes=True)
    original = supernet.space.largest()
    assert assert_plain(supernet, replace(original, image_size=48))["img_size"] == 48
    options = assert_plain(supernet, replace(original, image_size=48, patch_size=24))
    assert options["patch_size"] == 24


def test_blocks_that_differ_are_named() -> None:
    supernet = make_supernet("deit_tiny_distilled_patch16_224", depth=6)
    space, whole = supernet.space, block(supernet)
    narrow, no_mlp, few = (
        block(supernet, **change) for change in ({"hidden_dim": 384}, {"hidden_dim": 0}, {"num_heads": 2})
    )
    for blocks, expected in (
        ((whole,) * 6, None),
        ((whole, narrow, narrow, whole, narrow, whole), "hidden units: 384 in blocks 1-2, 4, 768 in blocks 0, 3, 5"),
        ((whole, no_mlp, *(whole,) * 4), "hidden units: none in block 1, 768 in blocks 0, 2-5"),
        ((few,) * 6, "heads, of 3: 2 in blocks 0-5"),
        ((whole,) * 5 + (few,), "heads, of 3: 2 in block 5, 3 in blocks 0-4"),
    ):
        arch = ElasticArch(blocks=blocks)
        assert differing_blocks(space, arch) == expected
        if expected is not None:
            with pytest.raises(InputError, match="must have blocks that are all alike, with all heads") as caught:
                plain_model(supernet.subnet(arch), space, arch)
            assert caught.value.got == expected
            assert "--format safetensors" in str(caught.value.hint)


def test_what_timm_ties_to_the_blocks_is_refused() -> None:
    supernet = make_supernet("vit_base_patch16_siglip_224")  # the pooling's MLP is as wide as those of the blocks
    arch = ElasticArch(blocks=(block(supernet, hidden_dim=1536),) * 3)
    with pytest.raises(InputError, match="has no form with the head of this network") as caught:
        plain_model(supernet.subnet(arch), supernet.space, arch)
    assert caught.value.got == "pool_hidden_dim 3072, 1536 in timm"


def test_a_bias_that_timm_lacks_is_refused() -> None:
    supernet = make_supernet("vit_base_patch32_clip_quickgelu_224")
    with torch.no_grad():
        dict(supernet.shared.named_parameters())["stem.patch_embed.bias"].fill_(0.5)
    original = supernet.space.largest()
    with pytest.raises(InputError, match=r"has no patch_embed.bias in its stem"):
        plain_model(supernet.subnet(original), supernet.space, original)
