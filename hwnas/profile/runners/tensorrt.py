"""Run networks by TensorRT: each engine is captured once as a CUDA graph, replayed, and timed by CUDA events.

Engines are strongly typed with TensorRT 10 and 11 alike: the precision is that of the ONNX graph. `HWNAS_TIMING_CACHE`
names a file of kernel timings that builds share, and `HWNAS_TIMING_CACHE_USE` how they use it ('extend', 'read' or
'pinned'). Without it, each build times its kernels again.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.errors import HwnasError
from hwnas.export.tensorrt import (
    EngineSettings,
    GpuFacts,
    TensorRtError,
    TimingCache,
    build_engine,
    gpu_facts,
    load_tensorrt,
)
from hwnas.export.tensorrt.execution import Cuda, Execution, TorchCuda
from hwnas.export.tensorrt.settings import EnginePrecision
from hwnas.export.tensorrt.timing_cache import read_timing_cache, sha256, timing_cache_from_environment
from hwnas.profile.runners.cuda import CudaClock, cuda_available
from hwnas.profile.runners.preparation import DTYPES, device_of, onnx_graph
from hwnas.profile.runners.runner import AVAILABLE, Availability, MeasurementError, Sample
from hwnas.records import Reason, Setting

_EXTRA = "tensorrt"
_REASONS: Mapping[str, Reason] = {"unsupported": "unsupported", "memory": "memory", "build": "export"}


class Clock(Protocol):
    """Times work on the current stream."""

    def time(self, run: Callable[[], object]) -> Sample:
        """Run, wait until the work is done and return its times."""

    def time_queued(
        self, run: Callable[[], object], *, runs: int, delay_ns: int, while_running: Callable[[], object]
    ) -> Sample:
        """Queue several runs, wait until all are done and return the mean times of one."""


class TensorRtSession:
    """An engine for one batch."""

    def __init__(self, execution: Execution, *, cuda: Cuda, clock: Clock) -> None:
        self._execution = execution
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

    name = "tensorrt"

    def __init__(
        self,
        *,
        make_cuda: Callable[[], Cuda] = TorchCuda,
        make_clock: Callable[[], Clock] = CudaClock,
        find_gpu: Callable[[], GpuFacts] = gpu_facts,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._make_cuda = make_cuda
        self._make_clock = make_clock
        self._find_gpu = find_gpu
        self._environ = environ

    def available(self, device: Device) -> Availability:
        """Check if TensorRT can be loaded and torch sees the GPU."""
        if not device.has_cuda:
            return Availability(available=False, reason="TensorRT needs an NVIDIA GPU")
        if find_spec("tensorrt") is None:
            return Availability(available=False, reason="tensorrt is not installed", extra=_EXTRA)
        try:
            load_tensorrt()
        except HwnasError as error:
            reason = f"{error.message}: {error.got}"
            return Availability(available=False, reason=reason, extra=_EXTRA)
        return cuda_available(device)

    def supports(self, setting: Setting) -> Availability:
        """Check if TensorRT supports the precision on the device."""
        if device_of(setting).kind == "cpu":
            return Availability(available=False, reason="TensorRT needs an NVIDIA GPU")
        if setting.precision in DTYPES:
            return AVAILABLE
        reason = f"tensorrt runs {', '.join(DTYPES)}, not {setting.precision}"
        return Availability(available=False, reason=reason)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TensorRtSession:
        """Build an engine for this batch and capture a run of it."""
        graph = onnx_graph(module, images, setting)
        try:
            built = build_engine(graph, self._settings(setting), gpu=self._find_gpu())
            cuda = self._make_cuda()
            execution = Execution(built.engine, images, cuda=cuda)
        except TensorRtError as error:
            message = error.message if error.got is None else f"{error.message}: {error.got}"
            raise MeasurementError(_REASONS[error.kind], message, hint=error.hint) from error
        return TensorRtSession(execution, cuda=cuda, clock=self._make_clock())

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions, the GPU, and the settings of the engine builder."""
        settings, gpu = self._settings(setting), self._find_gpu()
        return {
            "tensorrt": str(load_tensorrt().__version__),
            "torch": torch.__version__,
            "cuda": gpu.cuda,
            "driver": gpu.driver,
            "gpu": gpu.reported,
            "compute_capability": gpu.compute_capability,
            "typing": settings.typing,
            "optimization_level": str(settings.optimization_level),
            "timing_cache": _cache_fact(settings.timing_cache),
        }

    def _settings(self, setting: Setting) -> EngineSettings:
        return EngineSettings(
            precision=cast("EnginePrecision", setting.precision),
            batch=setting.batch,
            timing_cache=timing_cache_from_environment(self._environ),
        )


def _cache_fact(cache: TimingCache | None) -> str:
    if cache is None:
        return "none"
    # A cache that builds extend has another hash after each of them, which would split a campaign into many
    # environments. Only a fixed cache is identified by its hash.
    data = None if cache.use == "extend" else read_timing_cache(cache)
    return cache.use if data is None else f"{cache.use} sha256:{sha256(data)}"
