"""Networks run by torch itself, as they are or compiled, on a CPU or a GPU."""

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.devices.memory import peak_mb, release_free_memory, reset_peak, resident_mb
from hwnas.profile.runners.cuda import CudaClock, CudaMemory, cuda_available, cuda_facts
from hwnas.profile.runners.preparation import DTYPES, configure_torch, copy_module, device_of, precision_supported
from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample, run_timed
from hwnas.records import Setting


class TorchSession:
    """A module that torch runs."""

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        release_free_memory()
        self._threads = setting.threads
        self._cuda = device_of(setting).kind == "gpu"
        self._memory = CudaMemory() if self._cuda else None
        self._module: Any = copy_module(module, setting)
        self._images = images.to("cuda" if self._cuda else "cpu", DTYPES[setting.precision])
        self._clock = CudaClock() if self._cuda else None

    def run_once(self) -> Sample:
        """Run the batch once."""
        if self._clock is not None:
            return self._clock.time(self._run)
        return run_timed(self._run, threads=self._threads)

    def outputs(self) -> Tensor:
        """The logits of the batch."""
        return self._run().float().cpu()

    def memory_mb(self) -> float | None:
        """Weights and the most that a run takes; of a GPU what torch's allocator gave."""
        if self._memory is not None:
            return self._memory.during(self._run)
        release_free_memory()
        before, may = resident_mb(), reset_peak()
        self._run()
        after = peak_mb()
        if before is None or after is None or not may:
            return None
        return after - before + _weights_mb(self._module)

    def close(self) -> None:
        """Let go of the module."""
        del self._module, self._images

    def _run(self) -> Tensor:
        with torch.inference_mode():
            output: Tensor = self._module(self._images)
        return output


class TorchCompileSession(TorchSession):
    """A module that torch compiles for one batch shape."""

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        super().__init__(module, images, setting)
        # One function is compiled again for every network; past its limit torch would silently run it uncompiled.
        with torch._dynamo.config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16):
            self._module = torch.compile(self._module, dynamic=False, fullgraph=True)
            self._run()


class TorchRunner:
    """Eager torch."""

    name = "torch"

    def available(self, device: Device) -> Availability:
        """Whether torch can use the device."""
        return cuda_available() if device.kind == "gpu" else AVAILABLE

    def supports(self, setting: Setting) -> Availability:
        """Whether torch has kernels for the precision."""
        return precision_supported(setting)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        """The module's own code, on a copy of it in the precision and on the device."""
        configure_torch(setting)
        return TorchSession(module, images, setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Versions and switches."""
        return {"torch": torch.__version__, **_device_facts(setting)}


class TorchCompileRunner(TorchRunner):
    """torch.compile with its default backend."""

    name = "torch-compile"

    def available(self, device: Device) -> Availability:
        """Whether torch can use the device and has the compiler that it needs."""
        if device.kind == "gpu":
            here = cuda_available()
            missing = Availability(available=False, reason="torch.compile needs Triton, which is not installed")
            return missing if here.available and find_spec("triton") is None else here
        if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
            return AVAILABLE
        return Availability(available=False, reason="torch.compile needs a C++ compiler (g++ or clang++)")

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        """The module compiled for this batch."""
        configure_torch(setting)
        return TorchCompileSession(module, images, setting)


def _device_facts(setting: Setting) -> Mapping[str, str]:
    if device_of(setting).kind == "gpu":
        return cuda_facts()
    return {"torch_cpu": torch.backends.cpu.get_cpu_capability()}


def _weights_mb(module: nn.Module) -> float:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


_RUNS_BEFORE_CAPTURE = 3
"""Libraries choose kernels and take workspaces in their first runs, which a capture does not allow."""


class GraphSession:
    """A module as a CUDA graph of one batch."""

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        memory = CudaMemory()
        self._clock = CudaClock()
        self._module = copy_module(module, setting)
        self._images = images.to("cuda", DTYPES[setting.precision])
        self._graph = torch.cuda.CUDAGraph()
        self._memory_mb = memory.during(self._capture)

    def run_once(self) -> Sample:
        """Replay the graph once."""
        return self._clock.time(self._graph.replay)

    def outputs(self) -> Tensor:
        """The logits of the batch."""
        self._graph.replay()
        torch.cuda.synchronize()
        return self._logits.float().cpu()

    def memory_mb(self) -> float | None:
        """What torch's allocator gave for weights, runs and the graph's own pool."""
        return self._memory_mb

    def close(self) -> None:
        """Let go of the graph and its pool."""
        torch.cuda.synchronize()
        self._graph.reset()
        del self._logits, self._graph, self._images, self._module

    def _capture(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode():
            with torch.cuda.stream(stream):
                for _ in range(_RUNS_BEFORE_CAPTURE):
                    self._module(self._images)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = self._module(self._images)


class TorchGraphRunner:
    """Eager torch kernels in a CUDA graph."""

    name = "torch-graph"

    def available(self, device: Device) -> Availability:
        """Whether torch can use the device, which must be a GPU."""
        if device.kind == "cpu":
            return Availability(available=False, reason="CUDA graphs need an NVIDIA GPU")
        return cuda_available()

    def supports(self, setting: Setting) -> Availability:
        """Whether torch has kernels for the precision on that GPU."""
        if device_of(setting).kind == "cpu":
            return Availability(available=False, reason="CUDA graphs need an NVIDIA GPU")
        return precision_supported(setting)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> GraphSession:
        """The module captured for this batch."""
        configure_torch(setting)
        return GraphSession(module, images, setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Versions and switches."""
        return {"torch": torch.__version__, **cuda_facts()}
