"""Official checkpoints, wrapped as the official trainers wrap them, turned into our files."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.pipeline.import_checkpoint import import_checkpoint
from hwnas.space import SPACES
from hwnas.supernet.official import checkpoint as reading
from hwnas.supernet.store import load_network, load_supernet
from tests.supernet.golden import assert_golden, golden, images, weights

PUBLISHED = {
    "autoformer-t": ("autoformer", "autoformer-tiny", "AutoFormer-T"),
    "resnas-t": ("resnas", "resnas-tiny", "ViT-ResNAS-T"),
    "vitas-a": ("vitas", "vitas-deit-small", "ViTAS-A"),
    "glit-t": ("glit", "glit-tiny", "GLiT-T"),
}


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint as the official trainers save it after distributed training."""
    weight = next(iter(state.values()))
    optimizer = torch.optim.AdamW([weight.clone().requires_grad_()])
    return {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3, data_path="/data", gp=True),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_imported_and_gives_the_official_outputs(name: str, tmp_path: Path) -> None:
    family, space, arch = PUBLISHED[name]
    record, out = golden(name), tmp_path / "network.safetensors"
    torch.save(wrapped(weights(record["shapes"])), tmp_path / "official.pth")
    imported = import_checkpoint(family, tmp_path / "official.pth", space=space, out=out, arch=arch)
    stored = load_network(out)
    assert imported.params == SPACES.get(space).costs(SPACES.get(space).encode([stored.arch])).params[0]
    with torch.inference_mode():
        assert_golden(stored.network.eval()(images(record)), record)


def test_a_supernet_is_imported_and_gives_the_official_outputs(tmp_path: Path) -> None:
    record, out = golden("autoformer-t"), tmp_path / "supernet.safetensors"
    torch.save(wrapped(weights(record["shapes"])), tmp_path / "official.pth")
    imported = import_checkpoint("autoformer", tmp_path / "official.pth", space="autoformer-tiny", out=out)
    assert imported.params == 11_669_224
    supernet = load_supernet(out).eval()
    assert supernet.space is SPACES.get("autoformer-tiny") or supernet.space == SPACES.get("autoformer-tiny")
    with torch.inference_mode():
        assert_golden(supernet(images(record), supernet.space.published["AutoFormer-T"]), record)


def test_timms_twins_is_imported(tmp_path: Path) -> None:
    model = timm.create_model("twins_svt_small", pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    out = tmp_path / "network.safetensors"
    import_checkpoint("vitas-twins", tmp_path / "timm.pth", space="vitas-twins-small", out=out, arch="twins-svt-s")
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(out).network.eval()(x), model(x), rtol=0, atol=1e-5)


def test_positions_are_interpolated_to_another_image_size(tmp_path: Path) -> None:
    record, out = golden("vitas-a"), tmp_path / "network.safetensors"
    torch.save(weights(record["shapes"]), tmp_path / "official.pth")
    given = {"space": "vitas-deit-small", "out": out, "arch": "ViTAS-A", "image_size": 256}
    assert import_checkpoint("vitas", tmp_path / "official.pth", **given).image_size == 256  # type: ignore[arg-type]
    stored = load_network(out)
    assert stored.space.config.image_size == 256
    assert stored.network.eval()(torch.zeros(1, 3, 256, 256)).isfinite().all()


class Code:
    """An object whose unpickling would run a program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def refused(path: Path, content: object, **given: Any) -> InputError:
    """Why a checkpoint of that content is not imported as AutoFormer's; nothing may be left behind."""
    torch.save(content, path / "official.pth")
    arguments = {"space": "autoformer-tiny", "out": path / "ours.safetensors", **given}
    with pytest.raises(InputError) as caught:
        import_checkpoint(arguments.pop("family", "autoformer"), path / "official.pth", **arguments)
    assert sorted(file.name for file in path.iterdir()) == ["official.pth"]
    return caught.value


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    error = refused(tmp_path, {"model": {}, "args": Code(tmp_path / "ran")})
    assert "cannot be read without running code" in error.message or "without running code" in error.message
    assert not (tmp_path / "ran").exists()


def test_another_familys_checkpoint_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, wrapped(weights(golden("glit-t")["shapes"])))
    assert error.message == "the checkpoint holds keys that this family does not have"
    assert "blocks.0.0.norm1.weight" in str(error.got)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    state = weights(golden("autoformer-t")["shapes"])
    del state["blocks.3.fc1.weight"]
    error = refused(tmp_path, wrapped(state))
    assert error.message == "the checkpoint lacks weights of this network"
    assert "blocks.3.mlp.fc1.weight" in str(error.got)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, wrapped(weights(golden("autoformer-b")["shapes"])))
    assert "blocks.14" in str(error.got)
    error = refused(tmp_path, wrapped(weights(golden("autoformer-t")["shapes"])), num_classes=10)
    assert "head.classifier" in error.message
    assert "(10," in error.message


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "must hold weights" in refused(tmp_path, {"epoch": 3, "args": argparse.Namespace()}).message
    assert "must hold weights" in refused(tmp_path, [1, 2]).message
    (tmp_path / "official.pth").write_bytes(b"hello")
    with pytest.raises(InputError, match="not a checkpoint"):
        reading.read_checkpoint(tmp_path / "official.pth")
    with pytest.raises(InputError, match="there is no file"):
        reading.read_checkpoint(tmp_path / "absent.pth")


def test_a_family_without_released_supernets_says_so(tmp_path: Path) -> None:
    state = weights(golden("glit-t")["shapes"])
    error = refused(tmp_path, state, family="glit", space="glit-tiny")
    assert error.hint == "--arch GLiT-T"


def test_a_space_of_another_family_is_refused(tmp_path: Path) -> None:
    assert "autoformer-tiny" in refused(tmp_path, {}, space="glit-tiny").known


def test_the_command_line_ends_with_code_1_and_no_traceback(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Code(tmp_path / "ran")}, tmp_path / "official.pth")
    arguments = ["autoformer", "official.pth", "--space", "autoformer-tiny", "--out", "ours.safetensors"]
    command = [sys.executable, "-m", "hwnas", "import", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: official.pth is not a checkpoint")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ours.safetensors").exists()
