"""Run networks by torch: eagerly or compiled on a CPU or a GPU, or as a CUDA graph."""

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.devices.memory import peak_mb, release_free_memory, reset_peak, resident_mb
from hwnas.errors import InputError
from hwnas.profile.runners.cuda import CudaClock, CudaMemory, cuda_available, cuda_facts
from hwnas.profile.runners.preparation import DTYPES, configure_torch, copy_module, precision_supported
from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample, run_timed
from hwnas.profile.runners.this_machine import device_of
from hwnas.records import Setting

_RUNS_BEFORE_CAPTURE = 3
"""Libraries choose kernels and allocate workspaces in their first runs, which a capture does not allow."""


class TorchSession:
    """A module that torch runs eagerly."""

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

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        """Queue several runs of the batch on a GPU, and wait for them."""
        if self._clock is None:
            raise InputError("runs can only be queued on a GPU")
        return self._clock.time_queued(self._run, runs=runs, delay_ns=delay_ns, while_running=while_running)

    def outputs(self) -> Tensor:
        """Return the logits of the batch."""
        return self._run().float().cpu()

    def memory_mb(self) -> float | None:
        """Return the memory of the weights plus the peak during a run; on a GPU as counted by torch's allocator."""
        if self._memory is not None:
            return self._memory.during(self._run)
        release_free_memory()
        before, was_reset = resident_mb(), reset_peak()
        self._run()
        after = peak_mb()
        if before is None or after is None or not was_reset:
            return None
        return after - before + _weights_mb(self._module)

    def close(self) -> None:
        """Release the module."""
        del self._module, self._images

    def _run(self) -> Tensor:
        with torch.inference_mode():
            output: Tensor = self._module(self._images)
        return output


class TorchCompileSession(TorchSession):
    """A module that torch.compile specializes to one batch."""

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        super().__init__(module, images, setting)
        # All networks of a space share one forward function, so it is compiled again for each of them. Beyond its
        # limit of recompilations torch would silently run it eagerly.
        with torch._dynamo.config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16):
            self._module = torch.compile(self._module, dynamic=False, fullgraph=True)
            self._run()


class GraphSession:
    """A module captured as a CUDA graph for one batch.

    A replay launches all kernels at once. Without it, a small network is bound by the time that Python takes to launch
    them one by one.
    """

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        self._stream = _capture_stream()  # before memory is counted
        memory = CudaMemory()
        self._clock = CudaClock()
        self._module = copy_module(module, setting)
        self._images = images.to("cuda", DTYPES[setting.precision])
        self._graph = torch.cuda.CUDAGraph()
        self._memory_mb = memory.during(self._capture)

    def run_once(self) -> Sample:
        """Replay the graph once."""
        return self._clock.time(self._graph.replay)

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        """Queue several replays of the graph, and wait for them."""
        return self._clock.time_queued(self._graph.replay, runs=runs, delay_ns=delay_ns, while_running=while_running)

    def outputs(self) -> Tensor:
        """Return the logits of the batch."""
        self._graph.replay()
        torch.cuda.synchronize()
        return self._logits.float().cpu()

    def memory_mb(self) -> float | None:
        """Return the memory of weights, runs and the graph's own pool, as counted by torch's allocator."""
        return self._memory_mb

    def close(self) -> None:
        """Release the graph and its pool."""
        torch.cuda.synchronize()
        self._graph.reset()
        del self._logits, self._graph, self._images, self._module

    def _capture(self) -> None:
        # Warm up on a side stream and then capture, as torch's documentation of CUDA graphs requires.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode():
            with torch.cuda.stream(self._stream):
                for _ in range(_RUNS_BEFORE_CAPTURE):
                    self._module(self._images)
            torch.cuda.current_stream().wait_stream(self._stream)
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._logits: Tensor = self._module(self._images)


class TorchRunner:
    """Torch in eager mode."""

    name = "torch"

    def available(self, device: Device) -> Availability:
        """Check if torch can use the device."""
        return AVAILABLE if device.kind == "cpu" else cuda_available(device)

    def supports(self, setting: Setting) -> Availability:
        """Check if torch has kernels for the precision."""
        return precision_supported(setting)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        """Copy a module to the device in the precision."""
        configure_torch(setting)
        return TorchSession(module, images, setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions and switches."""
        gpu = device_of(setting).kind == "gpu"
        device_facts = cuda_facts() if gpu else {"torch_cpu": torch.backends.cpu.get_cpu_capability()}
        return {"torch": torch.__version__, **device_facts}


class TorchCompileRunner(TorchRunner):
    """Torch with torch.compile and its default backend."""

    name = "torch-compile"

    def available(self, device: Device) -> Availability:
        """Check if torch can use the device and has the compiler that it needs."""
        if device.kind != "cpu":
            cuda = cuda_available(device)
            missing = Availability(available=False, reason="torch.compile needs Triton, which is not installed")
            return missing if cuda.available and find_spec("triton") is None else cuda
        if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
            return AVAILABLE
        return Availability(available=False, reason="torch.compile needs a C++ compiler (g++ or clang++)")

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        """Compile a module for this batch."""
        configure_torch(setting)
        return TorchCompileSession(module, images, setting)


class TorchGraphRunner:
    """Torch's eager kernels in a CUDA graph."""

    name = "torch-graph"

    def available(self, device: Device) -> Availability:
        """Check if torch can use the device, which must be a GPU."""
        if not device.has_cuda:
            return Availability(available=False, reason="CUDA graphs need an NVIDIA GPU")
        return cuda_available(device)

    def supports(self, setting: Setting) -> Availability:
        """Check if torch has kernels for the precision on the GPU."""
        if device_of(setting).kind == "cpu":
            return Availability(available=False, reason="CUDA graphs need an NVIDIA GPU")
        return precision_supported(setting)

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> GraphSession:
        """Capture a module for this batch."""
        configure_torch(setting)
        return GraphSession(module, images, setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return versions and switches."""
        return {"torch": torch.__version__, **cuda_facts()}


@functools.cache
def _capture_stream() -> torch.cuda.Stream:
    """The stream of all captures.

    In earlier releases of torch, or with TORCH_CUBLAS_WORKSPACE_CACHE=1, the first product on a stream allocates a
    workspace of cuBLAS (8 MiB, on Hopper 32 MiB) that stays. On a stream of its own, each network's memory would have
    one more until torch runs out of new streams. Here there is one, which no network's memory includes.
    """
    stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        _allocate_workspaces()
    stream.synchronize()
    return stream


def _allocate_workspaces() -> None:
    """Multiply by cuBLAS and by cuBLASLt, which torch uses to add a bias as well."""
    ones = torch.ones(16, 16, device="cuda")
    torch.mm(ones, ones)
    torch.addmm(ones[0], ones, ones)


def _weights_mb(module: nn.Module) -> float:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
