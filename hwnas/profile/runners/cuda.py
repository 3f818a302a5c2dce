"""What the runners on an NVIDIA GPU share: device events, memory, facts."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hwnas.profile.runners.runner import AVAILABLE, Availability, Sample
from hwnas.records import DeviceState


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


NOTE = "clocks, temperature, throttling and energy are not recorded: {}; try pip install 'hwnas[gpu]'"

THROTTLE = {
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
"""The bits in which NVML says why clocks are lower than they could be."""

_ENERGY_S = 1.0
"""Runs go on for so long: the counter moves in steps of tens of milliseconds."""


class Nvml:
    """One GPU by its UUID; `library` is the module pynvml."""

    def __init__(self, library: Any, uuid: str) -> None:
        self._nvml = library
        library.nvmlInit()
        self._handle = library.nvmlDeviceGetHandleByUUID(uuid)

    def state(self) -> DeviceState:
        """What the GPU says now."""
        nvml, handle = self._nvml, self._handle
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return DeviceState(
            clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=None if power is None else power / 1e3,
            throttle=self._throttle(),
        )

    def energy_j(self, run: Callable[[], object]) -> float | None:
        """Energy of one run, by running for about a second; None where the GPU does not count it."""
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
        """Let go of the library."""
        self._nvml.nvmlShutdown()

    def _energy_mj(self) -> float | None:
        return self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def _throttle(self) -> tuple[str, ...]:
        nvml = self._nvml
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        ask = ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons  # the older name
        bits = int(self._ask(lambda: ask(self._handle)) or 0)
        return tuple(name for bit, name in THROTTLE.items() if bits & bit)

    def _ask(self, question: Callable[[], Any]) -> float | None:
        """The answer; None where this GPU or this driver cannot tell."""
        try:
            return float(question())
        except self._nvml.NVMLError:
            return None


def open_nvml(uuid: str) -> tuple[Nvml | None, str]:
    """The GPU of that UUID, or None and a note that says what is lost and why."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, NOTE.format("pynvml is not installed")
    try:
        return Nvml(pynvml, uuid), ""
    except pynvml.NVMLError as error:
        return None, NOTE.format(f"NVML answered {error}")
