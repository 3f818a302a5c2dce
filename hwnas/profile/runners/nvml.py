"""The state of an NVIDIA GPU by NVML: clocks, temperature, power, throttling and energy. No torch."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of NVML's clocks event reasons: why clocks are lower than they could be."""

_NOT_RECORDED = "clocks, temperature, throttling and energy are not recorded: {}; try pip install 'hwnas[gpu]'"

_POLICIES = {
    "sw_power_cap": "POWER",
    "sw_thermal_slowdown": "THERMAL",
    "sync_boost": "SYNC_BOOST",
    "board_limit": "BOARD_LIMIT",
    "reliability": "RELIABILITY",
}
"""NVML's counters of the time in which a limit held the clocks down, by throttle reason."""

_NO_ENERGY = "energy is not recorded: this GPU has no energy counter, which came with Volta"

_OF_WHOLE_GPU = "energy, power and limits are not recorded: they are those of the whole GPU, and this is a slice of it"

_ENERGY_S = 3.0
"""Time over which energy is measured, at least. Some sensors look at the power for 25 ms in 100 (A100, H100)."""

_TICK_S = 1.0
"""Time in which the energy counter must advance under load."""

_WORKER = b"hwnas.profile.worker_process"


class Nvml:
    """Clocks, temperature, power, throttling and energy of one GPU, by NVIDIA's management library.

    Args:
        library: The module `pynvml`.
        uuid: The GPU, or a slice of it (`MIG-...`), of which only clocks, temperature and processes are recorded.
    """

    def __init__(self, library: Any, uuid: str) -> None:
        self._nvml = library
        self._is_slice = uuid.startswith("MIG-")
        library.nvmlInit()
        self._handle = library.nvmlDeviceGetHandleByUUID(uuid)

    def state(self) -> DeviceState:
        """Return the current state of the GPU."""
        nvml, handle = self._nvml, self._handle
        power = None if self._is_slice else self._query(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        query_reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        query_reasons = query_reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons  # the older name
        reasons = 0 if self._is_slice else int(self._query(lambda: query_reasons(handle)) or 0)
        return DeviceState(
            clock_mhz=self._query(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=self._query(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=self._query(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=None if power is None else power / 1e3,
            power_limit_w=self._power_limit_w("nvmlDeviceGetEnforcedPowerLimit"),
            other_processes=self._other_processes(),
            throttle=tuple(name for bit, name in THROTTLE_REASONS.items() if reasons & bit),
        )

    def facts(self) -> Mapping[str, str]:
        """Return the settings of the GPU that limit its speed. NVML can set locked clocks, but not report them."""
        nvml, handle = self._nvml, self._handle
        limit = self._power_limit_w("nvmlDeviceGetPowerManagementLimit")
        clock = self._query(lambda: nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_SM))
        facts = {"power_limit_w": limit, "application_clock_mhz": clock}
        return {name: f"{value:g}" for name, value in facts.items() if value is not None}

    def note(self) -> str:
        """Return a note on what this GPU does not report; empty if it reports everything."""
        if self._is_slice:
            return _OF_WHOLE_GPU
        return _NO_ENERGY if self._energy_mj() is None else ""

    def limits_ns(self) -> Mapping[str, float]:
        """Return the time in which each limit has held the clocks down since the driver was loaded.

        The throttle reasons of a state are those of a moment. What happened between two moments, such as power capping
        while a network ran, is the difference of these counters.
        """
        if self._is_slice:
            return {}
        times = {reason: self._limit_ns(policy) for reason, policy in _POLICIES.items()}
        return {reason: ns for reason, ns in times.items() if ns is not None}

    def energy_j(self, run: Callable[[], object], *, runs: int = 1) -> float | None:
        """Measure the energy of one run, over at least three seconds from one tick of the counter to another.

        Args:
            run: Does several runs, which should take tens of milliseconds.
            runs: Number of runs that `run` does.

        Returns:
            The energy in joules; None if the GPU has no energy counter, or if it does not advance.
        """
        start = self._next_tick(run)
        if start is None:
            return None
        first_mj, begin, calls = start[0], time.perf_counter(), 0
        while time.perf_counter() < begin + _ENERGY_S:
            run()
            calls += 1
        end = self._next_tick(run)
        return None if end is None else (end[0] - first_mj) / 1e3 / (runs * (calls + end[1]))

    def close(self) -> None:
        """Release the library."""
        self._nvml.nvmlShutdown()

    def _next_tick(self, run: Callable[[], object]) -> tuple[float, int] | None:
        """Run until the energy counter advances; its value in mJ, and the number of calls of `run`."""
        before, end, calls = self._energy_mj(), time.perf_counter() + _TICK_S, 0
        while before is not None and time.perf_counter() < end:
            run()
            calls += 1
            now = self._energy_mj()
            if now is not None and now > before:
                return now, calls
        return None

    def _limit_ns(self, policy: str) -> float | None:
        nvml, handle = self._nvml, self._handle
        kind = getattr(nvml, f"NVML_PERF_POLICY_{policy}")
        time_ns = self._query(lambda: nvml.nvmlDeviceGetViolationStatus(handle, kind).violationTime)
        if time_ns is not None:
            return time_ns
        # The header of CUDA 13 has only the same counters as fields.
        field = getattr(nvml, f"NVML_FI_DEV_PERF_POLICY_{policy}")
        try:
            (value,) = nvml.nvmlDeviceGetFieldValues(handle, [field])
        except nvml.NVMLError:
            return None
        return float(value.value.ullVal) if value.nvmlReturn == nvml.NVML_SUCCESS else None

    def _power_limit_w(self, function: str) -> float | None:
        limit_mw = None if self._is_slice else self._query(lambda: getattr(self._nvml, function)(self._handle))
        return None if limit_mw is None else limit_mw / 1e3

    def _other_processes(self) -> int | None:
        """Number of processes that are not of hwnas; None if NVML does not see this one, as in most containers."""
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        pids = {int(process.pid) for process in processes}
        return sum(not _is_own(pid) for pid in pids) if os.getpid() in pids else None

    def _energy_mj(self) -> float | None:
        if self._is_slice:
            return None
        return self._query(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def _query(self, query: Callable[[], Any]) -> float | None:
        """The result of a query; None if this GPU or driver does not support it."""
        try:
            return float(query())
        except self._nvml.NVMLError:
            return None


class LimitWatch:
    """Measures for which share of the time from its creation on each limit holds the clocks of a GPU down."""

    def __init__(self, nvml: Nvml | None) -> None:
        self._nvml = nvml
        self._before = {} if nvml is None else nvml.limits_ns()
        self._begin_ns = time.perf_counter_ns()

    def limited(self) -> Mapping[str, float] | None:
        """Return the shares by throttle reason; None if the device does not report them."""
        if self._nvml is None or not self._before:
            return None
        elapsed_ns = time.perf_counter_ns() - self._begin_ns
        differences = {
            reason: after - self._before[reason]
            for reason, after in self._nvml.limits_ns().items()
            if reason in self._before
        }
        return {reason: min(1.0, max(0.0, ns / elapsed_ns)) for reason, ns in differences.items()}


def _is_own(pid: int) -> bool:
    """Return True for this process and for the other workers of its campaign, which wait while this one measures."""
    if pid == os.getpid():
        return True
    folder = Path(f"/proc/{pid}")
    try:
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])  # after the name: state, parent
        return parent == os.getppid() and _WORKER in (folder / "cmdline").read_bytes()
    except (OSError, ValueError, IndexError):  # it has ended, or is not for us to see
        return False


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
