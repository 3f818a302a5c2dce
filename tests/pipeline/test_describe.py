"""What one network is, and what it costs."""

import json
from pathlib import Path

import pytest

from hwnas.cli.app import run
from hwnas.errors import InputError
from hwnas.pipeline.describe import describe
from hwnas.space import SPACES


def test_a_description_describes_itself_again(tmp_path: Path) -> None:
    first = describe("autoformer-tiny", "AutoFormer-T")
    (tmp_path / "network.json").write_text(json.dumps(first.to_mapping()))
    assert describe("autoformer-tiny", first.to_mapping()) == first
    assert describe("autoformer-tiny", tmp_path / "network.json") == first
    assert describe("autoformer-tiny", str(tmp_path / "network.json")) == first
    assert describe("autoformer-tiny", first.arch) == first
    assert describe("autoformer-tiny", first.arch.to_mapping()) == first


def test_a_description_of_another_space_is_refused() -> None:
    with pytest.raises(InputError, match="must be one of autoformer-tiny"):
        describe("autoformer-tiny", describe("glit-tiny", "GLiT-T").to_mapping())


def test_images_and_classes_change_counts_and_ids() -> None:
    plain = describe("autoformer-tiny", "AutoFormer-T")
    other = describe("autoformer-tiny", "AutoFormer-T", image_size=256, num_classes=10)
    space = SPACES.get("autoformer-tiny").adapted(image_size=256, num_classes=10)
    assert (other.image_size, other.num_classes) == (256, 10)
    assert other.arch_id == space.arch_id(plain.arch) != plain.arch_id
    assert other.network_id == space.network_id(plain.arch) != plain.network_id
    # 990 rows fewer of 192 weights and a bias; 16 x 16 positions in place of 14 x 14.
    assert other.params == plain.params - 990 * (192 + 1) + (16**2 - 14**2) * 192
    assert other.macs > plain.macs


@pytest.mark.parametrize("name", SPACES.names())
@pytest.mark.parametrize("sizes", [{"image_size": 10**6}, {"num_classes": 10**30}])
def test_sizes_whose_counts_would_overflow_are_refused(name: str, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"must be at most|of at most 19 digits"):
        describe(name, "max", **sizes)


@pytest.mark.parametrize("name", SPACES.names())
def test_sizes_that_are_taken_are_counted_without_overflow(name: str) -> None:
    # 16128 is the largest size that every family takes. Twice the side is at most 16 times the products of all tokens
    # with all, and at least 3.9 times everything else but the classifier: what overflows is neither.
    half, whole = (describe(name, "max", image_size=size, num_classes=2**24) for size in (8064, 16128))
    assert 3.5 < whole.macs / half.macs < 16
    assert half.params <= whole.params < 2**36


@pytest.mark.parametrize(("name", "size"), [("autoformer-tiny", 15), ("vitas-twins-small", 225), ("resnas-tiny", 1)])
def test_sizes_that_a_space_cannot_take_are_refused(name: str, size: int) -> None:
    with pytest.raises(InputError, match="must be"):
        describe(name, "max", image_size=size)


def test_the_command_takes_images_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "vitas-deit-small", "ViTAS-A", "--image-size", "256", "--classes", "7", "--json"]) == 0
    described = describe("vitas-deit-small", "ViTAS-A", image_size=256, num_classes=7).to_mapping()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(described))


@pytest.mark.parametrize("arch", ["random:" + "9" * 5000, "x" * 5000, "{" * 200])
def test_a_wild_text_ends_with_code_1(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "autoformer-tiny", arch]) == 1
    assert capsys.readouterr().err.startswith("error: ")
