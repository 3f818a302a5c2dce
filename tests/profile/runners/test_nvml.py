"""Readings of a GPU through a stand-in for pynvml with the same names."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwnas.profile.runners.nvml import THROTTLE_REASONS, Nvml, open_nvml
from hwnas.records import DeviceState

POLICIES = {0: "POWER", 1: "THERMAL", 2: "SYNC_BOOST", 3: "BOARD_LIMIT", 5: "RELIABILITY"}


class NVMLError(Exception):
    pass


def process(pid: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None, gpuInstanceId=0, computeInstanceId=0)


def field(value: int, status: int = 0) -> SimpleNamespace:
    """A value of a field, as ctypes' structure has it."""
    return SimpleNamespace(nvmlReturn=status, value=SimpleNamespace(ullVal=value))


class Counter:
    """An energy counter that advances every 20 ms, on a clock that advances by what the runs take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, watts: float, run_s: float) -> None:
        self.seconds, self.runs = 0.0077, 0
        self._watts, self._run_s = watts, run_s
        monkeypatch.setattr("hwnas.profile.runners.nvml.time.perf_counter", lambda: self.seconds)

    def read(self, handle: object) -> int:
        ticks = int(self.seconds / 0.02)
        return 5_000_000 + round(1e3 * self._watts * 0.02 * ticks)

    def run(self) -> None:
        self.seconds += self._run_s
        self.runs += 1


def library(**changes: Any) -> Any:
    """The functions of pynvml that are used, with the answers of one GPU."""

    def refuse(*arguments: object) -> float:
        raise NVMLError("Not Supported")

    functions = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 3201}[kind],
        "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
        "nvmlDeviceGetPowerUsage": lambda handle: 123_400,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x44,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 5_000_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 650_000,
        "nvmlDeviceGetPowerManagementLimit": lambda handle: 700_000,
        "nvmlDeviceGetApplicationsClock": lambda handle, kind: {1: 1980, 2: 3201}[kind],
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [process(os.getpid())],
        "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(
            referenceTime=1_000_000, violationTime={0: 7_000_000, 1: 0, 2: 0, 3: 0, 5: 0}[policy]
        ),
        "nvmlDeviceGetFieldValues": lambda handle, ids: [field(7_000_000 if id == 74 else 0) for id in ids],
        "NVML_SUCCESS": 0,
        **{f"NVML_PERF_POLICY_{name}": number for number, name in POLICIES.items()},
        **{f"NVML_FI_DEV_PERF_POLICY_{name}": 74 + number for number, name in POLICIES.items()},
    }
    named = {name: refuse if value == "refuse" else value for name, value in changes.items()}
    return SimpleNamespace(**{**functions, **named})


def test_a_state_has_units_and_names() -> None:
    assert Nvml(library(), "GPU-1").state() == DeviceState(
        clock_mhz=1980,
        memory_clock_mhz=3201,
        temperature_c=41,
        power_w=123.4,
        power_limit_w=650,
        other_processes=0,
        throttle=("sw_power_cap", "hw_thermal_slowdown"),
    )


def test_what_a_gpu_does_not_tell_is_none() -> None:
    silent = library(nvmlDeviceGetPowerUsage="refuse", nvmlDeviceGetCurrentClocksEventReasons="refuse")
    state = Nvml(silent, "GPU-1").state()
    assert (state.power_w, state.throttle, state.clock_mhz) == (None, (), 1980)


def test_drivers_with_the_older_name_of_the_reasons() -> None:
    older = library(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 1)
    del older.nvmlDeviceGetCurrentClocksEventReasons
    assert Nvml(older, "GPU-1").state().throttle == ("gpu_idle",)


@pytest.mark.parametrize("run_s", [0.0013, 0.0031, 0.0119])
def test_energy_is_counted_from_tick_to_tick(monkeypatch: pytest.MonkeyPatch, run_s: float) -> None:
    counter = Counter(monkeypatch, watts=400, run_s=run_s)
    energy = Nvml(library(nvmlDeviceGetTotalEnergyConsumption=counter.read), "GPU-1").energy_j(counter.run, runs=4)
    assert counter.seconds > 3
    assert energy == pytest.approx(400 * run_s / 4, rel=0.005)


def test_a_counter_that_stands_still_counts_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch, watts=0, run_s=0.01)
    assert Nvml(library(nvmlDeviceGetTotalEnergyConsumption=counter.read), "GPU-1").energy_j(counter.run) is None
    assert counter.seconds < 1.1


def test_a_gpu_that_counts_no_energy() -> None:
    assert Nvml(library(nvmlDeviceGetTotalEnergyConsumption="refuse"), "GPU-1").energy_j(lambda: None) is None


def test_without_the_package_the_note_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, note = open_nvml("GPU-1")
    assert found is None
    assert "hwnas[gpu]" in note


def test_a_driver_that_refuses_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlInit="refuse"))
    found, note = open_nvml("GPU-1")
    assert found is None
    assert "Not Supported" in note


def test_with_the_package_the_gpu_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    found, note = open_nvml("GPU-1")
    assert note == ""
    assert found is not None
    found.close()


def test_power_capping_between_two_moments_is_the_difference_of_counters() -> None:
    capped = iter([7_000_000, 9_000_000])

    def violation(handle: object, policy: int) -> SimpleNamespace:
        return SimpleNamespace(referenceTime=0, violationTime=next(capped) if policy == 0 else 0)

    nvml = Nvml(library(nvmlDeviceGetViolationStatus=violation), "GPU-1")
    before, after = nvml.limits_ns(), nvml.limits_ns()
    assert set(before) == {"sw_power_cap", "sw_thermal_slowdown", "sync_boost", "board_limit", "reliability"}
    assert set(before) <= set(THROTTLE_REASONS.values())
    assert {name: after[name] - before[name] for name in before if after[name] > before[name]} == {
        "sw_power_cap": 2_000_000
    }


def test_drivers_without_violation_status_have_the_counters_as_fields() -> None:
    nvml = Nvml(library(nvmlDeviceGetViolationStatus="refuse"), "GPU-1")
    assert nvml.limits_ns() == Nvml(library(), "GPU-1").limits_ns()
    unsupported = library(
        nvmlDeviceGetViolationStatus="refuse", nvmlDeviceGetFieldValues=lambda handle, ids: [field(0, 3)]
    )
    assert Nvml(unsupported, "GPU-1").limits_ns() == {}
    neither = library(nvmlDeviceGetViolationStatus="refuse", nvmlDeviceGetFieldValues="refuse")
    assert Nvml(neither, "GPU-1").limits_ns() == {}


def test_processes_of_others_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "hwnas.profile.worker_process.py"
    script.write_text("import time; time.sleep(60)")
    worker = subprocess.Popen([sys.executable, script])
    try:
        pids = [os.getpid(), worker.pid, 1]
        nvml = Nvml(library(nvmlDeviceGetComputeRunningProcesses=lambda handle: map(process, pids)), "GPU-1")
        assert nvml.state().other_processes == 2
        monkeypatch.setattr(os, "getppid", os.getpid)  # the other worker has the same parent as this process
        assert nvml.state().other_processes == 1
    finally:
        worker.kill()
        worker.wait()


def test_in_a_container_that_hides_this_process_others_are_unknown() -> None:
    hidden = library(nvmlDeviceGetComputeRunningProcesses=lambda handle: [process(1)])
    assert Nvml(hidden, "GPU-1").state().other_processes is None
    refused = library(nvmlDeviceGetComputeRunningProcesses="refuse")
    assert Nvml(refused, "GPU-1").state().other_processes is None


def test_facts_are_the_limits_that_someone_set() -> None:
    assert Nvml(library(), "GPU-1").facts() == {"power_limit_w": "700", "application_clock_mhz": "1980"}
    silent = library(nvmlDeviceGetPowerManagementLimit="refuse", nvmlDeviceGetApplicationsClock="refuse")
    assert Nvml(silent, "GPU-1").facts() == {}


def test_a_gpu_without_an_energy_counter_says_so() -> None:
    assert Nvml(library(), "GPU-1").note() == ""
    assert "energy is not recorded" in Nvml(library(nvmlDeviceGetTotalEnergyConsumption="refuse"), "GPU-1").note()


def test_nothing_of_the_whole_gpu_is_recorded_for_a_slice() -> None:
    nvml = Nvml(library(), "MIG-1")
    state = nvml.state()
    assert (state.power_w, state.power_limit_w, state.throttle) == (None, None, ())
    assert (state.clock_mhz, state.temperature_c) == (1980, 41)
    assert (nvml.limits_ns(), nvml.energy_j(lambda: None)) == ({}, None)
    assert "power_limit_w" not in nvml.facts()
    assert "this is a slice" in nvml.note()
