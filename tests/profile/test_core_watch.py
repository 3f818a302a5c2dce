"""The watch over the core of a measurement, with made-up times of its loop."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hwnas.profile import core_watch
from hwnas.profile.core_watch import CoreWatch, time_loop
from hwnas.profile.parity import Logits
from hwnas.profile.runners.runner import Sample
from hwnas.profile.statistics import latency_interval, latency_ratio, stability_verdict, valid_runs
from hwnas.profile.timing import no_progress, time_pairs
from hwnas.records import Samples

QUICK, SLOW = 100, 150


class Machine:
    """Two cores, of which some are slowed down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slowed: Iterator[set[int]]) -> None:
        self._slowed = slowed
        self.core, self.allowed, self.paused_s = 0, {0, 1}, 0.0
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(self.allowed), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", self._restrict, raising=False)
        self.now_s = 0.0
        self.watch = CoreWatch(time_loop=self._time_loop, pause=self._pause, clock=lambda: self.now_s, cores=(0, 1))

    def _restrict(self, pid: int, cores: set[int]) -> None:
        assert pid == 0
        self.allowed = set(cores)
        if self.core not in cores:
            self.core = min(cores)

    def _time_loop(self) -> int:
        return SLOW if self.core in next(self._slowed) else QUICK

    def _pause(self, seconds: float) -> None:
        self.paused_s += seconds


def always(*slowed: set[int]) -> Iterator[set[int]]:
    """The slowed cores at each look, the last ones for ever."""
    yield from slowed
    while True:
        yield slowed[-1]


def test_it_moves_to_a_quick_core_and_lets_the_thread_go_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slowed=always({0}))
    with machine.watch.watching():
        machine.watch.settle(interrupted=False, progress=no_progress)
        assert (machine.core, machine.allowed) == (1, {1})
    assert machine.allowed == {0, 1}
    assert machine.watch.quickest_ns == QUICK
    assert machine.paused_s == 0


def test_it_waits_while_all_cores_are_slow_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    at_first_quick = always(set(), *[{0, 1}] * 8, set())
    machine = Machine(monkeypatch, slowed=at_first_quick)
    with machine.watch.watching():
        machine.watch.settle(interrupted=False, progress=no_progress)
    assert 0 < machine.paused_s < 0.2

    machine = Machine(monkeypatch, slowed=always(set(), {0, 1}))
    with machine.watch.watching():
        machine.watch.settle(interrupted=False, progress=no_progress)
        machine.watch.settle(interrupted=False, progress=no_progress)
        assert machine.allowed == {0, 1}
    assert machine.paused_s == pytest.approx(core_watch._PATIENCE_S, abs=0.03)


def test_it_waits_less_after_waiting_in_vain_and_longer_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed: set[int] = set()
    machine = Machine(monkeypatch, slowed=always(slowed))
    waited_s = []
    for busy in (True, True, False, True):
        slowed.clear()
        with machine.watch.watching():
            slowed.update({0, 1} if busy else ())
            before_s = machine.paused_s
            machine.watch.settle(interrupted=False, progress=no_progress)
            waited_s.append(machine.paused_s - before_s)
    assert waited_s == pytest.approx([1.0, 0.5, 0.0, 0.5], abs=0.03)


def test_it_waits_again_soon_on_a_machine_that_was_busy_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed: set[int] = set()
    machine = Machine(monkeypatch, slowed=always(slowed))
    for busy in (*[True] * 1100, *[False] * 8, True):
        slowed.clear()
        with machine.watch.watching():
            slowed.update({0, 1} if busy else ())
            before_s = machine.paused_s
            machine.watch.settle(interrupted=False, progress=no_progress)
    assert machine.paused_s - before_s == pytest.approx(core_watch._PATIENCE_S, abs=0.03)


def test_a_clock_that_stays_lower_is_taken_as_normal_after_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed: set[int] = set()
    machine = Machine(monkeypatch, slowed=always(slowed))
    with machine.watch.watching():
        pass
    slowed.update({0, 1})
    quickest = []
    for machine.now_s in (60.0, 130.0):
        with machine.watch.watching():
            quickest.append(machine.watch.quickest_ns)
    assert quickest == [QUICK, SLOW]


def test_after_an_interruption_the_system_chooses_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slowed=always({0}, {0}, {0}, {0}, set()))
    with machine.watch.watching():
        machine.watch.settle(interrupted=False, progress=no_progress)
        assert machine.allowed == {1}
        machine.watch.settle(interrupted=True, progress=no_progress)
        assert machine.allowed == {0, 1}


class ScriptedWatch(CoreWatch):
    """One core, slow during some pairs."""

    def __init__(self, slow: set[int]) -> None:
        self._slow, self._pair = slow, -1
        super().__init__(time_loop=lambda: self.loop_ns, cores=())
        self.probe()

    @property
    def loop_ns(self) -> int:
        return SLOW if self._pair in self._slow else QUICK

    def settle(self, *, interrupted: bool, progress: Callable[[], None]) -> None:
        del interrupted, progress
        self._pair += 1


def test_runs_on_a_slowed_core_do_not_count_and_are_replaced() -> None:
    watch = ScriptedWatch({1, 2, 5})

    class Runs:
        def __init__(self, base: int) -> None:
            self._base = base

        def run_once(self) -> Sample:
            time_ns = self._base * watch.loop_ns // QUICK
            return Sample(wall_ns=time_ns, cpu_ns=time_ns)

        def outputs(self) -> Logits:
            return np.zeros(1, dtype=np.float32)

        def memory_mb(self) -> float | None:
            return None

        def close(self) -> None:
            return

    timed = time_pairs(Runs(1_000), Runs(50_000), pairs=8, watch=watch)
    assert len(timed.samples.wall_ns) == 11
    assert valid_runs(timed.samples).tolist() == [1_000.0] * 8
    assert valid_runs(timed.reference).tolist() == [50_000.0] * 8
    assert timed.samples.loop_ns.count(SLOW) == 3
    assert timed.samples.quickest_loop_ns == QUICK


def watched(cpu_ns: tuple[int, ...], loop_ns: tuple[int, ...]) -> Samples:
    return Samples(wall_ns=cpu_ns, cpu_ns=cpu_ns, loop_ns=loop_ns, quickest_loop_ns=QUICK)


def test_with_too_few_quick_runs_all_runs_of_both_networks_count() -> None:
    ours = watched((100, *[200] * 9), (QUICK, *[SLOW] * 9))
    theirs = watched((1000,) * 10, (SLOW,) * 10)
    assert latency_ratio(ours, theirs) == pytest.approx(0.5 / 3)
    assert not stability_verdict(ours, theirs).stable
    interval = latency_interval(ours, theirs, reference_ms=1.0, seed=0)
    assert 0.1 <= interval.low_ms <= interval.high_ms == 0.2

    mostly_quick = (*[QUICK] * 8, *[SLOW] * 2)
    ours, theirs = watched((*[100] * 8, 200, 200), mostly_quick), watched((1000,) * 10, mostly_quick)
    assert latency_ratio(ours, theirs) == 0.1


def test_the_loop_takes_time() -> None:
    assert time_loop() > 0
