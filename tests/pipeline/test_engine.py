"""An exported graph turned into an engine, with a double in the place of TensorRT and of the GPU."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hwnas.errors import GateError, InputError, UsageError
from hwnas.export.export import Exported
from hwnas.export.parity import Parity, parity_path
from hwnas.export.tensorrt import TimingCache, read_engine
from hwnas.pipeline.engine import engine_settings, write_engine
from hwnas.pipeline.export_network import EngineOptions, export_network
from tests.tensorrt.conftest import GPU, Double, newest
from tests.tensorrt.graphs import small_graph, small_network

__all__ = ["newest"]


@pytest.fixture
def found(newest: Double, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network, on a machine whose GPU is made up."""
    monkeypatch.setattr("hwnas.export.tensorrt.build.gpu_facts", lambda: GPU)
    monkeypatch.setattr("hwnas.export.tensorrt.cuda.TorchCuda", newest.cuda)
    return SimpleNamespace(module=small_network(), space=SimpleNamespace(config=SimpleNamespace(input_shape=(3, 8, 8))))


def graph(folder: Path) -> Exported:
    path = folder / "net.onnx"
    path.write_bytes(small_graph())
    parity = Parity(
        max_absolute=0.0,
        max_relative=0.0,
        top1_agreement=1.0,
        images=2,
        batches=(2,),
        seed=0,
        precision="fp32",
        tolerance=1e-4,
        runtime="onnxruntime",
    )
    values = {"format": "onnx", "precision": "fp32", "batch": 2, "exporter": "dynamo", "parity": parity}
    return Exported(path=path, files=(path,), seconds=1.0, **values)  # type: ignore[arg-type]


def test_what_was_asked_of_the_builder_stands_on_the_card(found: Any, tmp_path: Path) -> None:
    settings = engine_settings(
        precision="tf32", batch=2, workspace_mb=512, optimization_level=5, timing_cache=tmp_path / "timings"
    )
    path = tmp_path / "net.engine"
    written = write_engine(found, graph(tmp_path), path, settings=settings)
    assert all(file.exists() for file in written.files)
    assert (written.exported.format, written.exported.precision) == ("tensorrt", "tf32")
    card = read_engine(path).card
    assert card.settings == settings
    assert (card.settings.workspace_mb, card.settings.optimization_level) == (512, 5)
    assert card.timing_cache is not None
    assert card.timing_cache.after == hashlib.sha256((tmp_path / "timings").read_bytes()).hexdigest()
    record = json.loads(parity_path(path).read_text())
    assert record["sha256"] == card.engine_sha256


def test_the_timing_cache_of_the_environment_is_used_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_settings(precision="fp16", batch=1).timing_cache is None
    monkeypatch.setenv("HWNAS_TIMING_CACHE", "shared.cache")
    monkeypatch.setenv("HWNAS_TIMING_CACHE_USE", "pinned")
    assert engine_settings(precision="fp16", batch=1).timing_cache == TimingCache(
        path=Path("shared.cache"), use="pinned"
    )
    own = engine_settings(precision="fp16", batch=1, timing_cache=Path("own.cache")).timing_cache
    assert own == TimingCache(path=Path("own.cache"))


def test_an_engine_of_another_network_is_not_written(found: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    settings = engine_settings(precision="fp32", batch=2)
    write_engine(found, graph(tmp_path), path, settings=settings)
    before = path.read_bytes()
    with torch.no_grad():
        found.module[4].bias[0] += 1.0
    with pytest.raises(GateError, match="of the largest logit"):
        write_engine(found, graph(tmp_path), path, settings=settings)
    assert path.read_bytes() == before
    assert json.loads(parity_path(path).read_text())["passed"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization_level": 6}, "optimization_level must be 0 to 5"),
        ({"workspace_mb": 0}, "workspace_mb must be at least 1"),
        ({"precision": "int4"}, "precision must be one that is known"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    precision = options.pop("precision", "fp32")
    with pytest.raises(InputError, match=message):
        export_network(
            "autoformer-micro",
            "min",
            out=tmp_path / "out",
            format="tensorrt",
            precision=precision,
            engine=EngineOptions(**options),
        )
    assert not (tmp_path / "out").exists()


def test_options_of_the_builder_are_for_engines_alone(tmp_path: Path) -> None:
    given = {"out": tmp_path, "format": "safetensors"}
    with pytest.raises(UsageError, match="for --format tensorrt") as caught:
        export_network("autoformer-micro", "min", engine=EngineOptions(workspace_mb=64), **given)  # type: ignore[arg-type]
    assert caught.value.got == "--workspace-mb"
    with pytest.raises(UsageError, match="tf32 is how an engine multiplies"):
        export_network("autoformer-micro", "min", precision="tf32", **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs its file"):
        EngineOptions(timing_cache_use="pinned")
    assert list(tmp_path.iterdir()) == []
