"""Names of runtimes, and what single runners refuse."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hwnas.devices import DEVICES, detect
from hwnas.errors import MissingError, UnknownNameError
from hwnas.metrics import RUNTIMES
from hwnas.profile.runners import onnxruntime as ort_runner
from hwnas.profile.runners.onnxruntime import (
    CPU,
    CUDA,
    NO_FALLBACK,
    UNSYNCHRONIZED,
    CudaSession,
    OnnxRuntimeRunner,
    create_session,
    require_provider,
    run_options,
    session_options,
)
from hwnas.profile.runners.runner import RUNTIME_PREFERENCE, Availability, MeasurementError, load_runner
from hwnas.profile.runners.torch import TorchCompileRunner, TorchGraphRunner, TorchRunner
from hwnas.records import Setting
from tests.records.rows import make_setting

CPU_DEVICE, H100 = detect().cpu.device, DEVICES.get("h100")


def setting(**changes: object) -> Setting:
    return make_setting(device=CPU_DEVICE.name, runtime="onnxruntime", **changes)  # type: ignore[arg-type]


def test_the_default_order_names_runtimes() -> None:
    assert set(RUNTIME_PREFERENCE) <= set(RUNTIMES)


def test_an_unknown_runtime_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_runner("onnx-runtime")
    assert caught.value.hint == "--runtime onnxruntime"


def test_a_measurement_error_has_a_category() -> None:
    error = MeasurementError("memory", "it does not fit", hint="a smaller batch")
    assert (error.reason, str(error)) == ("memory", "it does not fit\n  try     a smaller batch")


def test_another_provider_than_the_one_asked_for_is_refused() -> None:
    require_provider([CUDA, CPU], wanted=CUDA)
    with pytest.raises(MissingError, match="must run on CUDAExecutionProvider") as caught:
        require_provider([CPU], wanted=CUDA)
    assert caught.value.got == CPU


def test_onnxruntime_names_the_gpu_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    found = OnnxRuntimeRunner().available(H100)
    assert not found.available
    assert found.extra == "gpu"
    assert "has no CUDAExecutionProvider (it has CPUExecutionProvider)" in found.reason
    monkeypatch.setattr(ort_runner, "find_spec", lambda name: None)
    assert OnnxRuntimeRunner().available(CPU_DEVICE) == Availability(
        available=False, reason="onnxruntime is not installed", extra="cpu"
    )


def test_threads_sleep_while_they_wait_where_there_are_several() -> None:
    one, two = session_options(setting()), session_options(setting(threads=2))
    assert (one.intra_op_num_threads, two.intra_op_num_threads) == (1, 2)
    assert two.inter_op_num_threads == 1
    assert two.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(RuntimeError, match="does not have"):
        one.get_session_config_entry("session.intra_op.allow_spinning")


def test_nodes_that_cuda_cannot_run_are_refused_and_not_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="does not have"):
        session_options(setting()).get_session_config_entry(NO_FALLBACK)
    monkeypatch.setattr(ort_runner, "device_of", lambda found: H100)
    assert session_options(setting()).get_session_config_entry(NO_FALLBACK) == "1"
    assert OnnxRuntimeRunner().facts(setting())["cpu_fallback"] == "refused"


def test_onnxruntime_has_no_convolution_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = OnnxRuntimeRunner().supports(setting(precision="bf16"))
    assert not found.available
    assert "runs fp32, fp16" in found.reason
    monkeypatch.setattr(ort_runner, "device_of", lambda found: H100)
    on_gpu = OnnxRuntimeRunner().supports(setting(precision="bf16"))
    assert not on_gpu.available
    assert "fp32, tf32, fp16 on" in on_gpu.reason
    assert "from opset 22 on, and exported graphs have opset 20" in on_gpu.reason


class Recorded:
    """Stands in for classes of onnxruntime and keeps the arguments of its calls."""

    def __init__(self, *given: object, **options: object) -> None:
        self.given, self.options, self.entries = given, options, dict[str, str]()

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_sessions_on_cuda_replay_a_graph_and_take_the_memory_that_they_need(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_runner, "device_of", lambda found: H100)
    monkeypatch.setattr("onnxruntime.InferenceSession", Recorded)
    monkeypatch.setattr("onnxruntime.SessionOptions", Recorded)
    session = create_session(b"graph", setting(precision=precision), stream=7)
    ((provider, options),) = session.options["providers"]
    assert provider == CUDA
    assert options == {
        "use_tf32": "1" if precision == "tf32" else "0",
        "enable_cuda_graph": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "user_compute_stream": "7",
    }
    assert session.options["enable_fallback"] == 0
    assert session.given[1].entries[NO_FALLBACK] == "1"


def test_nodes_that_compute_shapes_may_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_runner, "device_of", lambda found: H100)
    monkeypatch.setattr("onnxruntime.SessionOptions", Recorded)
    dynamic = setting(exporter="dynamo-dynamic")
    assert NO_FALLBACK not in session_options(dynamic).entries
    assert OnnxRuntimeRunner().facts(dynamic)["cpu_fallback"] == "shapes"
    assert OnnxRuntimeRunner().facts(setting())["cuda_graph"] == "true"


def test_a_run_on_cuda_does_not_wait_inside_onnxruntime() -> None:
    runs: list[Any] = []
    session = object.__new__(CudaSession)
    session._session = SimpleNamespace(run_with_iobinding=lambda binding, options: runs.append((binding, options)))
    session._binding, session._options = "binding", run_options()
    session._run()
    ((binding, options),) = runs
    assert binding == "binding"
    assert options.get_run_config_entry(UNSYNCHRONIZED) == "1"


def test_the_error_of_a_graph_is_not_replaced_by_that_of_a_second_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="INVALID_PROTOBUF"):
        create_session(b"no graph", setting())
    assert capsys.readouterr().out == ""


def test_cuda_graphs_need_a_gpu() -> None:
    assert TorchGraphRunner().available(CPU_DEVICE).reason == "CUDA graphs need an NVIDIA GPU"
    assert not TorchGraphRunner().supports(setting()).available


def test_a_torch_without_a_gpu_says_what_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "(a build without CUDA) finds no GPU on this machine" in TorchRunner().available(H100).reason

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update")

    monkeypatch.setattr(torch.cuda, "init", refuse)
    reason = TorchRunner().available(H100).reason
    assert reason.endswith("this machine: The NVIDIA driver on your system is too old (found version 12040)")


def test_a_gpu_without_kernels_in_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    found = TorchRunner().available(DEVICES.get("v100"))
    assert not found.available
    assert found.reason.endswith("has no kernels for compute capability 7.0 of v100, but for sm_75, sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert TorchRunner().available(H100).available


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in TorchCompileRunner().available(CPU_DEVICE).reason
    monkeypatch.setenv("CXX", sys.executable)
    assert TorchCompileRunner().available(CPU_DEVICE).available
