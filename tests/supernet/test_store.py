"""Weights in files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import SEGMENT_TYPES, make_supernet
from hwnas.supernet.store import load_network, load_supernet, save_network, save_supernet
from hwnas.supernet.vitas import VitasSupernetConfig

MICRO = ("autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro")


@pytest.mark.parametrize("name", MICRO)
def test_what_is_saved_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    space = SPACES.get(name).adapted(num_classes=7)
    supernet = make_supernet(space).eval()
    (arch,) = space.decode(space.sample(np.random.default_rng(1), 1))
    save_supernet(supernet, tmp_path / "supernet.safetensors")
    network = supernet.subnet(arch)
    save_network(network, tmp_path / "network.safetensors", space=space, arch=arch)
    images = torch.randn(2, 3, 32, 32)

    loaded = load_supernet(tmp_path / "supernet.safetensors").eval()
    assert (loaded.space, loaded.config) == (space, supernet.config)
    torch.testing.assert_close(loaded(images, arch), supernet(images, arch), rtol=0, atol=0)
    stored = load_network(tmp_path / "network.safetensors")
    assert (stored.space, stored.arch) == (space, arch)
    with pytest.raises(InputError, match="must have the shape"):
        stored.network(torch.zeros(1, 3, 33, 33))
    torch.testing.assert_close(stored.network.eval()(images), network(images), rtol=0, atol=0)


def test_the_config_of_a_supernet_is_kept(tmp_path: Path) -> None:
    config = VitasSupernetConfig(sharing="bilateral", joint_qk=True, drop_path=0.25)
    save_supernet(make_supernet(SPACES.get("vitas-micro"), config), tmp_path / "a.safetensors")
    assert load_supernet(tmp_path / "a.safetensors").config == config


def test_a_named_space_comes_back_with_its_published_networks(tmp_path: Path) -> None:
    space = SPACES.get("glit-tiny")
    save_supernet(make_supernet(space), tmp_path / "a.safetensors")
    assert load_supernet(tmp_path / "a.safetensors").space is space


def test_bad_files_are_refused(tmp_path: Path) -> None:
    space, path = SPACES.get("autoformer-micro"), tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="there is no file"):
        load_supernet(path)
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match="not a weight file"):
        load_supernet(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"have the schema hwnas\.weights/1"):
        load_supernet(path)
    supernet = make_supernet(space)
    save_supernet(supernet, path)
    with pytest.raises(InputError, match="must hold a network"):
        load_network(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a weight file"):
        load_supernet(path)


def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    supernet = make_supernet(SPACES.get("autoformer-micro"))
    save_supernet(supernet, path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["hwnas"])
    about["config"]["embed_dims"] = [32, 48]
    tensors = {name: tensor.detach() for name, tensor in supernet.shared.state_dict().items()}
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match="do not fit"):
        load_supernet(path)
    about["config"]["widths"] = [1]
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match="widths"):
        load_supernet(path)


def edited(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The metadata of a fresh file of that kind, to be changed, and its tensors."""
    space = SPACES.get("autoformer-micro")
    supernet = make_supernet(space)
    if kind == "supernet":
        save_supernet(supernet, path)
    else:
        save_network(supernet.subnet(space.largest()), path, space=space, arch=space.largest())
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["hwnas"]), safetensors.torch.load_file(path)


LOADERS = {"supernet": load_supernet, "network": load_network}


@pytest.mark.parametrize("kind", LOADERS)
def test_every_field_of_the_metadata_is_needed_and_has_its_type(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, kind)
    for name in about:
        wrongs: tuple[object, ...] = (None, 3, [], ["a"], [{}], "none", {"a": 1})
        others = [{key: value for key, value in about.items() if key != name}]
        others += [{**about, name: wrong} for wrong in wrongs]
        for other in others:
            safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(other)})
            if (name, other.get(name)) == ("space", "none"):  # a space may have any name
                continue
            with pytest.raises(InputError, match=r"must|is not known|missing"):
                LOADERS[kind](path)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', "", "{", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_metadata_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"hwnas": text})
    with pytest.raises(InputError, match=r"schema|metadata"):
        load_supernet(path)


def test_a_field_too_many_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "supernet")
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps({**about, "famly": "glit"})})
    with pytest.raises(InputError, match="key 'famly' is not known") as caught:
        load_supernet(path)
    assert caught.value.hint == "family"


@pytest.mark.parametrize("segment", [None, 3, [], {}, {"type": None}, {"type": []}, {"type": "none"}])
def test_segments_that_are_none_are_refused(segment: object, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "network")
    about["segments"]["stem"] = segment
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match="segment stem"):
        load_network(path)


@pytest.mark.parametrize("name", ["", "a..b", "forward", "stem.position.x", "outline"])
def test_names_that_no_segment_can_have_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "network")
    about["segments"][name] = about["segments"]["head"]
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match="cannot be built"):
        load_network(path)


FAMILY_MODULES = ("autoformer", "resnas", "vitas", "vitas_twins", "glit")


def test_the_stored_names_of_segments_stay() -> None:
    """They are kept in weight files, whatever the classes are called."""
    assert set(SEGMENT_TYPES) == {
        "layers.StemConfig",
        "elastic.StemConfig",
        "elastic.BlockConfig",
        "elastic.HeadConfig",
        "resnas.ConvStemConfig",
        "resnas.ReductionConfig",
        "vitas_twins.PatchEmbedConfig",
        *(f"{family}.BlockConfig" for family in FAMILY_MODULES),
        *(f"{family}.HeadConfig" for family in FAMILY_MODULES),
        "task_head.TaskHeadConfig",
    }


@pytest.mark.parametrize("value", [10**7, 10**12])
def test_sizes_in_the_metadata_are_refused_before_memory_is_allocated(value: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "supernet")
    about["supernet"]["embed_dim"] = value
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match=r"do not fit its metadata|cannot be built") as caught:
        load_supernet(path)
    assert "asks for" in str(caught.value.got) or value > 10**7


@pytest.mark.parametrize("name", ["../evil", "/evil", "a b", "", "x" * 200, "a\\u0000"])
def test_names_of_spaces_in_files_are_checked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "supernet")
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps({**about, "space": name})})
    with pytest.raises(InputError, match="space must have"):
        load_supernet(path)


@pytest.mark.parametrize("kind", LOADERS)
def test_headers_of_files_are_checked(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    edited(path, kind)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for damaged in (
        b"",
        content[:7],
        (2**63).to_bytes(8, "little") + content[8:],
        (2**64 - 1).to_bytes(8, "little") + content[8:],
        content[: 8 + length // 2],
        content[:8] + b"{" * length + content[8 + length :],
        content[:8] + b"\xff" * length + content[8 + length :],
        content[: 8 + length],
        content.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        content.replace(b'"F32"', b'"F99"', 1),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=path.name):
            LOADERS[kind](path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("depths", [10**6]), ("depths", [2, 10**30]), ("embed_dims", [10**12]), ("embed_dims", list(range(1, 5000)))],
)
def test_configs_that_would_take_hours_to_build_are_refused(name: str, value: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about, tensors = edited(path, "supernet")
    about["config"][name] = value
    safetensors.torch.save_file(tensors, path, {"hwnas": json.dumps(about)})
    with pytest.raises(InputError, match=rf"{name}.* must"):
        load_supernet(path)
