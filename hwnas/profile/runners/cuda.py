"""Shared by runners on NVIDIA GPUs: timing by device events, memory, and the state of the GPU by NVML."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample
from hwnas.records import DeviceState

THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of NVML's clocks event reasons: why clocks are lower than they could be."""

_NOT_RECORDED = "clocks, temperature, throttling and energy are not recorded: {}; try pip install 'hwnas[gpu]'"

_CYCLES_PER_NS = 3
"""Cycles of the GPU's clock in a nanosecond, at most: below 3 GHz a delay is longer than requested, never shorter."""

_ENERGY_S = 1.0
"""Time over which energy is measured: the counter advances in steps of tens of milliseconds."""


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


def cuda_available() -> Availability:
    """Check if torch sees a GPU."""
    if torch.cuda.is_available():
        return AVAILABLE
    build = "a build without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    return Availability(available=False, reason=f"torch {torch.__version__} ({build}) finds no GPU on this machine")


def cuda_facts() -> Mapping[str, str]:
    """Return versions and switches that affect the speed of torch's kernels."""
    facts = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


class Nvml:
    """Clocks, temperature, power, throttling and energy of one GPU, by NVIDIA's management library.

    Args:
        library: The module `pynvml`.
        uuid: The GPU.
    """

    def __init__(self, library: Any, uuid: str) -> None:
        self._nvml = library
        library.nvmlInit()
        self._handle = library.nvmlDeviceGetHandleByUUID(uuid)

    def state(self) -> DeviceState:
        """Return the current state of the GPU."""
        nvml, handle = self._nvml, self._handle
        power = self._query(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        query_reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        query_reasons = query_reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons  # the older name
        reasons = int(self._query(lambda: query_reasons(handle)) or 0)
        return DeviceState(
            clock_mhz=self._query(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=self._query(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=self._query(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=None if power is None else power / 1e3,
            throttle=tuple(name for bit, name in THROTTLE_REASONS.items() if reasons & bit),
        )

    def energy_j(self, run: Callable[[], object]) -> float | None:
        """Return the energy of one run, by running for about a second; None if the GPU has no energy counter."""
        before = self._energy_mj()
        if before is None:
            return None
        runs, end = 0, time.perf_counter() + _ENERGY_S
        while time.perf_counter() < end:
            run()
            runs += 1
        after = self._energy_mj()
        return None if after is None else (after - before) / 1e3 / runs

    def close(self) -> None:
        """Release the library."""
        self._nvml.nvmlShutdown()

    def _energy_mj(self) -> float | None:
        return self._query(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def _query(self, query: Callable[[], Any]) -> float | None:
        """The result of a query; None if this GPU or driver does not support it."""
        try:
            return float(query())
        except self._nvml.NVMLError:
            return None


def open_nvml(uuid: str) -> tuple[Nvml | None, str]:
    """Open NVML for a GPU.

    Returns:
        The GPU, or None and a note on what is not recorded and why.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, _NOT_RECORDED.format("pynvml is not installed")
    try:
        return Nvml(pynvml, uuid), ""
    except pynvml.NVMLError as error:
        return None, _NOT_RECORDED.format(f"NVML returned {error}")
