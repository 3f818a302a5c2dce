"""Modules of the caller's own, measured and exported with an example input."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hwnas
from hwnas.errors import InputError, MissingError
from hwnas.pipeline.modules import export_module, measure_module, trace_workload
from tests.marks import slow_but

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5))


@pytest.mark.parametrize("runtime", slow_but(["torch", "onnxruntime"], "torch"))
def test_a_module_is_timed_beside_the_reference_network(runtime: str) -> None:
    module = small_network().train()
    found = measure_module(module, IMAGES, device="cpu", runtime=runtime, pairs=8)
    assert 0 < found.lower_ms <= found.latency_ms <= found.upper_ms
    assert found.throughput == pytest.approx(2 * 1e3 / found.latency_ms)
    num_pairs = len(found.reference.wall_ns)
    assert 8 <= num_pairs <= 32
    assert len(found.samples.wall_ns) == 4 * num_pairs
    assert np.median(found.reference.wall_ns) > np.median(found.samples.wall_ns)
    assert found.parity.max_relative < 1e-4
    assert module.training
    frame = {name: np.asarray(values) for name, values in found.to_frame().items()}
    np.testing.assert_array_equal(frame["pair"], np.repeat(np.arange(num_pairs), 4))
    np.testing.assert_array_equal(frame["wall_ms"], np.array(found.samples.wall_ns) / 1e6)
    np.testing.assert_array_equal(frame["reference_wall_ms"][::4], np.array(found.reference.wall_ns) / 1e6)
    assert np.count_nonzero(np.isnan(frame["reference_wall_ms"])) == 3 * num_pairs


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


class Forward(nn.Module):
    """A module that computes what a function says."""

    count: Tensor

    def __init__(self, function: Callable[["Forward", Tensor], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 5)
        self.register_buffer("count", torch.zeros(()))
        self.function = function

    def forward(self, images: Tensor) -> object:
        """Compute the outputs."""
        return self.function(self, images)

    def logits(self, images: Tensor) -> Tensor:
        """The outputs of a good module."""
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


def counted(module: Forward, images: Tensor) -> Tensor:
    """Outputs that grow with each call."""
    module.count += 1
    return module.logits(images) + module.count


HOSTILE: dict[str, tuple[Callable[[Forward, Tensor], object], str]] = {
    "tuple": (lambda module, images: (module.logits(images), images), "must return one tensor"),
    "none": (lambda module, images: None, "must return one tensor"),
    "dict": (lambda module, images: {"logits": module.logits(images)}, "must return one tensor"),
    "integers": (lambda module, images: module.logits(images).argmax(1), "must return one tensor"),
    "scalar": (lambda module, images: module.logits(images).sum(), "must return one tensor"),
    "transposed": (lambda module, images: module.logits(images).T, "must return one tensor"),
    "empty": (lambda module, images: module.logits(images)[:, :0], "must be finite numbers"),
    "nan": (lambda module, images: module.logits(images) * float("nan"), "must be finite numbers"),
    "counter": (counted, "same outputs for the same images"),
    "random": (lambda module, images: torch.rand(len(images), 5), "same outputs for the same images"),
    "raises": (lambda module, images: dict[str, int]()["logits"], "must accept images of shape"),
    "size": (lambda module, images: module.layer(images.flatten(1)[:, :5]), "must accept images of shape"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_module_that_is_no_network_is_an_error_before_anything_is_written(name: str, tmp_path: Path) -> None:
    function, message = HOSTILE[name]
    with pytest.raises(InputError, match=message) as caught:
        export_module(Forward(function), IMAGES, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value.got)
    with pytest.raises(InputError, match=message):
        measure_module(Forward(function), IMAGES, device="cpu", runtime="torch", pairs=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [None, "module", small_network, nn.Linear])
def test_what_is_no_module_is_an_error(module: Any, tmp_path: Path) -> None:
    for act in (
        lambda: measure_module(module, IMAGES),
        lambda: export_module(module, IMAGES, tmp_path / "a.onnx"),
        lambda: trace_workload(module, IMAGES),
    ):
        with pytest.raises(InputError, match=r"must be a torch\.nn\.Module"):
            act()


@pytest.mark.parametrize("images", [None, [1.0], np.zeros((2, 3, 16, 16)), torch.zeros(0, 3, 8, 8), IMAGES.int()])
def test_what_is_no_batch_of_images_is_an_error(images: Any) -> None:
    with pytest.raises(InputError, match="must be a batch of images"):
        measure_module(small_network(), images)


def test_a_module_that_cannot_be_copied_is_an_error() -> None:
    module = small_network()
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(InputError, match="must be one that can be copied"):
        measure_module(module, IMAGES, device="cpu")


def test_a_module_is_left_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4).eval(), nn.Flatten(), nn.Linear(676, 5)).train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_module(module, IMAGES, tmp_path / "net.onnx")
    assert (module.training, module[1].training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_module_without_weights_is_exported(tmp_path: Path) -> None:
    assert export_module(nn.Flatten(), IMAGES, tmp_path / "net.onnx").parity.max_relative == 0
    with pytest.raises(InputError, match="must have parameters"):
        trace_workload(nn.Flatten(), IMAGES)
