"""Run networks by ONNX Runtime, on a CPU or a GPU."""

import functools
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hwnas.devices import Device
from hwnas.devices.memory import release_free_memory, resident_mb
from hwnas.errors import MissingError
from hwnas.export.onnxruntime_library import EXACT_INT8, load_onnxruntime
from hwnas.profile.runners.runner import AVAILABLE, Array, Availability, RuntimeSession, Sample, needs_cuda, run_timed
from hwnas.profile.runners.this_machine import device_of, quantisation_facts
from hwnas.records import Setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_QUEUES_SINCE = (1, 28)
"""Versions before it wait for the GPU after each replay of a CUDA graph, whatever a run's options say."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_PRECISIONS = {"cpu": ("fp32", "fp16", "int8", "int8-dynamic"), "gpu": ("fp32", "tf32", "fp16")}
_WITHOUT_BF16 = {
    "cpu": "it has no convolution in bf16 on a CPU",
    "gpu": "on a GPU it has convolutions in bf16 from opset 22 on, and exported graphs have opset 20",
}

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}
"""Names of the types of inputs and outputs in numpy and torch; numpy lacks the last one."""

_ERRORS_ONLY = 3
"""Log severity."""

NO_FALLBACK = "session.disable_cpu_ep_fallback"
"""Option that makes a node without a kernel on the provider an error."""
UNSYNCHRONIZED = "disable_synchronize_execution_providers"
"""Option of a run: return when the work is queued, and not when the GPU has done it."""


class CpuSession:
    """A graph on the CPU provider of ONNX Runtime."""

    def __init__(self, graph: bytes, images: "Tensor | Array", setting: Setting) -> None:
        release_free_memory()
        before = resident_mb()
        self._threads = setting.threads
        self._session = create_session(graph, setting)
        self._feed = cpu_feed(self._session, images)
        self._run()
        release_free_memory()
        after = resident_mb()
        self._memory_mb = None if before is None or after is None else after - before

    def run_once(self) -> Sample:
        """Run the batch once."""
        return run_timed(self._run, threads=self._threads)

    def outputs(self) -> Array:
        """Return the logits of the batch."""
        return np.asarray(self._run()[0], np.float32)

    def memory_mb(self) -> float | None:
        """Return the growth of the process by the session and its first run."""
        return self._memory_mb

    def close(self) -> None:
        """Release the session."""
        del self._session, self._feed

    def _run(self) -> list[Any]:
        outputs: list[Any] = self._session.run(None, self._feed)
        return outputs


class CudaSession:
    """A graph on the CUDA provider of ONNX Runtime, replayed as a CUDA graph; images and logits stay on the device."""

    def __init__(self, graph: bytes, images: "Tensor", setting: Setting) -> None:
        import torch

        from hwnas.profile.runners.cuda import CudaClock

        before = torch.cuda.mem_get_info()[0]
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._clock = CudaClock()
        self._session = create_session(graph, setting, stream=self._stream.cuda_stream)
        self._images = images.to("cuda", _tensor_type(self._session.get_inputs()[0])).contiguous()
        self._logits = self._empty_logits()
        self._binding = self._bind()
        self._options = run_options()
        self._stream.wait_stream(torch.cuda.current_stream())
        self._run()  # ONNX Runtime repeats the first run until it has allocated all memory, and captures it
        torch.cuda.synchronize()
        self._memory_mb = (before - torch.cuda.mem_get_info()[0]) / 1e6

    def run_once(self) -> Sample:
        """Run the batch once."""
        import torch

        with torch.cuda.stream(self._stream):
            return self._clock.time(self._run)

    def outputs(self) -> "Tensor":
        """Return the logits of the batch."""
        import torch

        self._run()
        torch.cuda.synchronize()
        return self._logits.float().cpu()

    def memory_mb(self) -> float | None:
        """Return the drop of the device's free memory by the session and its first run."""
        return self._memory_mb

    def close(self) -> None:
        """Release the session."""
        del self._binding, self._session, self._images, self._logits

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    def _empty_logits(self) -> "Tensor":
        import torch

        logits = self._session.get_outputs()[0]
        _, *rest = logits.shape  # the batch is a name and not a number if it is dynamic
        return torch.empty((len(self._images), *rest), dtype=_tensor_type(logits), device="cuda")

    def _bind(self) -> Any:
        import torch

        types = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}  # numbers of onnx.TensorProto.DataType
        binding = self._session.io_binding()
        for bind, values, tensor in (
            (binding.bind_input, self._session.get_inputs(), self._images),
            (binding.bind_output, self._session.get_outputs(), self._logits),
        ):
            bind(values[0].name, "cuda", 0, types[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        return binding


class QueuedCudaSession(CudaSession):
    """The same in versions of ONNX Runtime that can queue replays."""

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        """Queue several replays of the graph, and wait for them."""
        import torch

        with torch.cuda.stream(self._stream):
            return self._clock.time_queued(self._run, runs=runs, delay_ns=delay_ns, while_running=while_running)


def gpu_session(version: str) -> type[CudaSession]:
    """Return the kind of session on a GPU for a version of ONNX Runtime."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return QueuedCudaSession if numbers >= _QUEUES_SINCE else CudaSession


class OnnxRuntimeRunner:
    """ONNX Runtime with one provider, and no fallback to another."""

    name = "onnxruntime"

    def available(self, device: Device) -> Availability:
        """Check if ONNX Runtime is installed with the provider of the device."""
        if device.kind != "cpu" and not device.has_cuda:
            return needs_cuda(device)
        extra = "gpu" if device.kind == "gpu" else "cpu"
        if find_spec("onnxruntime") is None:
            return Availability(available=False, reason="onnxruntime is not installed", extra=extra)
        try:
            onnxruntime = load_onnxruntime()
        except MissingError as error:
            return Availability(available=False, reason=f"{error.message}: {error.got}")
        wanted, present = CUDA if device.kind == "gpu" else CPU, onnxruntime.get_available_providers()
        if wanted not in present:
            reason = f"onnxruntime {onnxruntime.__version__} has no {wanted} (it has {', '.join(present)})"
            return Availability(available=False, reason=reason, extra=extra)
        if device.kind == "cpu":
            return AVAILABLE
        from hwnas.profile.runners.cuda import cuda_available  # needs torch

        return cuda_available(device)

    def supports(self, setting: Setting) -> Availability:
        """Check if the provider has kernels for the precision."""
        supported = _PRECISIONS[device_of(setting).kind]
        if setting.precision in supported:
            return AVAILABLE
        reason = f"onnxruntime runs {', '.join(supported)} on {setting.device}, not {setting.precision}"
        if setting.precision == "bf16":
            reason += f": {_WITHOUT_BF16[device_of(setting).kind]}"
        return Availability(available=False, reason=reason)

    def prepare(self, module: "nn.Module", images: "Tensor", setting: Setting) -> RuntimeSession:
        """Export a module to a graph and load it into a session."""
        return self.load(self.graph(module, images, setting), images.numpy(), setting)

    def graph(self, module: "nn.Module", images: "Tensor", setting: Setting) -> bytes:
        """Export a module to the graph of a setting."""
        from hwnas.profile.runners.preparation import onnx_graph  # needs torch

        return onnx_graph(module, images, setting)

    def load(self, graph: bytes, images: Array, setting: Setting) -> RuntimeSession:
        """Load a graph into a session."""
        if device_of(setting).kind == "cpu":
            return CpuSession(graph, images, setting)
        import torch

        return gpu_session(load_onnxruntime().__version__)(graph, torch.from_numpy(images), setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions, provider and options."""
        import onnxruntime

        gpu = device_of(setting).kind == "gpu"
        facts = {
            "onnxruntime": onnxruntime.__version__,
            "provider": CUDA if gpu else CPU,
            "graph_optimisation": "all",
            "spinning": str(_spins(setting)).lower(),
            **quantisation_facts(setting),
        }
        return {**facts, **_cuda_facts(setting)} if gpu else facts


def _cuda_facts(setting: Setting) -> dict[str, str]:
    import torch

    return {
        "cuda": str(torch.version.cuda),
        "cuda_graph": "true",
        "arena": "as requested",
        "cpu_fallback": "shapes" if _has_open_batch(setting) else "refused",
    }


def create_session(graph: bytes, setting: Setting, *, stream: int | None = None, profile_to: str | None = None) -> Any:
    """Create a session on the provider of the device.

    Args:
        graph: A serialized ONNX graph.
        setting: Device, precision and threads.
        stream: CUDA stream to run on.
        profile_to: Prefix of the name of a file that ONNX Runtime's profiler writes.

    Raises:
        MissingError: ONNX Runtime chose another provider.
    """
    import onnxruntime

    gpu = device_of(setting).kind == "gpu"
    if gpu:
        _preload_cuda()
    provider: Any = (CUDA, _cuda_options(setting, stream)) if gpu else CPU
    options = session_options(setting)
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_to
    # Without enable_fallback=0 an error of a provider is printed, and replaced by that of a second attempt on the CPU.
    session = onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=0)
    require_provider(session.get_providers(), wanted=CUDA if gpu else CPU)
    return session


def cpu_feed(session: Any, images: "Tensor | Array") -> dict[str, Any]:
    """Return images under the name and in the type of a session's input."""
    (value,) = session.get_inputs()
    return {value.name: np.asarray(images, _TYPES[value.type])}


def session_options(setting: Setting) -> Any:
    """Return session options: threads, no spinning, no fallback, exact int8; ONNX Runtime's defaults otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry(EXACT_INT8, "1")
    # A node without a CUDA kernel must not silently be timed on the CPU. Nodes that compute shapes from an open batch
    # always run there; the capture of a CUDA graph then requires that no others do.
    if device_of(setting).kind == "gpu" and not _has_open_batch(setting):
        options.add_session_config_entry(NO_FALLBACK, "1")
    if not _spins(setting):
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def run_options() -> Any:
    """Return options of a run on a GPU, which does not wait for it: the events of the clock do."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry(UNSYNCHRONIZED, "1")
    return options


def require_provider(providers: list[str], *, wanted: str) -> None:
    """Require that a session's first provider is the requested one."""
    if providers[:1] != [wanted]:
        raise MissingError(
            f"onnxruntime must run on {wanted}, but it chose another provider",
            got=", ".join(providers),
            hint="onnxruntime-gpu in the version that fits this machine's CUDA and cuDNN",
        )


def _tensor_type(value: Any) -> "torch.dtype":
    """The torch type of an input or an output of a graph."""
    import torch

    return cast("torch.dtype", getattr(torch, _TYPES[value.type]))


def _spins(setting: Setting) -> bool:
    # By default, a thread that waits for the others spins in a loop. On a machine that is in use, spinning threads take
    # the cores from the ones they wait for. A single thread never waits, so the default does no harm.
    return setting.threads == 1


def _has_open_batch(setting: Setting) -> bool:
    return setting.exporter == "dynamo-dynamic"


def _cuda_options(setting: Setting, stream: int | None) -> dict[str, str]:
    options = {
        "use_tf32": "1" if setting.precision == "tf32" else "0",
        # One launch for all kernels, as in torch-graph.
        "enable_cuda_graph": "1",
        # The default doubles each extension of the arena, which would count as memory of the network.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options if stream is None else {**options, "user_compute_stream": str(stream)}


@functools.cache
def _preload_cuda() -> None:
    """Let ONNX Runtime use the CUDA libraries that are installed with torch."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
