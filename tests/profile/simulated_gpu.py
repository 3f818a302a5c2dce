"""A GPU on a recorded clock: the host launches work, the device does it in order, events stamp the device's time."""

import time

import pytest
import torch


class SimulatedGpu:
    """Replaces the functions of torch.cuda and the clock that `CudaClock` uses.

    Args:
        monkeypatch: Restores them.
        clock_ghz: Clock at which `torch.cuda._sleep` counts.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, clock_ghz: float = 1.5) -> None:
        self.now_ns = 0
        """Time of the host."""
        self._free_ns = 0
        """Time at which the device has done all that was launched."""
        self._clock_ghz = clock_ghz
        gpu = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing
                self.stamp_ns = 0

            def record(self) -> None:
                self.stamp_ns = max(gpu.now_ns, gpu._free_ns)

            def synchronize(self) -> None:
                gpu.now_ns = max(gpu.now_ns, self.stamp_ns)

            def elapsed_time(self, end: "Event") -> float:
                return (end.stamp_ns - self.stamp_ns) / 1e6

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self._wait)
        monkeypatch.setattr(torch.cuda, "_sleep", self._sleep)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)

    def launch(self, *, device_ns: int, host_ns: int) -> None:
        """Launch work that takes the device some time, which takes the host some time."""
        self.now_ns += host_ns
        self._free_ns = max(self.now_ns, self._free_ns) + device_ns

    def _sleep(self, cycles: int) -> None:
        self.launch(device_ns=round(cycles / self._clock_ghz), host_ns=4_000)

    def _wait(self) -> None:
        self.now_ns = max(self.now_ns, self._free_ns) + 2_000
