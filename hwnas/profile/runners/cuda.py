"""Shared by runners on NVIDIA GPUs: timing by device events, and memory."""

import re
import time
from collections.abc import Callable, Mapping

import torch

from hwnas.devices import Device
from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample, needs_cuda

_CYCLES_PER_NS = 3
"""Cycles of the GPU's clock in a nanosecond, at most: below 3 GHz a delay is longer than requested, never shorter."""


class CudaClock:
    """Times work on the current stream by CUDA events."""

    def __init__(self) -> None:
        self._idle = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def time(self, run: Callable[[], object]) -> Sample:
        """Run, wait until the work is done and return its times.

        The GPU itself stamps the events when it reaches them in the stream. Device time is thus free of the launch and
        of the wake-up of the waiting host thread, which wall time includes.
        """
        torch.cuda.synchronize()  # earlier work must not delay the first event
        wall = time.perf_counter_ns()
        self._start.record()
        run()
        self._end.record()
        self._end.synchronize()
        wall = time.perf_counter_ns() - wall
        return Sample(wall_ns=wall, device_ns=_elapsed_ns(self._start, self._end))

    def time_queued(
        self,
        run: Callable[[], object],
        *,
        runs: int = 1,
        delay_ns: int = 0,
        while_running: Callable[[], object] = lambda: None,
    ) -> Sample:
        """Queue several runs between two events, wait until all are done and return the mean times of one.

        An idle GPU reaches the first event at once and then waits for the launch. Behind a delay it finds the event and
        the first run in the queue, as if it had been busy before, and the time between the events is its own alone.

        Args:
            run: Queues one run.
            runs: Number of runs.
            delay_ns: Time for which the GPU spins before the first event; 0: it starts at once.
            while_running: Called when all runs are queued, before waiting for them.
        """
        torch.cuda.synchronize()
        wall = time.perf_counter_ns()
        self._idle.record()
        if delay_ns:
            torch.cuda._sleep(delay_ns * _CYCLES_PER_NS)  # type: ignore[no-untyped-call]
        self._start.record()
        host = time.perf_counter_ns()
        for _ in range(runs):
            run()
        host = time.perf_counter_ns() - host
        self._end.record()
        while_running()
        self._end.synchronize()
        wall = time.perf_counter_ns() - wall
        if delay_ns:
            wall = max(runs, wall - _elapsed_ns(self._idle, self._start))
        return Sample(
            wall_ns=wall // runs, device_ns=_elapsed_ns(self._start, self._end) // runs, host_ns=max(1, host // runs)
        )


def _elapsed_ns(start: torch.cuda.Event, end: torch.cuda.Event) -> int:
    elapsed_ms: float = start.elapsed_time(end)
    return round(elapsed_ms * 1e6)


class CudaMemory:
    """Memory that torch's allocator provides from the creation of this object on."""

    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated()

    def during(self, run: Callable[[], object]) -> float:
        """Return the peak memory during a run, in MB beyond what was allocated at creation."""
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - self._before) / 1e6


def cuda_available(device: Device) -> Availability:
    """Check if a device is a GPU of NVIDIA, and torch sees one and has kernels for it."""
    if not device.has_cuda:
        return needs_cuda(device)
    if torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        architectures = tuple(torch.cuda.get_arch_list())
        if not unsupported_capability(capability, architectures):
            return AVAILABLE
        reason = f"torch {torch.__version__} has no kernels for compute capability {capability} of {device.name}"
        return Availability(available=False, reason=f"{reason}, but for {', '.join(architectures)}")
    build = "a build without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    reason = f"torch {torch.__version__} ({build}) finds no GPU on this machine"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:  # its first sentence says why, such as a driver that is too old
        reason += f": {str(error).partition('. ')[0].splitlines()[0]}"
    return Availability(available=False, reason=reason)


def unsupported_capability(capability: str, architectures: tuple[str, ...]) -> bool:
    """Return True if no kernel for these architectures runs on a GPU.

    Machine code (`sm_86`) runs on its own major version from its minor version on, that of one chip alone (`sm_90a`)
    on this one; portable code (`compute_90`) runs on it and all later ones.

    Args:
        capability: Compute capability of the GPU, such as '8.9'.
        architectures: As of `torch.cuda.get_arch_list()`.
    """
    major, minor = (int(part) for part in capability.split("."))
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if found is None:
            return False  # an architecture of another vendor, or of a form that is not known here
        own = (int(found.group(2)), int(found.group(3)))
        if found.group(4) == "a":
            runs = own == (major, minor)
        elif found.group(1) == "compute":
            runs = own <= (major, minor)
        else:
            runs = own[0] == major and own[1] <= minor
        if runs:
            return False
    return bool(architectures)


def cuda_facts() -> Mapping[str, str]:
    """Return versions and switches that affect the speed of torch's kernels."""
    facts = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
