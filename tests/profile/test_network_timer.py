"""Real networks on real runtimes, in this process; times are never judged."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from hwnas.devices import DEVICES, Device, detect
from hwnas.devices.memory import memory_limit
from hwnas.errors import InputError, MissingError
from hwnas.profile.network_timer import NetworkTimer, classify_failure, first_gpu_uuid, require_runner
from hwnas.profile.reference import REFERENCE, timm_subject
from hwnas.profile.runners.runner import AVAILABLE, Availability, MeasurementError, RuntimeSession, Sample
from hwnas.profile.runners.torch import TorchRunner
from hwnas.profile.statistics import latency_ratio
from hwnas.profile.subjects import space_subject
from hwnas.profile.timing import SamplePlan, observe_under_load
from hwnas.profile.worker import Worker
from hwnas.profile.worker_messages import MeasurementTask
from hwnas.records import DeviceState, Setting
from hwnas.space import SPACES
from tests.records.rows import changed, make_setting

SPACE = SPACES.get("autoformer-micro")
SUBJECT = space_subject(SPACE, SPACE.candidate(SPACE.largest()))
SETTING = make_setting(device=detect().cpu.slug, runtime="onnxruntime", batch=2)
TASK = MeasurementTask(
    subject=SUBJECT, setting=SETTING, seed=1, pairs=4, reference=space_subject(SPACE, SPACE.candidate(SPACE.smallest()))
)  # fmt: skip


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def bench(stages: list[str]) -> Iterator[NetworkTimer]:
    made = NetworkTimer(on_stage=stages.append)
    yield made
    made.close()


def test_a_network_of_a_space_on_onnxruntime(bench: NetworkTimer, stages: list[str]) -> None:
    outcome = bench.measure(TASK)
    assert outcome.failure is None
    assert outcome.samples is not None
    assert outcome.reference is not None
    assert 4 <= len(outcome.samples.cpu_ns) == len(outcome.reference.cpu_ns) <= 16
    assert outcome.parity is not None
    assert outcome.parity.max_relative < 1e-4
    assert outcome.parity.top1_agreement == 1
    assert latency_ratio(outcome.samples, outcome.reference) > 0
    assert (outcome.before, outcome.after, outcome.energy_j) == (None, None, None)
    assert stages == ["reference", "build", "prepare", "check", "warm up", "time"]


def test_the_reference_session_stays(bench: NetworkTimer, stages: list[str]) -> None:
    stages.clear()
    bench.measure(replace(TASK, seed=2))
    assert "reference" not in stages
    other = replace(TASK, setting=changed(SETTING, runtime="torch", batch=1))
    assert bench.measure(other).failure is None
    assert "reference" in stages


def test_a_network_that_cannot_be_built_is_a_failure(bench: NetworkTimer) -> None:
    torch_task = replace(TASK, setting=changed(SETTING, runtime="torch", batch=1))
    wrong = bench.measure(replace(torch_task, subject=replace(SUBJECT, network_id="0123")))
    assert wrong.failure is not None
    assert wrong.failure.reason == "export"
    assert "must have the network_id that is stated with it" in wrong.failure.message
    unknown = bench.measure(replace(torch_task, subject=timm_subject("deit_tinny", image_size=224)))
    assert unknown.failure is not None
    assert "timm model 'deit_tinny' is not known" in unknown.failure.message


def test_a_batch_that_does_not_fit_is_a_failure_of_memory(bench: NetworkTimer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.profile.network_timer.memory_limit", partial(memory_limit, 10**8))
    huge = replace(TASK, setting=changed(SETTING, runtime="torch", batch=65_536))
    with pytest.raises(InputError, match="reference network") as caught:
        bench.measure(huge)
    assert str(caught.value.got).startswith("memory: ")


def test_half_precision_is_compared_with_its_own_tolerance(bench: NetworkTimer) -> None:
    outcome = bench.measure(replace(TASK, setting=changed(SETTING, runtime="torch", precision="bf16")))
    assert outcome.failure is None
    assert outcome.parity is not None
    assert 1e-4 < outcome.parity.max_relative < 0.1


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_a_quantised_network_is_timed_if_it_agrees_with_torch(bench: NetworkTimer, precision: str) -> None:
    task = replace(TASK, setting=changed(SETTING, runtime="onnxruntime", precision=precision))
    outcome = bench.measure(task)
    assert outcome.failure is None
    assert outcome.parity is not None
    assert outcome.parity.max_relative > 1e-4


def test_a_task_survives_its_way_to_the_worker() -> None:
    import json

    from hwnas.config import from_mapping, to_mapping

    assert from_mapping(MeasurementTask, json.loads(json.dumps(to_mapping(TASK)))) == TASK


@pytest.mark.slow
def test_a_worker_measures_beside_deit_tiny() -> None:
    task = MeasurementTask(subject=SUBJECT, setting=changed(SETTING, batch=1), seed=1, pairs=8)
    assert task.reference == REFERENCE
    with Worker() as worker:
        outcome = worker.measure(task)
        assert outcome.failure is None
        assert outcome.samples is not None
        assert outcome.reference is not None
        assert latency_ratio(outcome.samples, outcome.reference) < 0.5
        assert outcome.memory_mb is not None
        assert worker.facts(task.setting).runtime["provider"] == "CPUExecutionProvider"


@pytest.mark.slow
def test_two_threads_have_no_cpu_time() -> None:
    bench = NetworkTimer()
    outcome = bench.measure(replace(TASK, setting=changed(SETTING, threads=2)))
    bench.close()
    assert outcome.samples is not None
    assert outcome.samples.cpu_ns == ()
    assert len(outcome.samples.switches) == len(outcome.samples.wall_ns) >= 4


def test_the_reference_is_prepared_once_for_each_batch_whatever_exports_the_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared: list[Setting] = []
    prepare = TorchRunner.prepare

    def counting(self: TorchRunner, module: nn.Module, images: Tensor, setting: Setting) -> RuntimeSession:
        prepared.append(setting)
        return prepare(self, module, images, setting)

    monkeypatch.setattr(TorchRunner, "prepare", counting)
    told: list[str] = []
    bench = NetworkTimer(on_stage=told.append)
    torch_setting = changed(SETTING, runtime="torch")
    settings = [
        replace(changed(torch_setting, batch=batch), exporter=way) for way in ("module", "other") for batch in (1, 2)
    ]
    for setting in settings:
        assert bench.measure(replace(TASK, setting=setting, subject=TASK.reference, pairs=1)).failure is None
    assert len(prepared) == 4 + 2
    assert told.count("reference") == 2
    bench.close()
    bench.measure(replace(TASK, setting=torch_setting, subject=TASK.reference, pairs=1))
    assert told.count("reference") == 3
    bench.close()


def test_a_cache_that_cannot_be_written_is_known_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    for ask in (lambda: NetworkTimer().facts(SETTING), lambda: NetworkTimer().measure(TASK)):
        with pytest.raises(InputError, match="cannot be written") as caught:
            ask()
        assert caught.value.hint == "HWNAS_CACHE=DIR for another folder"
    assert NetworkTimer().facts(changed(SETTING, runtime="torch")).runtime["torch"]


@pytest.mark.parametrize(
    ("reported", "integrated", "fits"),
    [("NVIDIA H200", False, True), ("NVIDIA L4", False, False), ("NVIDIA T400", False, False), ("Orin", True, True)],
)
def test_the_first_gpu_of_cuda_must_be_the_one_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, reported: str, integrated: bool, fits: bool
) -> None:
    monkeypatch.setattr("hwnas.profile.network_timer.device_of", lambda setting: DEVICES.get(setting.device))
    monkeypatch.setattr("hwnas.profile.network_timer.load_runner", lambda name: Willing())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: reported)
    properties = SimpleNamespace(is_integrated=integrated)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    setting = make_setting(device="h200", runtime="torch")
    if fits:
        assert isinstance(require_runner(setting), Willing)
        return
    with pytest.raises(MissingError, match="the first GPU of CUDA must be the device h200") as caught:
        require_runner(setting)
    assert caught.value.got == reported
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value.hint)
    assert "CUDA_DEVICE_ORDER" in str(caught.value.hint)


def test_a_gpu_of_no_datasheet_is_known_by_what_its_driver_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(name="nvidia-t400", kind="gpu", vendor="nvidia", architecture="unknown", reported=("NVIDIA T400",))
    monkeypatch.setattr("hwnas.profile.network_timer.device_of", lambda setting: device)
    monkeypatch.setattr("hwnas.profile.network_timer.load_runner", lambda name: Willing())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(is_integrated=False))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA T400")
    assert isinstance(require_runner(make_setting(device="nvidia-t400", runtime="torch")), Willing)


class Willing:
    """A runner for everything."""

    def available(self, device: Device) -> Availability:
        return AVAILABLE

    def supports(self, setting: Setting) -> Availability:
        return AVAILABLE


@pytest.mark.parametrize(
    ("error", "stage", "reason"),
    [
        (MeasurementError("nan", "no number"), "check", "nan"),
        (MemoryError(), "prepare", "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "time", "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "build", "memory"),
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"), "check", "memory"),
        (NotImplementedError("no such layer"), "prepare", "unsupported"),
        (MissingError("no provider"), "prepare", "unsupported"),
        (
            RuntimeError(
                "nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled"
            ),
            "prepare",
            "unsupported",
        ),
        (RuntimeError("No ONNX function found for <OpOverload(op='aten.foo')>"), "prepare", "unsupported"),
        (RuntimeError("\"addmm\" not implemented for 'Half'"), "check", "unsupported"),
        (InputError("timm model 'x' is not known"), "build", "export"),
        (ValueError("a cycle"), "prepare", "export"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "time", "crash"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "prepare", "crash"),
        (torch.AcceleratorError("CUDA error: out of memory"), "prepare", "memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "build", "crash"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "prepare", "crash"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "prepare", "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"), "check", "unsupported"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "prepare", "crash"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"), "prepare", "unsupported"),
        (RuntimeError("[ONNXRuntimeError] : 6 : CUDA failure 700: an illegal memory access"), "prepare", "crash"),
        (RuntimeError("[ONNXRuntimeError] : 6 : CUDA failure 2: out of memory ; GPU=0"), "prepare", "memory"),
    ],
)
def test_errors_are_sorted(error: Exception, stage: str, reason: str) -> None:
    assert classify_failure(error, stage=stage).reason == reason


def test_messages_are_one_line_and_not_pages() -> None:
    assert classify_failure(ValueError("a\n  b"), stage="build").message == "ValueError: a b"
    assert classify_failure(InputError("a", got="b", hint="c"), stage="build").message == "a, got b"
    crash = RuntimeError("CUDA error: unspecified launch failure")
    assert classify_failure(crash, stage="prepare").message == f"in stage: prepare: RuntimeError: {crash}"
    long = classify_failure(ValueError("word " * 1000), stage="build").message
    assert len(long) < 700
    assert long.endswith("…")


class CappedGpu:
    """The answers of NVML for a GPU that is power-capped all the time."""

    def __init__(self) -> None:
        self.begin_ns = time.perf_counter_ns()
        self.facts_read = 0

    def state(self) -> DeviceState:
        return DeviceState(clock_mhz=1410)

    def limits_ns(self) -> dict[str, float]:
        return {"sw_power_cap": time.perf_counter_ns() - self.begin_ns, "board_limit": 5.0}

    def energy_j(self, run: Callable[[], object], *, runs: int = 1) -> float:
        run()
        return 2.5


def test_capping_while_the_networks_run_is_recorded(bench: NetworkTimer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_nvml", CappedGpu())
    outcome = bench.measure(replace(TASK, setting=changed(SETTING, runtime="torch")))
    assert outcome.failure is None
    assert outcome.limited is not None
    assert outcome.limited["sw_power_cap"] == pytest.approx(1, abs=0.05)
    assert outcome.limited["board_limit"] == 0
    assert outcome.before == outcome.after == DeviceState(clock_mhz=1410)
    assert (outcome.during, outcome.energy_j) == (None, 2.5)  # a CPU has no queue


def test_a_gpu_is_observed_while_its_queue_is_full() -> None:
    class Queue:
        def run_once(self) -> Sample:
            raise AssertionError("a queue runs several times at once")

        def run_queued(
            self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None
        ) -> Sample:
            assert (runs, delay_ns) == (16 * 5, 0)
            while_running()
            return Sample(wall_ns=1, device_ns=1, host_ns=1)

        outputs = memory_mb = close = run_once

    session = Queue()
    assert observe_under_load(session, SamplePlan(runs=5, queued=True), lambda: 1410) == 1410  # type: ignore[arg-type]
    assert observe_under_load(session, SamplePlan(runs=5), lambda: 1410) is None  # type: ignore[arg-type]


def test_nvml_is_asked_for_the_slice_and_not_for_a_gpu_of_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_gpu_uuid({"CUDA_VISIBLE_DEVICES": "MIG-2222"}) == "MIG-2222"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1234"))
    assert first_gpu_uuid({}) == "GPU-1234"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200 MIG 1g.18gb")
    assert first_gpu_uuid({}).startswith("MIG-")  # never the whole card
