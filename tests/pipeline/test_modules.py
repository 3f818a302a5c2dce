"""Modules of the caller's own, measured and exported with an example input."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hwnas
from hwnas.errors import InputError, MissingError
from hwnas.pipeline.modules import export_module, measure_module

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5))


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_module_is_timed_beside_the_reference_network(runtime: str) -> None:
    module = small_network().train()
    found = measure_module(module, IMAGES, device="cpu", runtime=runtime, pairs=8)
    assert 0 < found.lower_ms <= found.latency_ms <= found.upper_ms
    assert found.throughput == pytest.approx(2 * 1e3 / found.latency_ms)
    assert len(found.samples.wall_ns) == len(found.reference.wall_ns) == 8
    assert np.median(found.reference.wall_ns) > np.median(found.samples.wall_ns)
    assert found.parity.max_relative < 1e-4
    assert module.training
    assert len(found.to_frame()["reference_wall_ms"]) == 8


def test_a_module_that_does_not_run_is_an_error_with_its_reason() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no such layer")

    with pytest.raises(InputError, match="no such layer"):
        measure_module(Broken(), IMAGES, device="cpu", runtime="torch", pairs=8)
    with pytest.raises(InputError, match="must be a batch of images"):
        measure_module(small_network(), IMAGES[0], device="cpu")
    with pytest.raises(MissingError):
        measure_module(small_network(), IMAGES, device="a100")


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_module_is_exported_and_gives_the_same(tmp_path: Path, *, dynamic_batch: bool) -> None:
    module = small_network()
    done = export_module(module, IMAGES, tmp_path / "net.onnx", dynamic_batch=dynamic_batch)
    assert done.parity.max_relative < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    images = torch.cat([IMAGES, IMAGES, IMAGES]) if dynamic_batch else IMAGES
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits, module.eval()(images).numpy(), atol=1e-5)


def test_the_ending_decides_the_format(tmp_path: Path) -> None:
    done = export_module(small_network(), IMAGES, tmp_path / "net.safetensors")
    assert (done.format, done.batch) == ("safetensors", 2)
    with pytest.raises(InputError, match=r"\.tflite"):
        export_module(small_network(), IMAGES, tmp_path / "net.tflite")


def test_they_are_public() -> None:
    assert (hwnas.measure_module, hwnas.export_module) == (measure_module, export_module)
