"""OpenVINO on this CPU: precisions as hints, the thread that does the work, and what is refused."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwnas.devices import DEVICES, Device, detect
from hwnas.devices.intel import accelerators, openvino_core
from hwnas.errors import InputError, MissingError
from hwnas.pipeline.measure import measure
from hwnas.profile.network_timer import classify_failure
from hwnas.profile.options import CampaignOptions
from hwnas.profile.runners import openvino as openvino_runner
from hwnas.profile.runners.openvino import ISA_LIMIT, OpenVinoRunner, OpenVinoSession, cpu_clock, require_in_effect
from hwnas.profile.runners.runner import load_runner, run_timed, supporting_runtimes, working_clock
from hwnas.records import Setting
from tests.devices.intel_core import IntelCore
from tests.pipeline.campaigns import FakeEnvironment
from tests.records.rows import make_setting

pytestmark = pytest.mark.skipif(bool(os.environ.get(ISA_LIMIT)), reason="OpenVINO needs all instructions of the CPU")

CPU = detect().cpu
OLD_CPU = replace(CPU, instruction_sets=("avx512f", "avx2"))
FP32 = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "PERFORMANCE_HINT": "LATENCY",
}

CORE = pytest.importorskip("openvino").Core()


def setting(**changes: Any) -> Setting:
    return make_setting(device=CPU.slug, runtime="openvino", **changes)


def product_graph(*, quantised: bool = False, kind: str = "MatMul") -> bytes:
    """A graph of one product with 64 x 64 weights; quantised, images and weights share a scale."""
    weights = np.random.default_rng(0).integers(-127, 128, (64, 64)).astype(np.int8)
    scale = helper.make_tensor("scale", TensorProto.FLOAT, (), [0.03])
    zero = helper.make_tensor("zero", TensorProto.INT8, (), [0])
    floats = numpy_helper.from_array(weights.astype(np.float32) * 0.03, "w")
    nodes = [helper.make_node(kind, ["x", "w"], ["y"])]
    if quantised:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xf"]),
            helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wf"]),
            helper.make_node(kind, ["xf", "wf"], ["y"]),
        ]
    weight = numpy_helper.from_array(weights, "wq") if quantised else floats
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])],
        [scale, zero, weight] if quantised else [weight],
    )
    content: bytes = onnx.ModelProto(
        ir_version=9, graph=graph, opset_import=[helper.make_opsetid("", 18)]
    ).SerializeToString()
    return content


def images() -> torch.Tensor:
    return torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


def test_float32_is_asked_for_because_openvino_would_take_bfloat16() -> None:
    facts = OpenVinoRunner().facts(setting())
    assert (facts["precision"], facts["streams"], facts["cpu_pinning"]) == ("f32", "1", "false")
    assert facts["openvino"].startswith("20")


@pytest.mark.slow
@pytest.mark.skipif(not CPU.has_bf16, reason="this CPU has no bf16 instructions")
def test_bfloat16_is_in_effect() -> None:
    assert OpenVinoRunner().supports(setting(precision="bf16")).available
    assert OpenVinoRunner().facts(setting(precision="bf16"))["precision"] == "bf16"
    bf16 = OpenVinoSession(product_graph(), images(), options={**FP32, "INFERENCE_PRECISION_HINT": "bf16"}, core=CORE)
    fp32 = OpenVinoSession(product_graph(), images(), options=FP32, core=CORE)
    difference = np.abs(bf16.outputs() - fp32.outputs()).max()
    assert 1e-4 < difference / np.abs(fp32.outputs()).max() < 1e-2


def test_a_cpu_that_emulates_bfloat16_is_refused_with_the_reason() -> None:
    found = OpenVinoRunner(find_cpu=lambda: OLD_CPU).supports(setting(precision="bf16"))
    assert not found.available
    assert "emulated and slow" in found.reason


def test_a_precision_that_only_another_runtime_has_is_refused_with_its_name(tmp_path: Path) -> None:
    options = CampaignOptions(space="autoformer-micro", device="cpu", samples=2, precision="fp16", out=tmp_path)
    with pytest.raises(InputError, match="openvino must be able to run in this setting") as caught:
        measure(options, campaign_environment=FakeEnvironment().make())
    assert caught.value.hint == "--runtime onnxruntime"
    assert supporting_runtimes(setting(precision="int8-dynamic"), CPU.device) == ("onnxruntime",)


def test_float16_is_refused_on_a_cpu() -> None:
    assert "runs fp32, bf16, int8 on" in OpenVinoRunner().supports(setting(precision="fp16")).reason


@pytest.mark.parametrize(("cpu", "rest"), [(replace(CPU, instruction_sets=("avx512_bf16",)), "bf16"), (OLD_CPU, "f32")])
def test_the_rest_of_a_quantised_network_is_bfloat16_where_the_cpu_has_it(cpu: Any, rest: str) -> None:
    if rest == "bf16" and not CPU.has_bf16:
        pytest.skip("this CPU has no bf16 instructions")
    assert OpenVinoRunner(find_cpu=lambda: cpu).facts(setting(precision="int8"))["precision"] == rest


def test_a_quantised_product_runs_in_int8() -> None:
    session = OpenVinoSession(product_graph(quantised=True), images(), options=FP32, core=CORE)
    nodes = session._request.get_compiled_model().get_runtime_model().get_ops()
    kinds = {str(node.get_rt_info()["layerType"].value): node for node in nodes if "layerType" in node.get_rt_info()}
    precision = str(kinds["FullyConnected"].get_rt_info()["runtimePrecision"].value)
    assert precision in ("i8", "u8")
    expected = OpenVinoSession(product_graph(), images(), options=FP32, core=CORE).outputs()
    # Sums of products saturate on CPUs without VNNI, so that single values may be far off.
    assert np.corrcoef(session.outputs().ravel(), expected.ravel())[0, 1] > 0.95


def test_an_option_that_openvino_replaced_is_an_error() -> None:
    ignored = SimpleNamespace(get_property={"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}.get)
    require_in_effect(ignored, {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1})
    with pytest.raises(MissingError, match="INFERENCE_PRECISION_HINT=bf16") as caught:
        require_in_effect(ignored, {"INFERENCE_PRECISION_HINT": "bf16"})
    assert caught.value.got == "f32"


def test_with_one_thread_the_calling_thread_does_the_work() -> None:
    session = OpenVinoSession(product_graph(), images(), options=FP32, core=CORE)
    assert session._clock == "thread"
    assert session.run_once().cpu_ns


def test_a_limit_of_instructions_makes_it_unavailable() -> None:
    (device,) = (device for device in detect().devices if device.kind == "cpu")
    limited = OpenVinoRunner(environ={ISA_LIMIT: "AVX2"}).available(device)
    assert not limited.available
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in limited.reason
    assert OpenVinoRunner(environ={ISA_LIMIT: "ALL"}).available(device).available


@pytest.mark.slow
@pytest.mark.skipif(CPU.num_cores < 2, reason="this process has one core")
def test_with_several_threads_there_is_no_cpu_time() -> None:
    session = OpenVinoSession(product_graph(), images(), options={**FP32, "INFERENCE_NUM_THREADS": 2}, core=CORE)
    assert session.run_once().cpu_ns is None


def test_work_in_a_thread_of_the_runtime_is_counted_by_the_process() -> None:
    def run_elsewhere() -> None:
        thread = threading.Thread(target=lambda: sum(i * i for i in range(400_000)))
        thread.start()
        thread.join()

    assert working_clock(run_elsewhere) == "process"
    assert working_clock(lambda: sum(i * i for i in range(400_000))) == "thread"
    counted, missed = (run_timed(run_elsewhere, threads=1, clock=clock).cpu_ns for clock in ("process", "thread"))
    assert counted is not None
    assert missed is not None
    assert counted > 10 * missed
    assert run_timed(run_elsewhere, threads=1, clock="wall").cpu_ns is None


def test_an_operation_that_openvino_lacks_makes_a_network_unsupported() -> None:
    with pytest.raises(RuntimeError) as caught:
        OpenVinoSession(product_graph(kind="NoSuchOperation"), images(), options=FP32, core=CORE)
    failure = classify_failure(caught.value, stage="prepare")
    assert failure.reason == "unsupported"
    assert "NoSuchOperation" in failure.message


def test_what_is_missing_is_named() -> None:
    assert "not on h100" in OpenVinoRunner().available(DEVICES.get("h100")).reason
    found = OpenVinoRunner(make_core=lambda: None).available(CPU.device)
    assert (found.reason, found.extra) == ("openvino is not installed", "openvino")
    reason = OpenVinoRunner(make_core=lambda: IntelCore("GPU")).available(CPU.device).reason
    assert reason == f"openvino does not see {CPU.slug} (it sees GPU)"


def intel_device(plugin: str) -> Device:
    return accelerators(IntelCore(plugin))[0].device


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "precision", "hint"), [("GPU", "fp32", "f32"), ("GPU", "fp16", "f16"), ("NPU", "fp16", "f16")]
)
def test_an_intel_accelerator_is_timed_on_the_wall(
    monkeypatch: pytest.MonkeyPatch, plugin: str, precision: str, hint: str
) -> None:
    device, core = intel_device(plugin), IntelCore("CPU", plugin)
    monkeypatch.setattr(openvino_runner, "device_of", lambda _: device)
    runner = OpenVinoRunner(make_core=lambda: core)
    target = make_setting(device=device.name, runtime="openvino", precision=precision, batch=4, exporter="dynamo")
    assert runner.available(device).available
    assert runner.supports(target).available
    session = runner.prepare(torch.nn.Linear(64, 64).eval(), images(), target)
    assert core.compiled == (plugin, {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"})
    sample = session.run_once()
    assert (sample.cpu_ns, sample.device_ns, session.memory_mb()) == (None, None, None)
    assert sample.wall_ns > 0
    assert session.outputs().shape == (4, 64)
    facts = runner.facts(target)
    assert (facts["precision"], facts["device"]) == (hint, device.reported[0])


def test_an_intel_accelerator_that_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    device = intel_device("NPU")
    monkeypatch.setattr(openvino_runner, "device_of", lambda _: device)
    runner = OpenVinoRunner(make_core=lambda: IntelCore("CPU", "GPU"))
    target = make_setting(device=device.name, runtime="openvino", precision="fp32")
    assert runner.available(device).reason == "openvino does not see intel-npu-3720 (it sees CPU, GPU)"
    assert runner.supports(target).reason == "openvino runs fp16 on intel-npu-3720, not fp32"
    with pytest.raises(MissingError, match="must see intel-npu-3720"):
        runner.facts(target)


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt", "torch", "torch-compile", "torch-graph"])
@pytest.mark.parametrize("plugin", ["GPU", "NPU"])
def test_no_other_runtime_takes_an_intel_accelerator_for_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, plugin: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a machine that has an NVIDIA GPU as well
    found = load_runner(name).available(intel_device(plugin))
    assert not found.available
    assert "NVIDIA GPU" in found.reason


def test_the_clock_is_found_out_once_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenVinoRunner().facts(setting())["clock"] == cpu_clock()
    monkeypatch.setattr(openvino_runner, "working_clock", lambda run: pytest.fail("it is known"))
    session = OpenVinoSession(product_graph(), images(), options=FP32, core=CORE)
    assert session._clock == cpu_clock()


def test_a_process_has_one_core() -> None:
    assert openvino_core() is openvino_core()
