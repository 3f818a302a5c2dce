"""What the runners on an NVIDIA GPU share: device events, memory, facts."""

import time
from collections.abc import Callable, Mapping

import torch

from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample


class CudaClock:
    """Times work on the current stream by the device's own events."""

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def time(self, run: Callable[[], object]) -> Sample:
        """Run and wait; wall time holds launch and wait, device time only what the device did."""
        torch.cuda.synchronize()
        wall = time.perf_counter_ns()
        self._start.record()
        run()
        self._end.record()
        self._end.synchronize()
        wall = time.perf_counter_ns() - wall
        return Sample(wall_ns=wall, device_ns=round(self._start.elapsed_time(self._end) * 1e6))


class CudaMemory:
    """Memory that torch's allocator gives from here on."""

    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated()

    def during(self, run: Callable[[], object]) -> float:
        """The most that is held while `run` runs, beyond what was held before."""
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - self._before) / 1e6


def cuda_available() -> Availability:
    """Whether torch sees a GPU."""
    if torch.cuda.is_available():
        return AVAILABLE
    build = "a build without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    return Availability(available=False, reason=f"torch {torch.__version__} ({build}) sees no GPU here")


def cuda_facts() -> Mapping[str, str]:
    """What decides the speed of torch's kernels."""
    found = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
