import pytest
import timm
import torch

from hwnas.errors import InputError, UnknownNameError
from hwnas.export.timm_models import build_timm
from tests.export.counters import counted

MODELS = (
    "beit_base_patch16_224",
    "convnext_atto",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
    "levit_128s",
    "pit_ti_224",
    "swin_tiny_patch4_window7_224",
    "tiny_vit_5m_224",
    "twins_svt_small",
    "vit_tiny_r_s16_p8_224",
    "xcit_nano_12_p16_224",
)
"""A spread: plain, windowed, convolutional, cross-covariance, rotary, relative, weight-standardised, distilled."""

SLOW_MODELS = (
    "cait_s24_224",
    "crossvit_9_240",
    "efficientformer_l1",
    "flexivit_small",
    "maxvit_tiny_tf_224",
    "mobilevit_xxs",
    "resnet50",
    "samvit_base_patch16_224",
    "vit_small_patch16_224",
    "volo_d1_224",
)

NOT_VITS = frozenset(
    (
        *("byoanet", "byobnet", "convmixer", "cspnet", "densenet", "dla", "dpn", "efficientnet", "ghostnet"),
        *("hardcorenas", "hgnet", "hrnet", "inception_resnet_v2", "inception_v3", "inception_v4", "mobilenetv3"),
        *("nasnet", "nfnet", "pnasnet", "regnet", "repghost", "res2net", "resnest", "resnet", "resnetv2", "rexnet"),
        *("selecsls", "senet", "sknet", "tresnet", "vgg", "vovnet", "xception", "xception_aligned"),
    )
)
"""Modules of timm that hold convolutional networks alone."""


def assert_counts_agree(name: str) -> None:
    model = build_timm(name)
    workload = model.workload()
    frozen = sum(part.numel() for part in model.module.parameters() if not part.requires_grad)
    expected = counted(model.module, 1, model.channels, *model.image_size)
    assert workload.macs == expected.macs
    assert workload.params == expected.params + frozen


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MODELS)])
def test_macs_and_params_are_those_that_torch_counts(name: str) -> None:
    assert_counts_agree(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(set(timm.list_modules()) - NOT_VITS))
def test_every_model_of_timm_that_is_like_a_vit(family: str) -> None:
    failures = {}
    for name in timm.list_models(module=family):
        try:
            assert_counts_agree(name)
        except (AssertionError, InputError) as error:
            failures[name] = str(error)
    assert failures == {}


def test_deit_tiny_by_hand() -> None:
    workload = build_timm("deit_tiny_patch16_224").workload()
    tokens, embed = 14**2 + 1, 192
    linears = 12 * embed * embed
    block = tokens * linears + 2 * tokens**2 * embed
    assert workload.macs == (tokens - 1) * 16 * 16 * 3 * embed + 12 * block + embed * 1000 == 1_253_683_200
    assert workload.params == 5_717_416
    assert {name: len(part.operations) for name, part in workload.by_kind().items()} == {
        "conv2d": 1,
        "table": 2,
        "cat": 1,
        "add": 1 + 24,
        "layer_norm": 25,
        "linear": 4 * 12 + 1,
        "attention": 12,
        "gelu": 12,
    }


def test_a_model_is_built_without_weights_for_its_own_size() -> None:
    model = build_timm("vit_small_patch16_384")
    assert (model.name, model.image_size, model.channels) == ("vit_small_patch16_384", (384, 384), 3)
    assert {part.device for part in model.module.parameters()} == {torch.device("meta")}


def test_a_tag_is_part_of_the_name() -> None:
    assert build_timm("vit_base_patch8_224.augreg_in21k").workload().params > 86_000_000


@pytest.mark.parametrize(("name", "size"), [("vit_small_patch16_224", (96, 160)), ("resnet50", (96, 160))])
def test_another_image_size(name: str, size: tuple[int, int]) -> None:
    model = build_timm(name, image_size=size)
    assert model.image_size == size
    assert model.workload().macs == counted(model.module, 1, 3, *size).macs


def test_one_number_is_a_square() -> None:
    assert build_timm("vit_small_patch16_224", image_size=64).image_size == (64, 64)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="is not known") as caught:
        build_timm("vit_smal_patch16_224")
    assert caught.value.hint == "timm:vit_small_patch16_224"
    assert "deit_small_patch16_224" in caught.value.known


@pytest.mark.parametrize("name", ["hf-hub:timm/vit_small", "zzz"])
def test_a_name_that_is_like_no_other(name: str) -> None:
    with pytest.raises(UnknownNameError):
        build_timm(name)


def test_an_unknown_tag() -> None:
    with pytest.raises(InputError, match="must be able to build") as caught:
        build_timm("vit_small_patch16_224.none")
    assert "none" in str(caught.value.got)
    assert caught.value.__cause__ is not None


def test_a_size_that_the_model_refuses() -> None:
    model = build_timm("levit_128s", image_size=100)
    with pytest.raises(InputError, match="must accept an input of 1 x 3 x 100 x 100"):
        model.workload()


def test_a_size_that_a_model_divides_down_to_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="timm must be able to build gcvit_xxtiny with img_size"):
        build_timm("gcvit_xxtiny", image_size=1)


@pytest.mark.parametrize(
    ("name", "near"),
    [("deit_tinny", "deit_tiny_patch16_224"), ("vit_tiny_patch16_242", "vit_tiny_patch16_224"), ("zzzzzz", None)],
)
def test_the_beginning_of_a_name_is_enough_for_a_hint(name: str, near: str | None) -> None:
    with pytest.raises(UnknownNameError, match="is not known") as caught:
        build_timm(name)
    assert caught.value.hint == (f"timm:{near}" if near else "a name that timm.list_models() lists")
