"""A watch over the core that a network is timed on, which others can slow down without a trace in CPU time.

Two virtual cores of a machine can be the two threads of one physical core: while the other one works, perhaps for
another tenant of the host, everything here takes about half as long again, and a network of many small operations more
than a large matrix product. So the ratio to the reference network changes too. A short fixed loop next to each run
shows it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hwnas.profile.statistics import MAX_SLOWED

_LOOP = 10_000
"""Turns of the loop, which take some tenths of a millisecond."""

_MAX_CORES = 8
"""Cores that are tried at most when the current one is slowed down."""

_PATIENCE_S = 1.0
"""Time for which one network waits at most while all cores are slowed down; after vain waiting, the next waits less."""

_PAUSE_S = 0.02

_MEMORY_S = 120.0
"""Time after which the shortest time of the loop is forgotten: a clock that stays lower slows no single core down."""

_PACKAGES = Path("/sys/devices/system/cpu")


def time_loop() -> int:
    """Return the CPU time of the fixed loop on the current core, in nanoseconds."""
    began = time.thread_time_ns()
    for _ in range(_LOOP):
        pass
    return max(1, time.thread_time_ns() - began)


class CoreWatch:
    """Watches the core of the calling thread, and moves the thread to another one while it is slowed down.

    Args:
        time_loop: Times the loop; tests replace it.
        pause: Waits for some seconds; tests replace it.
        clock: The time in seconds; tests replace it.
        cores: Cores that the thread may run on; None: those of the process on one socket.
    """

    def __init__(
        self,
        *,
        time_loop: Callable[[], int] = time_loop,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        cores: Sequence[int] | None = None,
    ) -> None:
        self._time_loop, self._pause, self._clock = time_loop, pause, clock
        self._cores = (_cores_of_one_socket() if cores is None else tuple(cores))[:_MAX_CORES]
        self._allowed: set[int] | None = None
        self._patience_s = self._next_patience_s = _PATIENCE_S
        self._shortest_ns: int | None = None
        self._earlier: deque[tuple[float, int]] = deque()
        """Time and shortest time of the loop of the last networks."""
        self.quickest_ns: int | None = None
        """Shortest time of the loop in the last minutes."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at all cores, and let the thread run on any of them again at the end."""
        self._allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self._patience_s = self._next_patience_s
        while self._earlier and self._clock() - self._earlier[0][0] > _MEMORY_S:
            self._earlier.popleft()
        self._shortest_ns = None
        self.quickest_ns = min((loop_ns for _, loop_ns in self._earlier), default=None)
        try:
            for core in self._cores:
                self._move(core)
                self.probe()
            yield
        finally:
            self._release()
            self._allowed = None
            if self._shortest_ns is not None:
                self._earlier.append((self._clock(), self._shortest_ns))
            factor = 0.5 if self._patience_s <= 0 else 2
            self._next_patience_s = min(_PATIENCE_S, max(_PAUSE_S, factor * self._next_patience_s))

    def probe(self) -> int:
        """Return the time of the loop on the current core."""
        loop_ns = self._time_loop()
        self._shortest_ns = min(loop_ns, self._shortest_ns or loop_ns)
        self.quickest_ns = min(loop_ns, self.quickest_ns or loop_ns)
        return loop_ns

    def settle(self, *, interrupted: bool, progress: Callable[[], None]) -> None:
        """Move the thread to a core that is not slowed down if the current one is; wait for a while if all are.

        Args:
            interrupted: Another program ran on this core meanwhile: the system may move the thread first.
            progress: Called after each look.
        """
        if interrupted:
            self._release()
        while not self._find_quick_core():
            self._release()
            if self._patience_s <= 0:
                return
            self._pause(_PAUSE_S)
            progress()
            self._patience_s -= _PAUSE_S

    def _find_quick_core(self) -> bool:
        if self._is_quick():
            return True
        for core in self._cores:
            self._move(core)
            if self._is_quick():
                return True
        return False

    def _is_quick(self) -> bool:
        return self.probe() <= MAX_SLOWED * (self.quickest_ns or 0)

    def _move(self, core: int) -> None:
        if self._allowed is not None:
            with suppress(OSError):  # taken from this process in the meantime
                os.sched_setaffinity(0, {core})

    def _release(self) -> None:
        if self._allowed is not None:
            with suppress(OSError):
                os.sched_setaffinity(0, self._allowed)


def _cores_of_one_socket() -> tuple[int, ...]:
    """The cores of this process on the socket with most of them: memory of another socket is further away."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    sockets: dict[str, list[int]] = {}
    for core in sorted(os.sched_getaffinity(0)):
        try:
            socket = (_PACKAGES / f"cpu{core}" / "topology" / "physical_package_id").read_text()
        except OSError:
            socket = ""
        sockets.setdefault(socket, []).append(core)
    most = max(len(cores) for cores in sockets.values())
    return tuple(next(cores for cores in sockets.values() if len(cores) == most))
