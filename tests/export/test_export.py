"""Networks written to files that run without hwnas."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from hwnas.errors import CheckFailedError, InputError, UnknownNameError
from hwnas.export.export import export_module
from hwnas.export.templates import TemplateStore
from tests.export.segmented import SHAPE, Network


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(36, 4))


@pytest.mark.parametrize("batch", [100_000, 10**9])
def test_a_batch_that_cannot_fit_into_memory_is_refused_with_the_number(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("hwnas.export.export.available_bytes", lambda: 10**7)
    with pytest.raises(InputError, match=f"a batch of {batch:,} images must fit into memory") as caught:
        export_module(module, format="safetensors", path=tmp_path / "net", input_shape=SHAPE, batch=batch)
    assert "of which 0.0 GB are free" in str(caught.value.got)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_is_an_error(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("hwnas.export.export.check_parity", exhausted)
    with pytest.raises(InputError, match="must fit into memory"):
        export_module(module, format="safetensors", path=tmp_path / "net", input_shape=SHAPE, batch=17)
    assert list(tmp_path.iterdir()) == []


WITHOUT_HWNAS = """
import sys
sys.modules["hwnas"] = None
import numpy, torch
from safetensors.torch import load_file
images = torch.from_numpy(numpy.load(sys.argv[1]))
logits = torch.export.load(sys.argv[2]).module()(images)
numpy.save(sys.argv[4], logits.detach().numpy())
print(sorted(load_file(sys.argv[3])))
"""


@pytest.mark.slow
def test_files_load_where_hwnas_is_not(module: nn.Module, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((5, *SHAPE), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    for name in ("pt2", "safetensors"):
        export_module(module, format=name, path=tmp_path / f"net.{name}", input_shape=SHAPE, batch=None)
    paths = [str(tmp_path / name) for name in ("images.npy", "net.pt2", "net.safetensors", "logits.npy")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HWNAS, *paths], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(module.state_dict()))
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_formats_hold_the_same_weights(module: nn.Module, tmp_path: Path, precision: str) -> None:
    files = {}
    for name in ("pt2", "safetensors"):
        path = tmp_path / f"net.{name}"
        exported = export_module(module, format=name, path=path, input_shape=SHAPE, precision=precision)
        assert exported.parity.passed
        files[name] = exported
    weights = load_file(files["safetensors"].path)
    program = torch.export.load(files["pt2"].path)
    held = {name.removeprefix("module."): tensor for name, tensor in program.state_dict.items()}
    for name, tensor in module.state_dict().items():
        wanted = (
            tensor.to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
            if tensor.is_floating_point()
            else tensor
        )
        assert torch.equal(weights[name], wanted)
        assert torch.equal(held[name], wanted)


def test_a_file_says_how_it_was_made(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.safetensors"
    export_module(
        module, format="safetensors", path=path, input_shape=SHAPE, precision="fp16", metadata={"network_id": "abc"}
    )
    with safe_open(path, framework="np") as file:
        entries = json.loads(file.metadata()["hwnas"])
    assert (entries["precision"], entries["network_id"], entries["exporter"]) == ("fp16", "abc", "module")
    extra = {"hwnas.json": ""}
    export_module(
        module, format="pt2", path=path.with_suffix(".pt2"), input_shape=SHAPE, metadata={"network_id": "abc"}
    )
    torch.export.load(path.with_suffix(".pt2"), extra_files=extra)
    assert json.loads(extra["hwnas.json"])["network_id"] == "abc"


def test_figures_stand_beside_the_file(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    exported = export_module(module, format="onnx", path=path, input_shape=SHAPE, batch=4, images=8)
    assert exported.files == (path, tmp_path / "net.onnx.parity.json")
    assert sorted(tmp_path.iterdir()) == sorted(exported.files)
    assert (exported.exporter, exported.batch, exported.composition) == ("dynamo", 4, None)
    stored = json.loads(exported.files[1].read_text())
    assert stored["max_absolute"] == exported.parity.max_absolute < 1e-5
    assert (stored["images"], stored["passed"], stored["runtime"]) == (8, True, "onnxruntime")
    assert stored["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert exported.seconds > 0


def test_a_network_with_segments_is_composed(tmp_path: Path) -> None:
    network, store = Network(8, (2,)), TemplateStore(None)
    exported = export_module(network, format="onnx", path=tmp_path / "net.onnx", input_shape=SHAPE, store=store)
    assert exported.exporter == "composed"
    assert exported.composition is not None
    assert exported.composition.exported == ("part.0", "part.1", "part.2")
    assert exported.parity.max_relative < 1e-5


def test_what_overflows_is_not_written(module: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        module.get_parameter("4.weight").mul_(1e7)
    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckFailedError, match="must be finite numbers") as caught:
        export_module(module, format="safetensors", path=path, input_shape=SHAPE, precision="fp16")
    assert caught.value.hint is not None
    assert "bf16" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_no_record_of_an_earlier_one(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    export_module(module, format="safetensors", path=path, input_shape=SHAPE, precision="fp16")
    before = path.read_bytes()
    with torch.no_grad():
        module.get_parameter("4.weight").mul_(1e7)
    with pytest.raises(CheckFailedError):
        export_module(module, format="safetensors", path=path, input_shape=SHAPE, precision="fp16")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written") as caught:
        export_module(module, format="safetensors", path=tmp_path / "net.safetensors", input_shape=SHAPE)
    assert "No space left" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_after_the_network_leaves_nothing(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full_later(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the file and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(InputError, match=r"parity\.json cannot be written"):
        export_module(module, format="safetensors", path=tmp_path / "net.safetensors", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(module: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        export_module(module, format="safetensors", path=tmp_path / "taken" / "net", input_shape=SHAPE)


def test_an_unknown_format_lists_the_others(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="export format 'onx'") as caught:
        export_module(module, format="onx", path=tmp_path / "net", input_shape=SHAPE)
    assert caught.value.known == ("onnx", "pt2", "safetensors")
    assert list(tmp_path.iterdir()) == []
