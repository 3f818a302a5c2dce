"""Weights in files."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
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
    with pytest.raises(InputError, match="not a file of weights"):
        load_supernet(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"of the form hwnas\.weights/1"):
        load_supernet(path)
    supernet = make_supernet(space)
    save_supernet(supernet, path)
    with pytest.raises(InputError, match="must hold a network"):
        load_network(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a file of weights"):
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
