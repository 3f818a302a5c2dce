"""The runner, with test doubles of the library and of the GPU."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.devices import DEVICES, Device
from hwnas.errors import InputError, MissingError
from hwnas.export.tensorrt import EngineSettings, TimingCache, build_engine
from hwnas.export.tensorrt.execution import Execution
from hwnas.profile.runners import tensorrt as runner_module
from hwnas.profile.runners.runner import (
    EngineSession,
    MeasurementError,
    QueuedSession,
    Runner,
    RuntimeSession,
    load_runner,
    report_progress,
)
from hwnas.profile.runners.tensorrt import TensorRtRtxRunner, TensorRtRunner
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

    def graph(module: nn.Module, images: torch.Tensor, setting: Setting, *, int8_rest: str) -> bytes:
        assert int8_rest == "fp16"
        asked.append(setting)
        return small_graph(precision=setting.precision.replace("tf32", "fp32"), batch=len(images))

    monkeypatch.setattr(runner_module, "onnx_graph", graph)
    return asked


def runner_on(double: Double, **environ: str) -> TensorRtRunner:
    made: list[FakeCuda] = []

    def make_cuda() -> FakeCuda:
        made.append(double.cuda())
        return made[-1]

    kind = TensorRtRtxRunner if double.name == "tensorrt-rtx" else TensorRtRunner
    return kind(
        make_cuda=make_cuda,
        make_clock=lambda: FakeClock(made[-1]),
        find_gpu=lambda: double.gpu,
        environ={"HWNAS_TIMING_CACHE": "none", **environ},
    )


@pytest.mark.parametrize(("name", "kind"), [("tensorrt", TensorRtRunner), ("tensorrt-rtx", TensorRtRtxRunner)])
def test_it_is_found_by_its_name(name: str, kind: type) -> None:
    runner = load_runner(name)
    assert type(runner) is kind
    assert isinstance(runner, Runner)
    assert runner.name == name


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


def test_the_engine_that_runs_can_be_kept(newest: Double, graphs: list[Setting], tmp_path: Path) -> None:
    session = runner_on(newest).prepare(small_network(), small_images(2), SETTING)
    assert isinstance(session, EngineSession)
    session.save_engine(tmp_path / "network.engine")
    kept = Execution((tmp_path / "network.engine").read_bytes(), small_images(2), cuda=newest.cuda())
    np.testing.assert_array_equal(kept.logits(), session.outputs())


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


def test_builds_of_a_gpu_share_the_timing_cache_of_hwnas(
    newest: Double, graphs: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    runner = TensorRtRunner(
        make_cuda=newest.cuda, make_clock=lambda: FakeClock(newest.cuda()), find_gpu=lambda: GPU, environ={}
    )
    for _ in range(2):
        runner.prepare(small_network(), small_images(2), SETTING)
    assert len(newest.library.timed_kernels) == 5
    assert runner.facts(SETTING)["timing_cache"] == "extend"
    (path,) = (tmp_path / "tensorrt").iterdir()
    assert path.name == "test-gpu-11.4.0.106-cuda13.2.timings"


def test_a_build_gives_signs_of_life(newest: Double, graphs: list[Setting]) -> None:
    calls: list[int] = []
    with report_progress(lambda: calls.append(1)):
        runner_on(newest).prepare(small_network(), small_images(2), SETTING)
    assert len(calls) > 10  # a phase with a step for each of five layers, and what surrounds it
    during = len(calls)
    runner_on(newest).prepare(small_network(), small_images(2), SETTING)
    assert len(calls) == during


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
    assert TensorRtRtxRunner().available(CPU).reason == "TensorRT for RTX needs an NVIDIA GPU"
    monkeypatch.setattr(runner_module, "device_of", lambda setting: CPU)
    assert not TensorRtRunner().supports(SETTING).available


def test_precisions_that_it_does_not_run_are_named() -> None:
    runner = TensorRtRunner()
    assert runner.supports(make_setting(device="h200", runtime="tensorrt", precision="bf16")).available
    found = runner.supports(make_setting(device="h200", runtime="tensorrt", precision="int8-dynamic"))
    assert found.reason == "tensorrt runs fp32, fp16, bf16, tf32, int8, fp8, not int8-dynamic"
    for precision in ("int8", "fp8"):
        assert runner.supports(make_setting(device="h200", runtime="tensorrt", precision=precision)).available


RTX_SETTING = make_setting(device="l4", runtime="tensorrt-rtx", batch=2, exporter="dynamo")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_session_of_rtx_runs_and_answers(rtx_double: Double, graphs: list[Setting], precision: str) -> None:
    setting = make_setting(device="l4", runtime="tensorrt-rtx", precision=precision, batch=2)
    session = runner_on(rtx_double).prepare(small_network(), small_images(2), setting)
    weights = precision.replace("tf32", "fp32")
    expected = expected_logits(small_images(2), precision=weights)
    np.testing.assert_allclose(session.outputs(), expected, atol=1e-5 if weights == "fp32" else 5e-2)
    assert session.run_once().wall_ns > 0
    assert session.memory_mb() is not None
    session.close()


def test_rtx_compiles_before_the_recording(
    rtx_double: Double, graphs: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "onnx_graph", lambda module, images, setting, int8_rest: small_graph(batch=None))
    session = runner_on(rtx_double).prepare(small_network(), small_images(2), RTX_SETTING)
    before = list(rtx_double.library.kernels_run)
    assert set(before) == {"specialised"}  # none of those for any shape, which run while others are compiled
    session.run_once()
    assert rtx_double.library.kernels_run == before  # a recording is replayed, and enqueues nothing


def test_facts_of_rtx_have_no_timing_cache(rtx_double: Double) -> None:
    facts = runner_on(rtx_double, HWNAS_TIMING_CACHE="timing.cache").facts(RTX_SETTING)
    assert facts["tensorrt-rtx"] == rtx_double.trt.__version__
    assert "timing_cache" not in facts


def test_rtx_names_a_gpu_that_it_does_not_build_for(rtx_double: Double) -> None:
    found = TensorRtRtxRunner().available(DEVICES.get("h100"))
    assert not found.available
    assert found.reason == (
        "TensorRT for RTX builds for compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, and h100 has 9.0"
    )


def test_rtx_without_a_gpu_or_without_the_package(rtx_double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no GPU on this machine" in TensorRtRtxRunner().available(DEVICES.get("l4")).reason
    monkeypatch.setattr(runner_module, "find_spec", lambda name: None)
    found = TensorRtRtxRunner().available(DEVICES.get("l4"))
    assert (found.reason, found.extra) == ("tensorrt-rtx is not installed", "tensorrt-rtx")


def test_rtx_without_a_driver_is_missing(rtx_double: Double, graphs: list[Setting]) -> None:
    rtx_double.library.has_gpu = False
    with pytest.raises(MissingError, match="NVIDIA GPU with a matching driver") as caught:
        runner_on(rtx_double).prepare(small_network(), small_images(2), RTX_SETTING)
    assert caught.value.exit_code == 3


def test_an_engine_of_rtx_is_for_the_gpu_of_the_machine(rtx_double: Double, graphs: list[Setting]) -> None:
    rtx_double.library.compute_capability = "8.6"  # the driver has another GPU than torch reports
    with pytest.raises(MeasurementError, match=r"the engine is of \['SM89'\]"):
        runner_on(rtx_double).prepare(small_network(), small_images(2), RTX_SETTING)
