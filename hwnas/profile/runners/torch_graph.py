"""Networks whose kernels are recorded once as a CUDA graph and replayed: no launch overhead of Python."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.profile.runners.cuda import CudaClock, CudaMemory, cuda_available, cuda_facts
from hwnas.profile.runners.prepared import DTYPES, configure, copied, device_of, precision_supported
from hwnas.profile.runners.runner import Availability, Sample
from hwnas.records import Setting

_RUNS_BEFORE_CAPTURE = 3
"""Libraries choose kernels and take workspaces in their first runs, which a capture does not allow."""


class GraphSession:
    """A module as a CUDA graph of one batch."""

    def __init__(self, module: nn.Module, images: Tensor, setting: Setting) -> None:
        memory = CudaMemory()
        self._clock = CudaClock()
        self._module = copied(module, setting)
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
        configure(setting)
        return GraphSession(module, images, setting)

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Versions and switches."""
        return {"torch": torch.__version__, **cuda_facts()}
