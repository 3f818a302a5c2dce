from pathlib import Path

import pytest
import torch

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.loading import weighted_network
from hwnas.supernet.store import save_network, save_supernet

SPACE = SPACES.get("autoformer-micro")
ARCH, OTHER = SPACE.largest(), SPACE.smallest()
COMMAND = "hwnas export {space} {arch}"
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    torch.manual_seed(3)
    supernet = make_supernet(SPACE).eval()
    paths = {"supernet": tmp_path / "supernet.safetensors", "network": tmp_path / "network.safetensors"}
    save_supernet(supernet, paths["supernet"])
    save_network(supernet.subnet(ARCH), paths["network"], space=SPACE, arch=ARCH)
    torch.save(supernet(IMAGES, ARCH).detach(), tmp_path / "logits.pt")
    return {**paths, "logits": tmp_path / "logits.pt"}


@pytest.mark.parametrize("kind", ["supernet", "network"])
def test_weights_are_those_of_the_file(files: dict[str, Path], kind: str) -> None:
    found = weighted_network("autoformer-micro", "max", weights=files[kind], command=COMMAND)
    assert (found.fresh, found.weights, found.arch) == (False, str(files[kind]), ARCH)
    expected = torch.load(files["logits"], weights_only=True)
    torch.testing.assert_close(found.module(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert not found.module.training


def test_a_file_of_one_network_names_it(files: dict[str, Path]) -> None:
    assert weighted_network("autoformer-micro", None, weights=files["network"], command=COMMAND).arch == ARCH


def test_fresh_weights_are_those_of_the_seed_and_said_to_be_so() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        weighted_network("autoformer-micro", OTHER, seed=seed, command=COMMAND) for seed in (0, 0, 1)
    )
    assert first.fresh
    assert first.weights == "fresh, random, of seed 0"
    assert torch.equal(first.module(IMAGES), again.module(IMAGES))
    assert not torch.equal(first.module(IMAGES), other.module(IMAGES))
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_can_be_made_for_other_images_and_classes() -> None:
    found = weighted_network("autoformer-micro", "min", image_size=64, num_classes=7, command=COMMAND)
    assert found.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_what_does_not_fit_is_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold the network"):
        weighted_network("autoformer-micro", "min", weights=files["network"], command=COMMAND)
    with pytest.raises(InputError, match="must hold weights of glit-micro"):
        weighted_network("glit-micro", "min", weights=files["supernet"], command=COMMAND)
    with pytest.raises(InputError, match="a network of the space must be named"):
        weighted_network("autoformer-micro", None, weights=files["supernet"], command=COMMAND)
    with pytest.raises(InputError, match="there is no file"):
        weighted_network("autoformer-micro", "min", weights=tmp_path / "none", command=COMMAND)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InputError, match="is not a weight file"):
        weighted_network("autoformer-micro", "min", weights=tmp_path / "junk", command=COMMAND)
