"""Warm-up and strict pairs, on sessions with made-up durations."""

from collections.abc import Iterator

import pytest
import torch

from hwnas.profile.runners.runner import Sample
from hwnas.profile.timing import duration_ns, runs_per_sample, time_pairs, to_samples, warm_up
from hwnas.records import Samples


class FakeSession:
    """Runs that take what a list says, and note in `log` whose turn it was."""

    def __init__(self, name: str, runs: Iterator[Sample], log: list[str]) -> None:
        self._name, self._runs, self._log = name, runs, log

    def run_once(self) -> Sample:
        self._log.append(self._name)
        return next(self._runs)

    def outputs(self) -> torch.Tensor:
        raise NotImplementedError

    def memory_mb(self) -> float | None:
        return None

    def close(self) -> None:
        return


def counting(start: int, *, switches: tuple[int, ...] = (0,), cpu: bool = True) -> Iterator[Sample]:
    index = 0
    while True:
        value = start + index
        yield Sample(wall_ns=2 * value, cpu_ns=value if cpu else None, switches=switches[index % len(switches)])
        index += 1


def test_pairs_take_turns_and_alternate_who_begins() -> None:
    log: list[str] = []
    ours, theirs = FakeSession("a", counting(100), log), FakeSession("b", counting(500), log)
    timed = time_pairs(ours, theirs, pairs=4)
    assert "".join(log) == "abbaabba"
    assert timed.samples == Samples(wall_ns=(200, 202, 204, 206), cpu_ns=(100, 101, 102, 103), switches=(0,) * 4)
    assert timed.reference.cpu_ns == (500, 501, 502, 503)


def test_with_several_threads_pairs_go_on_until_enough_are_undisturbed() -> None:
    log: list[str] = []
    half = counting(10, switches=(0, 1), cpu=False)
    timed = time_pairs(FakeSession("a", half, log), FakeSession("b", counting(10), log), pairs=6)
    assert timed.samples.cpu_ns == ()
    assert timed.samples.switches.count(0) == 6
    assert len(timed.samples.wall_ns) == len(timed.reference.wall_ns) == 11


def test_pairs_do_not_go_on_for_ever() -> None:
    log: list[str] = []
    never = counting(10, switches=(1,), cpu=False)
    timed = time_pairs(FakeSession("a", never, log), FakeSession("b", counting(10), log), pairs=5)
    assert len(timed.samples.wall_ns) == 20


def test_a_gpu_has_device_times_and_no_switches() -> None:
    runs = [Sample(wall_ns=9, device_ns=3), Sample(wall_ns=8, device_ns=4)]
    assert to_samples(runs) == Samples(wall_ns=(9, 8), device_ns=(3, 4))


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample(wall_ns=9, cpu_ns=5, device_ns=3), 3),
        (Sample(wall_ns=9, cpu_ns=5), 5),
        (Sample(wall_ns=9), 9),
    ],
)
def test_the_best_clock_of_a_run(sample: Sample, expected: int) -> None:
    assert duration_ns(sample) == expected


def falling(values: list[int]) -> Iterator[Sample]:
    for value in values:
        yield Sample(wall_ns=value, cpu_ns=value)
    while True:
        yield Sample(wall_ns=values[-1], cpu_ns=values[-1])


def test_warm_up_ends_when_runs_no_longer_become_faster() -> None:
    assert warm_up(FakeSession("a", falling([100]), [])) == 8
    assert warm_up(FakeSession("a", falling([900, 800, 700, 600, 500, 400, 300, 200, 100]), [])) == 15


def test_warm_up_has_an_end() -> None:
    endless = (Sample(wall_ns=int(1e9 * 0.8**index) + 1, cpu_ns=int(1e8 * 0.8**index) + 1) for index in range(99))
    assert warm_up(FakeSession("a", endless, [])) == 40


def test_slow_networks_warm_up_with_fewer_runs() -> None:
    assert warm_up(FakeSession("a", falling([10**9]), [])) == 4


def test_a_gpu_warms_up_until_its_clocks_are_up() -> None:
    runs = iter(lambda: Sample(wall_ns=1_000_000, device_ns=500_000), None)
    assert warm_up(FakeSession("a", runs, [])) == 200


def test_a_fast_network_is_timed_over_several_runs_in_a_row() -> None:
    log: list[str] = []
    ours, theirs = FakeSession("a", counting(400_000), log), FakeSession("b", counting(9_000_000), log)
    assert runs_per_sample(ours) == 5
    assert runs_per_sample(theirs) == 1
    log.clear()
    timed = time_pairs(ours, theirs, pairs=2, runs=(3, 1))
    assert "".join(log) == "aaaabbaaaa"  # before several runs there is one that does not count
    assert timed.samples.cpu_ns == (400_005, 400_009)  # of 3 runs from the fifth on, the first three being the trial
    assert timed.samples.runs_per_sample == 3
    assert timed.reference.runs_per_sample == 1


def test_the_runs_of_one_sample_have_a_limit() -> None:
    assert runs_per_sample(FakeSession("a", counting(10), [])) == 64
