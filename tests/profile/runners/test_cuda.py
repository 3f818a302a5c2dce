"""Readings of a GPU through a stand-in for pynvml with the same names."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hwnas.profile.runners.cuda import Nvml, open_nvml
from hwnas.records import DeviceState


class NVMLError(Exception):
    pass


def library(**changes: Any) -> Any:
    """The functions of pynvml that are used, with the answers of one GPU."""

    def refuse(*arguments: object) -> float:
        raise NVMLError("Not Supported")

    energy = iter(range(5_000_000, 10_000_000, 250_000))
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
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: next(energy),
    }
    named = {name: refuse if value == "refuse" else value for name, value in changes.items()}
    return SimpleNamespace(**{**functions, **named})


def test_a_state_has_units_and_names() -> None:
    assert Nvml(library(), "GPU-1").state() == DeviceState(
        clock_mhz=1980,
        memory_clock_mhz=3201,
        temperature_c=41,
        power_w=123.4,
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


def test_energy_is_shared_by_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    monkeypatch.setattr("hwnas.profile.runners.cuda.time.perf_counter", lambda: next(seconds))
    runs: list[int] = []
    energy = Nvml(library(), "GPU-1").energy_j(lambda: runs.append(1))
    assert len(runs) == 4
    assert energy == pytest.approx(250 / 4)


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
