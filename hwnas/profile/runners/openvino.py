"""Run networks by OpenVINO on a CPU, an Intel GPU or an Intel NPU.

OpenVINO lowers the precision itself: it takes a float32 graph and a hint. The hint is always given, because without one
it takes bfloat16 wherever the CPU has it.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.devices import Cpu, Device
from hwnas.devices.intel import accelerators, import_openvino, openvino_core
from hwnas.devices.memory import release_free_memory, resident_mb
from hwnas.errors import MissingError
from hwnas.profile.runners.runner import AVAILABLE, Array, Availability, Clock, Sample, run_timed, working_clock
from hwnas.profile.runners.this_machine import device_of, quantisation_facts, this_cpu
from hwnas.records import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "gpu": ("fp32", "fp16"), "npu": ("fp16",)}
"""By kind of device. Not fp16 on a CPU: those with AVX512_FP16 but without AMX for it run it slower than fp32. Not
int8-dynamic: OpenVINO does not recognise its products, runs them in fp32, and is slower than without."""

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Variable that limits the instructions of oneDNN."""

_EXTRA = "openvino"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names. Of an int8 graph, what is not quantised runs in bf16 where a CPU has it, else in fp32; on other
devices in fp16."""

_CLOCK_SIZE, _CLOCK_RUNS = 512, 8
"""Some 10 ms of work, far more than what a runtime does in the calling thread to hand it over."""

_IN_EFFECT = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS")
"""Options that OpenVINO may replace without an error, and that are therefore read back from the compiled network."""


class OpenVinoSession:
    """A graph compiled for one device.

    Args:
        graph: A serialized ONNX graph.
        images: The batch.
        options: OpenVINO's options.
        core: OpenVINO's core.
        plugin: OpenVINO's name of the device.
    """

    def __init__(
        self, graph: bytes, images: "Tensor | Array", *, options: Mapping[str, object], core: Any, plugin: str = "CPU"
    ) -> None:
        openvino = import_openvino()

        release_free_memory()
        before = resident_mb()
        on_cpu = plugin == "CPU"
        self._threads = int(str(options.get("INFERENCE_NUM_THREADS", 1)))
        compiled = core.compile_model(core.read_model(graph), plugin, dict(options))
        require_in_effect(compiled, options)
        self._request: Any = compiled.create_infer_request()
        self._images = np.ascontiguousarray(np.asarray(images))  # the tensor shares its memory
        self._request.set_input_tensor(openvino.Tensor(self._images, shared_memory=True))
        self._run()
        release_free_memory()
        after = resident_mb()
        self._memory_mb = None if before is None or after is None or not on_cpu else after - before
        self._clock: Clock = cpu_clock() if on_cpu else "wall"

    def run_once(self) -> Sample:
        """Run the batch once."""
        return run_timed(self._run, threads=self._threads, clock=self._clock)

    def outputs(self) -> Array:
        """Return the logits of the batch."""
        self._run()
        return np.array(self._request.get_output_tensor(0).data, np.float32)

    def memory_mb(self) -> float | None:
        """Return the growth of the process by the session and its first run; None for the memory of other devices."""
        return self._memory_mb

    def close(self) -> None:
        """Release the compiled network."""
        del self._request, self._images

    def _run(self) -> None:
        # The synchronous call: with one thread, the calling thread itself does the work. The logits are not copied.
        self._request.infer(share_outputs=True)


class OpenVinoRunner:
    """OpenVINO on one device, with one stream and no fallback to another device.

    Args:
        find_cpu: Returns the CPU of this machine; tests replace it.
        make_core: Creates OpenVINO's core, or returns None if it is not installed; tests replace it.
        environ: Environment variables.
    """

    name = "openvino"
    lowers_precision = True
    """A float32 graph is lowered to a floating-point precision by a hint."""

    def __init__(
        self,
        *,
        find_cpu: Callable[[], Cpu] | None = None,
        make_core: Callable[[], Any] = openvino_core,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._find_cpu = find_cpu or this_cpu
        self._make_core = make_core
        self._environ = environ

    def available(self, device: Device) -> Availability:
        """Check if OpenVINO is installed and sees the device."""
        if device.kind != "cpu" and device.vendor != "intel":
            reason = f"openvino runs on CPUs and on Intel's GPUs and NPUs, not on {device.name}"
            return Availability(available=False, reason=reason)
        core = self._make_core()
        if core is None:
            return Availability(available=False, reason="openvino is not installed", extra=_EXTRA)
        limit = self._environ.get(ISA_LIMIT, "ALL").upper()
        if device.kind == "cpu" and limit not in ("", "ALL", "DEFAULT"):
            # OpenVINO chooses kernels by the CPU, which its copy of oneDNN then refuses to build.
            reason = f"openvino cannot compile networks with {ISA_LIMIT}={limit}, which limits oneDNN alone"
            return Availability(available=False, reason=reason)
        if _plugin(core, device) is None:
            seen = ", ".join(core.available_devices) or "none"
            return Availability(available=False, reason=f"openvino does not see {device.name} (it sees {seen})")
        return AVAILABLE

    def supports(self, setting: Setting) -> Availability:
        """Check if the device computes in the precision, without emulating it."""
        kind = device_of(setting).kind
        if setting.precision not in PRECISIONS[kind]:
            reason = f"openvino runs {', '.join(PRECISIONS[kind])} on {setting.device}, not {setting.precision}"
            return Availability(available=False, reason=reason)
        if kind == "cpu" and setting.precision == "bf16" and not self._find_cpu().has_bf16:
            reason = f"{setting.device} has no bf16 instructions: bf16 would be emulated and slow; fp32 is faster"
            return Availability(available=False, reason=reason)
        return AVAILABLE

    def prepare(self, module: "nn.Module", images: "Tensor", setting: Setting) -> OpenVinoSession:
        """Export a module to a graph, and compile it in the precision."""
        return self.load(self.graph(module, images, setting), images.numpy(), setting)

    def graph(self, module: "nn.Module", images: "Tensor", setting: Setting) -> bytes:
        """Export a module to a float32 graph, or one with quantised products."""
        from hwnas.profile.runners.preparation import onnx_graph  # needs torch

        return onnx_graph(module, images, setting, precision="int8" if setting.precision == "int8" else "fp32")

    def load(self, graph: bytes, images: Array, setting: Setting) -> OpenVinoSession:
        """Compile a graph in the precision."""
        core, plugin = self._core_and_plugin(setting)
        return OpenVinoSession(graph, images, options=self._options(setting), core=core, plugin=plugin)

    def compile(self, module: "nn.Module", images: "Tensor", setting: Setting) -> Any:
        """Compile a module as `prepare` does, and return OpenVINO's compiled network."""
        core, plugin = self._core_and_plugin(setting)
        graph = self.graph(module, images, setting)
        return core.compile_model(core.read_model(graph), plugin, self._options(setting))

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions, the name of the device, and the options that are in effect there."""
        openvino = import_openvino()

        core, plugin = self._core_and_plugin(setting)
        options = self._options(setting)
        compiled = core.compile_model(_probe(8), plugin, options)
        require_in_effect(compiled, options)
        on_cpu = {"cpu_pinning": "false", "clock": cpu_clock()} if plugin == "CPU" else {}
        return {
            "openvino": openvino.__version__,
            "device": str(core.get_property(plugin, "FULL_DEVICE_NAME")),
            "precision": _shown(compiled.get_property("INFERENCE_PRECISION_HINT")),
            "streams": _shown(compiled.get_property("NUM_STREAMS")),
            "performance_hint": "latency",
            **on_cpu,
            **quantisation_facts(setting),
        }

    def _core_and_plugin(self, setting: Setting) -> tuple[Any, str]:
        device, core = device_of(setting), self._make_core()
        plugin = None if core is None else _plugin(core, device)
        if plugin is None:
            raise MissingError(f"openvino must see {device.name}", got="no such device", hint="hwnas doctor")
        return core, plugin

    def _options(self, setting: Setting) -> dict[str, object]:
        if device_of(setting).kind != "cpu":
            return {"INFERENCE_PRECISION_HINT": _HINTS.get(setting.precision, "f16"), "PERFORMANCE_HINT": "LATENCY"}
        rest = "bf16" if self._find_cpu().has_bf16 else "f32"
        return {
            "INFERENCE_PRECISION_HINT": _HINTS.get(setting.precision, rest),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": setting.threads,
            # Pinned threads cannot leave a core that another process takes.
            "ENABLE_CPU_PINNING": False,
        }


@functools.cache
def cpu_clock() -> Clock:
    """Return the clock of runs on one thread of a CPU, which is found out once in a process."""
    core: Any = openvino_core()
    if core is None:
        return "thread"
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(_probe(_CLOCK_SIZE), "CPU", options).create_infer_request()

    def run() -> None:
        for _ in range(_CLOCK_RUNS):
            request.infer()

    run()
    return working_clock(run)


def require_in_effect(compiled: Any, options: Mapping[str, object]) -> None:
    """Require that a compiled network runs with its options: OpenVINO replaces some of them without an error.

    Raises:
        MissingError: One of `_IN_EFFECT` has another value.
    """
    for name in filter(options.__contains__, _IN_EFFECT):
        found = _shown(compiled.get_property(name))
        if found != str(options[name]):
            message = f"openvino must compile with {name}={options[name]} on this device"
            raise MissingError(message, got=found, hint="another --precision or --threads")


def _plugin(core: Any, device: Device) -> str | None:
    """OpenVINO's name of a device; None if it does not see it."""
    if device.kind == "cpu":
        return "CPU" if "CPU" in core.available_devices else None
    return next((item.plugin for item in accelerators(core) if item.device.name == device.name), None)


def _shown(value: Any) -> str:
    """The text of a property; types of elements have names."""
    return str(value.get_type_name()) if hasattr(value, "get_type_name") else str(value)


def _probe(size: int) -> Any:
    """A network of one product of squares."""
    openvino = import_openvino()
    opset13 = openvino.opset13

    images = opset13.parameter([size, size], openvino.Type.f32)
    weights = opset13.constant(np.ones((size, size), np.float32))
    return openvino.Model([opset13.matmul(images, weights, False, False)], [images], "probe")
