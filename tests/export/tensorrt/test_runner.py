"""The runner, with test doubles of the library and of the GPU."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.devices import DEVICES, Device
from hwnas.errors import InputError
from hwnas.export.tensorrt import EngineSettings, TimingCache, build_engine
from hwnas.profile.runners import tensorrt as runner_module
from hwnas.profile.runners.runner import MeasurementError, QueuedSession, Runner, RuntimeSession, load_runner
from hwnas.profile.runners.tensorrt import TensorRtRunner
from hwnas.records import Setting
from tests.export.tensorrt.conftest import GPU, Double
from tests.export.tensorrt.fake_cuda import FakeClock, FakeCuda
from tests.export.tensorrt.graphs import expected_logits, small_graph, small_images, small_network
from tests.records.rows import make_setting

SETTING = make_setting(device="h200", runtime="tensorrt", batch=2, exporter="dynamo")
CPU = Device(name="some-cpu", kind="cpu", vendor="amd", architecture="zen")


@pytest.fixture(autouse=True)
def _gpu_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "device_of", lambda setting: DEVICES.get(setting.device))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """Replace the export by a hand-made graph, and collect the settings of the requests."""
    asked: list[Setting] = []

    def graph(module: nn.Module, images: torch.Tensor, setting: Setting) -> bytes:
        asked.append(setting)
        return small_graph(precision=setting.precision.replace("tf32", "fp32"), batch=len(images))

    monkeypatch.setattr(runner_module, "onnx_graph", graph)
    return asked


def runner_on(double: Double, **environ: str) -> TensorRtRunner:
    made: list[FakeCuda] = []

    def make_cuda() -> FakeCuda:
        made.append(double.cuda())
        return made[-1]

    return TensorRtRunner(
        make_cuda=make_cuda, make_clock=lambda: FakeClock(made[-1]), find_gpu=lambda: GPU, environ=environ
    )


def test_it_is_found_by_its_name() -> None:
    runner = load_runner("tensorrt")
    assert isinstance(runner, TensorRtRunner)
    assert isinstance(runner, Runner)
    assert runner.name == "tensorrt"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_session_runs_and_answers(double: Double, graphs: list[Setting], precision: str) -> None:
    setting = make_setting(device="h200", runtime="tensorrt", precision=precision, batch=2)
    session = runner_on(double).prepare(small_network(), small_images(2), setting)
    assert isinstance(session, RuntimeSession)
    samples = [session.run_once() for _ in range(3)]
    assert all(sample.device_ns == sample.wall_ns - 1000 and sample.cpu_ns is None for sample in samples)
    weights = precision.replace("tf32", "fp32")
    expected = expected_logits(small_images(2), precision=weights)
    np.testing.assert_allclose(session.outputs(), expected, atol=1e-5 if weights == "fp32" else 5e-2)
    assert (session.memory_mb() is None) == (double.trt.__version__ == "10.0.1")
    session.close()
    assert graphs == [setting]


def test_a_run_is_one_replay(newest: Double, graphs: list[Setting]) -> None:
    session = runner_on(newest).prepare(small_network(), small_images(2), SETTING)
    (cuda,) = newest.library.streams.values()
    before = cuda.launched
    session.run_once()
    assert cuda.launched == before + 1


def test_several_runs_are_queued_before_the_first_is_waited_for(newest: Double, graphs: list[Setting]) -> None:
    session = runner_on(newest).prepare(small_network(), small_images(2), SETTING)
    assert isinstance(session, QueuedSession)
    (cuda,) = newest.library.streams.values()
    before, queued = cuda.launched, []
    sample = session.run_queued(5, while_running=lambda: queued.append(cuda.launched - before))
    assert queued == [5]
    assert sample.host_ns is not None


@pytest.mark.slow
def test_a_network_is_exported_and_run(newest: Double) -> None:
    network, images = small_network(), small_images(2)
    before = copy.deepcopy(network.state_dict())
    session = runner_on(newest).prepare(network, images, SETTING)
    np.testing.assert_allclose(session.outputs(), expected_logits(images), atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"unknown_operators": {"Gemm"}}, "unsupported"), ({"memory": 1}, "memory")],
)
def test_what_goes_wrong_has_a_category(
    double: Double, graphs: list[Setting], change: dict[str, object], reason: str
) -> None:
    for name, value in change.items():
        setattr(double.library, name, value)
    with pytest.raises(MeasurementError) as caught:
        runner_on(double).prepare(small_network(), small_images(2), SETTING)
    assert caught.value.reason == reason


def test_a_timing_cache_is_shared_by_builds(double: Double, graphs: list[Setting], tmp_path: Path) -> None:
    runner = runner_on(double, HWNAS_TIMING_CACHE=str(tmp_path / "timing.cache"))
    runner.prepare(small_network(), small_images(2), SETTING)
    runner.prepare(small_network(), small_images(2), SETTING)
    assert len(double.library.timed_kernels) == 5
    assert runner.facts(SETTING)["timing_cache"] == "extend"


def test_facts_hold_the_hash_of_a_fixed_cache(newest: Double, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    built = build_engine(small_graph(), EngineSettings(batch=2, timing_cache=TimingCache(path=path)), gpu=GPU)
    assert built.card.timing_cache is not None
    runner = runner_on(newest, HWNAS_TIMING_CACHE=str(path), HWNAS_TIMING_CACHE_USE="pinned")
    assert runner.facts(SETTING)["timing_cache"] == f"pinned sha256:{built.card.timing_cache.after}"


def test_facts_say_what_decides_the_speed(double: Double) -> None:
    facts = runner_on(double).facts(SETTING)
    assert facts == {
        "tensorrt": double.trt.__version__,
        "torch": torch.__version__,
        "cuda": "13.2",
        "driver": "600.1",
        "gpu": "Test GPU",
        "compute_capability": "9.0",
        "typing": "strong",
        "optimization_level": "3",
        "timing_cache": "none",
    }


def test_a_wrong_use_of_the_cache_is_refused(newest: Double) -> None:
    runner = runner_on(newest, HWNAS_TIMING_CACHE="timing.cache", HWNAS_TIMING_CACHE_USE="sometimes")
    with pytest.raises(InputError, match="got     sometimes\n  known   extend, read, pinned"):
        runner.facts(SETTING)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None)
    found = TensorRtRunner().available(DEVICES.get("h200"))
    assert (found.available, found.reason, found.extra) == (False, "tensorrt is not installed", "tensorrt")


def test_a_library_that_does_not_load_is_not_available(monkeypatch: pytest.MonkeyPatch, newest: Double) -> None:
    newest.trt.__version__ = "8.6.1"
    found = TensorRtRunner().available(DEVICES.get("h200"))
    assert (found.available, found.extra) == (False, "tensorrt")
    assert found.reason == "TensorRT must be version 10 or newer: 8.6.1"


def test_it_wants_a_gpu(newest: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorRtRunner().available(CPU).reason == "TensorRT needs an NVIDIA GPU"
    monkeypatch.setattr(runner_module, "device_of", lambda setting: CPU)
    assert not TensorRtRunner().supports(SETTING).available


def test_precisions_that_it_does_not_run_are_named() -> None:
    runner = TensorRtRunner()
    assert runner.supports(make_setting(device="h200", runtime="tensorrt", precision="bf16")).available
    found = runner.supports(make_setting(device="h200", runtime="tensorrt", precision="int8"))
    assert found.reason == "tensorrt runs fp32, fp16, bf16, tf32, not int8"
