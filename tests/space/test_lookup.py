"""Networks by what a user may write for one."""

import json
from pathlib import Path

import pytest

from hwnas.errors import InputError, UnknownNameError
from hwnas.space import SPACES
from hwnas.space.lookup import find_arch

SPACE = SPACES.get("autoformer-tiny")


def refused(text: str, **given: str) -> InputError:
    with pytest.raises(InputError) as caught:
        find_arch(SPACE, text, **given)
    return caught.value


@pytest.mark.parametrize("spelling", ["min", "MIN", "Min"])
def test_letter_case_does_not_matter(spelling: str) -> None:
    assert find_arch(SPACE, spelling) == SPACE.smallest()
    assert find_arch(SPACE, spelling.replace("in", "ax").replace("IN", "AX")) == SPACE.largest()
    assert find_arch(SPACE, "RANDOM:7") == find_arch(SPACE, "random:7")
    assert find_arch(SPACE, "AUTOFORMER-t") == SPACE.published["AutoFormer-T"]


def test_a_seed_may_be_any_of_64_bits() -> None:
    assert find_arch(SPACE, f"random:{2**64 - 1}") != find_arch(SPACE, "random:0")
    assert find_arch(SPACE, f"random:{'0' * 5000}7") == find_arch(SPACE, "random:7")
    assert find_arch(SPACE, "random:000") == find_arch(SPACE, "random:0")


@pytest.mark.parametrize("seed", ["", "-1", "1.0", "x", str(2**64), "9" * 20, "9" * 5000])
def test_another_seed_is_refused(seed: str) -> None:
    error = refused(f"random:{seed}")
    assert error.message == "random:SEED needs a whole number from 0 to 2**64 - 1"
    assert error.hint == "hwnas describe autoformer-tiny random:0"
    assert len(str(error.got)) <= 80


def test_a_text_longer_than_a_file_name_may_be_is_an_unknown_name() -> None:
    error = refused("x" * 5000)
    assert isinstance(error, UnknownNameError)
    assert len(error.message) < 200
    assert "cannot be read" in refused("x" * 5000 + ".json").message


def test_a_network_of_another_space_is_named_in_the_error() -> None:
    error = refused("autoformer-s")
    assert error.message == "AutoFormer-S is a network of autoformer-small, not of autoformer-tiny"
    assert error.hint == "hwnas describe autoformer-small AutoFormer-S"
    both = refused("GLiT-T")
    assert both.message.startswith("GLiT-T is a network of glit-tiny and glit-tiny-paper, not of ")


def test_hints_fit_the_command() -> None:
    command = "--space {space} --arch {arch}"
    assert refused("AutoFormer-S", command=command).hint == "--space autoformer-small --arch AutoFormer-S"
    assert refused("AutoFormer-Z", command=command).hint == "--space autoformer-tiny --arch AutoFormer-T"
    assert refused("random:x", command=command).hint == "--space autoformer-tiny --arch random:0"


def test_a_network_comes_from_text_a_file_values_or_itself(tmp_path: Path) -> None:
    arch = SPACE.published["AutoFormer-T"]
    values = arch.to_mapping()
    (tmp_path / "arch.txt").write_text(json.dumps({"space": SPACE.name, "arch": values}))
    (tmp_path / "max").write_text(json.dumps(values))
    for given in (arch, values, json.dumps(values), str(tmp_path / "arch.txt"), tmp_path / "arch.txt"):
        assert find_arch(SPACE, given) == arch
    assert find_arch(SPACE, tmp_path / "max") == arch
    with pytest.raises(InputError, match="must be an ordinary file"):
        find_arch(SPACE, tmp_path)
