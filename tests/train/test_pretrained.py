"""Elastic supernets of timm's models: at their largest they compute what the model computes."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from hwnas.errors import InputError, UnknownNameError
from hwnas.export.tracer import trace_workload
from hwnas.pipeline.predictors.workloads import subject_population, subject_workloads
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.subjects import space_network, space_subject
from hwnas.space import SPACES
from hwnas.space.elastic import ElasticArch, ElasticBlock
from hwnas.supernet.elastic import ElasticHead, RotaryConfig, rotary_table
from hwnas.supernet.network import Network, resized
from hwnas.train.pretrained import elastic_space, space_of, supernet_of, with_sizes

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


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"])
@pytest.mark.parametrize("norm", [False, True])
@torch.inference_mode()
def test_feature_maps_are_those_of_the_model(name: str, norm: bool) -> None:
    model = make_model(name)
    supernet = supernet_of(model, name=name).eval()
    network = supernet.subnet(supernet.space.largest())
    x = torch.randn(2, 3, KINDS[name], KINDS[name])
    found = network.forward_intermediates(x, norm=norm, intermediates_only=True)
    blocks = [int(entry["module"].removeprefix("blocks.")) for entry in network.feature_info]
    expected = model.forward_intermediates(x, indices=blocks, norm=norm, intermediates_only=True)
    assert blocks == list(range(len(model.blocks)))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


RESIZED = (
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_little_patch16_reg1_gap_256",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3",
)
"""One model of each kind of position table, tokens in front and rotary positions."""


@pytest.mark.parametrize("name", RESIZED)
@torch.inference_mode()
def test_networks_of_other_images_and_patches_are_timms_with_resampled_weights(name: str) -> None:
    patch = 14 if "patch14" in name else 16
    model = make_model(name, img_size=6 * patch)
    supernet = supernet_of(model, name=name, sizes=True).eval()
    for size, patch_size in ((4 * patch, patch), (6 * patch, 2 * patch), (4 * patch, 4 * patch // 3)):
        if (size, patch_size) not in supernet.space.config.inputs:
            continue
        other = make_model(name, img_size=size, patch_size=patch_size)
        convert = inspect.getmodule(type(model)).checkpoint_filter_fn  # type: ignore[union-attr]
        other.load_state_dict(convert(model.state_dict(), other))
        network = supernet.subnet(replace(supernet.space.largest(), image_size=size, patch_size=patch_size))
        x = torch.randn(2, 3, size, size)
        expected = other(x)
        found = network(x) if model.num_classes else features(network, x)
        assert network.input_shape == (3, size, size)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_a_supernet_resizes_the_images_of_a_network() -> None:
    supernet = supernet_of(make_model("vit_small_patch16_dinov3"), name="vit_small_patch16_dinov3", sizes=True).eval()
    x = torch.randn(2, 3, 64, 64)
    arch = replace(supernet.space.largest(), image_size=48)
    found = supernet.subnet(arch)(resized(x, 48))
    torch.testing.assert_close(supernet(x, arch), found)
    with pytest.raises(InputError, match=r"images must have the shape \(batch, 3, 48, 48\)"):
        supernet.subnet(arch)(x)


def test_choices_of_images_and_patches_are_shares_of_the_models() -> None:
    config = with_sizes(elastic_space("vit_base_patch16_224")).config
    assert config.image_sizes == (128, 160, 192, 224)
    assert config.patch_sizes == (16, 20, 24, 32)
    assert config.inputs[-1] == (224, 16)
    assert set(config.inputs) - {(size, 16) for size in config.image_sizes} == {(160, 20), (192, 24), (224, 32)}


def test_a_model_of_few_patches_has_no_choice_of_images() -> None:
    space = elastic_space("vit_base_patch16_224", image_size=32)
    assert with_sizes(space).config == space.config


def test_choices_follow_the_images_of_the_space() -> None:
    config = with_sizes(elastic_space("vit_base_patch16_224")).adapted(image_size=112).config
    assert config.image_sizes == (64, 80, 96, 112)
    assert config.inputs == with_sizes(elastic_space("vit_base_patch16_224", image_size=112)).config.inputs


def test_names_of_spaces_carry_the_size_of_images_and_the_choice_of_sizes() -> None:
    space = SPACES.get("elastic:timm:test_vit@64+sizes")
    assert space.name == "elastic-test_vit-64px-sizes"
    assert SPACES.get(space.name) is space
    assert space.config.image_size == 64
    assert space.config.image_sizes == (32, 48, 64)
    assert SPACES.resolve("elastic:timm:test_vit@160") == "elastic-test_vit"  # the model's own size
    with pytest.raises(InputError, match="perhaps with @SIZE"):
        SPACES.get("elastic:timm:test_vit@large")


def test_a_network_is_measured_at_its_own_image_size() -> None:
    space = SPACES.get("elastic:timm:test_vit@64+sizes")
    archs = [
        space.largest(),
        replace(space.largest(), image_size=32),
        replace(space.largest(), patch_size=24, image_size=48),
    ]
    subjects = [space_subject(space, space.candidate(arch)) for arch in archs]
    assert [subject.image_size for subject in subjects] == [64, 32, 48]
    for subject, arch, workload in zip(subjects, archs, subject_workloads(subjects), strict=True):
        network = build_subject(subject, seed=0)
        assert network(seeded_images(subject, batch=2, seed=0)).shape == (2, 1000)
        traced = trace_workload(network, image_size=subject.image_size)
        assert (traced.macs, traced.params) == (workload.macs, workload.params)
        assert space_network(subject)[1] == arch
    assert subject_population(subjects) is not None
    assert len({subject.network_id for subject in subjects}) == 3


def test_a_network_of_smaller_images_is_that_of_the_space_of_such_images() -> None:
    wide, narrow = SPACES.get("elastic:timm:test_vit@64+sizes"), SPACES.get("elastic:timm:test_vit@32")
    assert wide.network_id(replace(wide.largest(), image_size=32)) == narrow.network_id(narrow.largest())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_sizes": (120, 224)}, "image_sizes must be a multiple of 16"),
        ({"image_sizes": (128, 192)}, "image_sizes must end with 224"),
        ({"image_sizes": (96, 224)}, "image_sizes must be at least half of 224"),
        ({"patch_sizes": (16, 30)}, "each of patch_sizes must divide an image size"),
        ({"patch_sizes": (32,)}, "patch_sizes must begin with 16"),
    ],
)
def test_images_and_patches_that_do_not_fit_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        replace(elastic_space("vit_tiny_patch16_224").config, **changes)


def test_a_network_of_images_that_are_no_choice_is_refused() -> None:
    space = with_sizes(elastic_space("vit_tiny_patch16_224"))
    with pytest.raises(InputError, match="must have sides that it offers") as caught:
        space.encode([replace(space.original, image_size=100)])
    assert caught.value.got == "100/16"


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
