"""Engines built from exported graphs, with test doubles of TensorRT and of the GPU."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import CheckFailedError
from hwnas.export.accuracy import QuantisedAccuracy
from hwnas.export.calibration import LabeledImages
from hwnas.export.export import ExportedModule
from hwnas.export.parity import ExportParity, parity_path
from hwnas.export.tensorrt import EngineSettings, TimingCache, read_engine
from hwnas.export.tensorrt.export import export_engine
from tests.export.tensorrt.conftest import GPU, Double
from tests.export.tensorrt.fake_cuda import FakeCuda
from tests.export.tensorrt.graphs import expected_logits, small_graph, small_images, small_network

SHAPE = (3, 8, 8)


@pytest.fixture
def module(newest: Double, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network, on a machine with an invented GPU."""
    monkeypatch.setattr("hwnas.export.tensorrt.build.gpu_facts", lambda: GPU)
    monkeypatch.setattr("hwnas.export.tensorrt.export.TorchCuda", newest.cuda)
    return small_network()


def graph(folder: Path) -> ExportedModule:
    path = folder / "net.onnx"
    path.write_bytes(small_graph())
    parity = ExportParity(
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
    return ExportedModule(path=path, files=(path,), seconds=1.0, **values)  # type: ignore[arg-type]


def test_an_engine_is_written_with_its_card_and_parity(module: nn.Module, tmp_path: Path) -> None:
    timings = TimingCache(path=tmp_path / "timings")
    settings = EngineSettings(precision="tf32", batch=2, workspace_mb=512, optimization_level=5, timing_cache=timings)
    path, source = tmp_path / "net.engine", graph(tmp_path)
    exported = export_engine(module, source, path, input_shape=SHAPE, settings=settings)
    assert all(file.exists() for file in exported.files)
    assert exported.files[-1] == source.path
    assert (exported.format, exported.precision) == ("tensorrt", "tf32")
    card = read_engine(path).card
    assert card.settings == settings
    assert card.timing_cache is not None
    assert card.timing_cache.after == hashlib.sha256((tmp_path / "timings").read_bytes()).hexdigest()
    record = json.loads(parity_path(path).read_text())
    assert record["sha256"] == card.engine_sha256


def test_the_accuracy_of_an_engine_is_that_of_its_own_logits(
    module: nn.Module, newest: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All batches run on one loaded engine; torch's own answers are the labels."""
    loaded: list[FakeCuda] = []

    def load() -> FakeCuda:
        loaded.append(newest.cuda())
        return loaded[-1]

    monkeypatch.setattr("hwnas.export.tensorrt.export.TorchCuda", load)
    images = [small_images(2, seed=seed) for seed in range(3)]
    batches = [(batch.numpy(), np.asarray(expected_logits(batch)).argmax(axis=1)) for batch in images]
    in_onnx = QuantisedAccuracy(
        data="test", images=6, top1=0.5, float_top1=0.9, max_drop=0.01, calibration=None, noisiest_layers=()
    )
    source = graph(tmp_path)
    source = replace(source, parity=replace(source.parity, tolerance=None, accuracy=in_onnx))
    exported = export_engine(
        module,
        source,
        tmp_path / "net.engine",
        input_shape=SHAPE,
        settings=EngineSettings(batch=2),
        images=LabeledImages(name="test", batches=batches),
    )
    assert exported.parity.accuracy == replace(in_onnx, top1=1.0, float_top1=1.0)
    assert exported.parity.top1_agreement == 1.0
    assert len(loaded) == 1


def test_an_engine_of_another_network_is_not_written(module: nn.Module, tmp_path: Path) -> None:
    path, settings = tmp_path / "net.engine", EngineSettings(batch=2)
    export_engine(module, graph(tmp_path), path, input_shape=SHAPE, settings=settings)
    before = path.read_bytes()
    with torch.no_grad():
        module.get_parameter("4.bias")[0] += 1.0
    with pytest.raises(CheckFailedError, match="of the largest logit"):
        export_engine(module, graph(tmp_path), path, input_shape=SHAPE, settings=settings)
    assert path.read_bytes() == before
    assert json.loads(parity_path(path).read_text())["passed"] is False
