"""Run networks by TensorRT or TensorRT for RTX: each engine is captured as a CUDA graph, replayed, and timed by events.

Engines are strongly typed in both: the precision is that of the ONNX graph.

TensorRT chooses kernels by timing them while it builds. Builds share a file of these timings, one in the cache of hwnas
for each GPU model and version; `HWNAS_TIMING_CACHE` names another file ('none' for no sharing), and
`HWNAS_TIMING_CACHE_USE` how it is used ('extend', 'read' or 'pinned').

TensorRT for RTX builds for the compute capability of the GPU and compiles kernels when an engine is loaded. Both are
part of preparing a network, and none of it is timed.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.errors import HwnasError
from hwnas.export.tensorrt import (
    EngineSettings,
    GpuFacts,
    LibraryName,
    TensorRtError,
    TimingCache,
    build_engine,
    gpu_facts,
    load_tensorrt,
)
from hwnas.export.tensorrt.execution import Cuda, Execution, TorchCuda
from hwnas.export.tensorrt.library import LIBRARIES, known_compute_capabilities
from hwnas.export.tensorrt.settings import EnginePrecision, has_fp8
from hwnas.export.tensorrt.timing_cache import choose_timing_cache, read_timing_cache, sha256
from hwnas.files import write_atomic
from hwnas.profile.runners.cuda import CudaClock, cuda_available
from hwnas.profile.runners.preparation import DTYPES, onnx_graph
from hwnas.profile.runners.runner import AVAILABLE, Array, Availability, MeasurementError, Sample, progress_callback
from hwnas.profile.runners.this_machine import device_of, quantisation_facts
from hwnas.records import Reason, Setting

REASONS: Mapping[str, Reason] = {"unsupported": "unsupported", "memory": "memory", "crash": "crash", "build": "export"}
"""Under which reason a failure of TensorRT is recorded, by its kind."""


class DeviceClock(Protocol):
    """Times work on the current stream."""

    def time(self, run: Callable[[], object]) -> Sample:
        """Run, wait until the work is done and return its times."""

    def time_queued(
        self, run: Callable[[], object], *, runs: int, delay_ns: int, while_running: Callable[[], object]
    ) -> Sample:
        """Queue several runs, wait until all are done and return the mean times of one."""


class TensorRtSession:
    """An engine for one batch."""

    def __init__(self, execution: Execution, *, engine: bytes, cuda: Cuda, clock: DeviceClock) -> None:
        self._execution = execution
        self._engine = engine
        self._cuda = cuda
        self._clock = clock

    def run_once(self) -> Sample:
        """Replay the captured engine once."""
        with self._cuda.current():
            return self._clock.time(self._execution.launch)

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        """Queue several replays of the captured engine, and wait for them."""
        with self._cuda.current():
            return self._clock.time_queued(
                self._execution.launch, runs=runs, delay_ns=delay_ns, while_running=while_running
            )

    def save_engine(self, path: Path) -> None:
        """Write the serialized engine."""
        write_atomic(path, self._engine)

    def outputs(self) -> Tensor:
        """Return the logits of the batch."""
        return self._execution.logits()

    def memory_mb(self) -> float | None:
        """Return the memory of weights, scratch, images and logits, as TensorRT reports it."""
        return self._execution.memory_mb()

    def close(self) -> None:
        """Release the engine."""
        self._execution.close()


class TensorRtRunner:
    """TensorRT 10 or 11 on an NVIDIA GPU; tests replace what needs one."""

    name: LibraryName = "tensorrt"
    """The runtime, which is also the library and its extra."""

    def __init__(
        self,
        *,
        make_cuda: Callable[[], Cuda] = TorchCuda,
        make_clock: Callable[[], DeviceClock] = CudaClock,
        find_gpu: Callable[[], GpuFacts] = gpu_facts,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._library = LIBRARIES[self.name]
        self._make_cuda = make_cuda
        self._make_clock = make_clock
        self._find_gpu = find_gpu
        self._environ = environ

    def available(self, device: Device) -> Availability:
        """Check if the library can be loaded, supports the GPU, and torch sees one."""
        if not device.has_cuda:
            return self._needs_gpu()
        if find_spec(self._library.module) is None:
            return Availability(available=False, reason=f"{self.name} is not installed", extra=self.name)
        try:
            library = load_tensorrt(self.name)
        except HwnasError as error:
            reason = f"{error.message}: {error.got}"
            return Availability(available=False, reason=reason, extra=self.name)
        unsupported = self._unsupported_capability(library, device)
        if unsupported:
            return Availability(available=False, reason=unsupported)
        return cuda_available(device)

    def supports(self, setting: Setting) -> Availability:
        """Check if the library supports the precision on the device."""
        if device_of(setting).kind == "cpu":
            return self._needs_gpu()
        capability = device_of(setting).compute_capability
        if setting.precision == "fp8" and capability is not None and not has_fp8(capability):
            reason = (
                f"{setting.device} has no units for fp8, which came with compute capability 8.9; it has {capability}"
            )
            return Availability(available=False, reason=reason)
        supported = (*DTYPES, "int8", "fp8")
        if setting.precision in supported:
            return AVAILABLE
        reason = f"{self.name} runs {', '.join(supported)}, not {setting.precision}"
        return Availability(available=False, reason=reason)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TensorRtSession:
        """Build an engine for this batch and capture a run of it."""
        return self.load(self.graph(module, images, setting), images.numpy(), setting)

    def graph(self, module: nn.Module, images: Tensor, setting: Setting) -> bytes:
        """Export a module to the graph of a setting."""
        return onnx_graph(module, images, setting, int8_rest="fp16")

    def load(self, graph: bytes, images: Array, setting: Setting) -> TensorRtSession:
        """Build an engine from a graph for this batch and capture a run of it."""
        on_progress = progress_callback()
        on_progress()
        try:
            built = build_engine(graph, self._settings(setting), gpu=self._find_gpu(), on_progress=on_progress)
            cuda, batch = self._make_cuda(), torch.from_numpy(images)
            execution = Execution(built.engine, batch, cuda=cuda, library=self.name, on_progress=on_progress)
        except TensorRtError as error:
            message = error.message if error.got is None else f"{error.message}: {error.got}"
            raise MeasurementError(REASONS[error.kind], message, hint=error.hint) from error
        return TensorRtSession(execution, engine=built.engine, cuda=cuda, clock=self._make_clock())

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions, the GPU, and the settings of the engine builder."""
        settings, gpu = self._settings(setting), self._find_gpu()
        facts = {
            self.name: str(load_tensorrt(self.name).__version__),
            "torch": torch.__version__,
            "cuda": gpu.cuda,
            "driver": gpu.driver,
            "gpu": gpu.reported,
            "compute_capability": gpu.compute_capability,
            "typing": settings.typing,
            "optimization_level": str(settings.optimization_level),
            **quantisation_facts(setting),
        }
        if not self._library.is_portable:
            facts["timing_cache"] = _cache_fact(settings.timing_cache)
        return facts

    def _needs_gpu(self) -> Availability:
        return Availability(available=False, reason=f"{self._library.label} needs an NVIDIA GPU")

    def _unsupported_capability(self, library: object, device: Device) -> str | None:
        """Return why the library builds no engines for a GPU; None if it does, or if its capability is not known."""
        known = known_compute_capabilities(library) if self._library.is_portable else {}
        capability = device.compute_capability
        if capability is None or not known or capability in known:
            return None
        return (
            f"{self._library.label} builds for compute capabilities {', '.join(known)}, "
            f"and {device.name} has {capability}"
        )

    def _settings(self, setting: Setting) -> EngineSettings:
        cache = None
        if not self._library.is_portable:
            version = str(load_tensorrt(self.name).__version__)
            cache = choose_timing_cache(version=version, gpu=self._find_gpu(), environ=self._environ)
        return EngineSettings(
            library=self.name,
            precision=cast("EnginePrecision", setting.precision),
            batch=setting.batch,
            timing_cache=cache,
        )


class TensorRtRtxRunner(TensorRtRunner):
    """TensorRT for RTX on a GeForce or RTX GPU."""

    name = "tensorrt-rtx"


def _cache_fact(cache: TimingCache | None) -> str:
    if cache is None:
        return "none"
    # A cache that builds extend has another hash after each of them, which would split a campaign into many
    # environments. Only a fixed cache is identified by its hash.
    data = None if cache.use == "extend" else read_timing_cache(cache)
    return cache.use if data is None else f"{cache.use} sha256:{sha256(data)}"
