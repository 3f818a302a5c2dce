"""Folders for timm, which are loaded in a process that cannot import hwnas."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hwnas.export.parity import parity_path
from hwnas.pipeline.export_network import ExportedNetwork, export_network
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from hwnas.supernet.store import save_network
from hwnas.train.data.augment import eval_transform
from hwnas.train.data.preprocess import Preprocess, write_preprocess

CLASSES = ("ant", 'a "quoted" bee', *"cdefghij")
SPACE_NAMES = ("autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro")

PROGRAM = """
import sys

sys.modules["hwnas"] = None  # as if it were not installed
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

images = torch.from_numpy(np.load("images.npy"))
for folder in sorted(Path().glob("*.timm")):
    sys.path.insert(0, str(folder))
    (module,) = [file.stem for file in folder.glob("*.py")]
    __import__(module)
    model = timm.create_model(module, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(images)
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images), logits)
        features = timm.create_model(module, pretrained=True, num_classes=0).eval()(images)
        finetuned = timm.create_model(module, pretrained=True, num_classes=7).eval()(images)
    assert features.shape == (2, model.num_features), features.shape
    assert finetuned.shape == (2, 7)
    assert model.pretrained_cfg["label_names"][1] == 'a "quoted" bee'
    prepared = transform(Image.open("photo.png").convert("RGB"))
    np.savez(f"{folder}.npz", logits=logits.numpy(), prepared=prepared.numpy())
assert not any(name.startswith("hwnas.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedNetwork]:
    """Return one network of each family, exported, after another process has run them."""
    out = tmp_path_factory.mktemp("timm")
    found = {}
    for name in SPACE_NAMES:
        space = SPACES.get(name)
        arch = space.decode(space.sample(np.random.default_rng(3), 1))[0]
        torch.manual_seed(0)
        weights = out / name / "network.safetensors"
        weights.parent.mkdir()
        save_network(make_network(space, arch), weights, space=space, arch=arch)
        write_preprocess(weights.parent, Preprocess(input_size=(3, 32, 32), num_classes=10, label_names=CLASSES))
        found[name] = export_network(name, out=out, format="timm", weights=weights)
    rng = np.random.default_rng(0)
    np.save(out / "images.npy", rng.standard_normal((2, 3, 32, 32), dtype=np.float32))
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(out / "photo.png")
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=out, check=True)
    return found


@pytest.mark.parametrize("name", SPACE_NAMES)
def test_a_process_without_hwnas_gives_the_same_logits(name: str, exported: dict[str, ExportedNetwork]) -> None:
    from hwnas.supernet.loading import weighted_network

    folder = exported[name].files[0]
    module = weighted_network(name, None, weights=folder.parent / name / "network.safetensors", command="").module
    with torch.inference_mode():
        expected = module(torch.from_numpy(np.load(folder.parent / "images.npy"))).numpy()
    found = np.load(f"{folder}.npz")
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5 * np.abs(expected).max())


def test_images_are_prepared_as_they_are_evaluated(exported: dict[str, ExportedNetwork]) -> None:
    folder = exported["glit-micro"].files[0]
    image = eval_transform(image_size=32)(Image.open(folder.parent / "photo.png"))
    record = exported["glit-micro"].preprocess
    pixels = (np.asarray(image, dtype=np.float32) / 255 - record["mean"]) / record["std"]
    np.testing.assert_allclose(np.load(f"{folder}.npz")["prepared"], pixels.transpose(2, 0, 1), atol=1e-5)


def test_the_folder_has_the_layout_of_the_hub(exported: dict[str, ExportedNetwork]) -> None:
    for name, network in exported.items():
        folder = network.files[0]
        config = json.loads((folder / "config.json").read_text())
        module = folder / f"{config['architecture']}.py"
        assert {file.name for file in folder.iterdir() if file.suffix} == {
            "config.json", "model.safetensors", "README.md", module.name
        }  # fmt: skip
        assert config["label_names"] == list(CLASSES)
        assert config["pretrained_cfg"]["crop_pct"] == 0.875
        assert load_file(folder / "model.safetensors")[config["pretrained_cfg"]["classifier"][0] + ".bias"].shape == (
            10,
        )
        code, card = module.read_text(), (folder / "README.md").read_text()
        assert not any(line.lstrip().startswith(("from hwnas", "import hwnas")) for line in code.splitlines())
        assert card.startswith("---\nlibrary_name: timm\n")
        assert f"import {config['architecture']}" in card
        assert f"`{name}`" in card
        assert json.loads(parity_path(folder).read_text())["passed"]


def test_an_elastic_network_whose_blocks_differ_has_its_own_code(tmp_path: Path) -> None:
    from tests.train.test_plain_timm import make_supernet

    supernet = make_supernet("test_vit", depth=2)
    arch = supernet.space.decode(supernet.space.sample(np.random.default_rng(1), 1))[0]
    weights = tmp_path / "network.safetensors"
    save_network(supernet.subnet(arch), weights, space=supernet.space, arch=arch)
    found = export_network(supernet.space.name, out=tmp_path, format="timm", weights=weights)
    assert found.exporter == "timm, with its own code"
    assert len(list(found.files[0].glob("*.py"))) == 1
