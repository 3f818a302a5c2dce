"""A device that lies in this process's memory, and still works as late as a real one.

Launched work runs when the stream is waited for, not before. During a recording nothing runs and waiting is an error.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hwnas.profile.runners.runner import Sample

_HANDLES = itertools.count(0x5000, 0x10)


class FakeRecording:
    def __init__(self, cuda: "FakeCuda", work: list[Callable[[], None]]) -> None:
        self._cuda = cuda
        self._work: list[Callable[[], None]] | None = work

    def replay(self) -> None:
        assert self._work is not None, "a recording that was reset is replayed"
        assert self._cuda.is_current, "a recording must be replayed on the stream it was made for"
        for work in self._work:
            self._cuda.launch(work)

    def reset(self) -> None:
        self._work = None


class FakeCuda:
    """One stream; a double of TensorRT finds it by its handle."""

    streams: dict[int, "FakeCuda"]

    def __init__(self, streams: dict[int, "FakeCuda"]) -> None:
        self.handle = next(_HANDLES)
        self.is_current = False
        self.launched = 0
        self._queue: list[Callable[[], None]] = []
        self._recorded: list[Callable[[], None]] | None = None
        streams[self.handle] = self

    @property
    def is_recording(self) -> bool:
        return self._recorded is not None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.is_current = True
        yield
        self.is_current = False

    def upload(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous().clone()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        filler = float("nan") if dtype.is_floating_point else 0
        return torch.full(tuple(shape), filler, dtype=dtype)

    def launch(self, work: Callable[[], None]) -> None:
        self.launched += 1
        (self._queue if self._recorded is None else self._recorded).append(work)

    def wait(self) -> None:
        assert self._recorded is None, "the stream must not be waited for during a recording"
        while self._queue:
            self._queue.pop(0)()

    def record(self, launch: Callable[[], object]) -> FakeRecording:
        self.wait()
        self._recorded = []
        launch()
        recorded, self._recorded = self._recorded, None
        return FakeRecording(self, recorded)


class FakeClock:
    """Measures wall time, and reports a device time that is a microsecond less."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def time(self, run: Callable[[], object]) -> Sample:
        start = time.perf_counter_ns()
        run()
        self._cuda.wait()
        wall_ns = time.perf_counter_ns() - start
        return Sample(wall_ns=wall_ns, device_ns=wall_ns - 1000)

    def time_queued(
        self, run: Callable[[], object], *, runs: int, delay_ns: int, while_running: Callable[[], object]
    ) -> Sample:
        start = time.perf_counter_ns()
        for _ in range(runs):
            run()
        host_ns = time.perf_counter_ns() - start
        while_running()
        self._cuda.wait()
        wall_ns = time.perf_counter_ns() - start
        return Sample(wall_ns=wall_ns // runs, device_ns=wall_ns // runs, host_ns=host_ns // runs)
