"""Warm-up and strict pairs, on sessions with made-up durations."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from hwnas.profile.runners.cuda import CudaClock
from hwnas.profile.runners.runner import QueuedSession, Sample
from hwnas.profile.statistics import is_enqueue_bound
from hwnas.profile.timing import SamplePlan, duration_ns, plan_samples, time_pairs, to_samples, warm_up
from hwnas.records import Samples
from tests.profile.simulated_gpu import SimulatedGpu


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
    assert plan_samples(ours, theirs) == (SamplePlan(runs=5, samples=4), SamplePlan())
    log.clear()
    timed = time_pairs(ours, theirs, pairs=2, plans=(SamplePlan(runs=3), SamplePlan()))
    assert "".join(log) == "aaaabbaaaa"  # before several runs there is one that does not count
    assert timed.samples.cpu_ns == (400_005, 400_009)  # of 3 runs from the fifth on, the first three being the trial
    assert timed.samples.runs_per_sample == 3
    assert timed.reference.runs_per_sample == 1


def test_the_runs_of_one_sample_have_a_limit() -> None:
    plan, _ = plan_samples(FakeSession("a", counting(10), []), FakeSession("b", counting(10), []))
    assert plan.runs == 64


@pytest.mark.parametrize(
    ("candidate_ms", "reference_ms", "samples"),
    [(2, 26, (4, 1)), (5, 16, (3, 1)), (20, 26, (1, 1)), (26, 5, (1, 1)), (26, 0.5, (1, 4)), (0.1, 3, (2, 1))],
)
def test_the_faster_network_takes_more_samples_in_a_turn(
    candidate_ms: float, reference_ms: float, samples: tuple[int, int]
) -> None:
    sessions = (FakeSession("", falling([round(1e6 * value)]), []) for value in (candidate_ms, reference_ms))
    ours, theirs = plan_samples(*sessions)
    assert (ours.samples, theirs.samples) == samples


def test_the_samples_of_a_turn_are_taken_in_a_row() -> None:
    log: list[str] = []
    ours, theirs = FakeSession("a", counting(100), log), FakeSession("b", counting(500), log)
    timed = time_pairs(ours, theirs, pairs=3, plans=(SamplePlan(samples=3), SamplePlan()))
    assert "".join(log) == "aaaabbaaaaaaaab"  # before several samples, too, there is a run that does not count
    assert timed.samples.cpu_ns == (101, 102, 103, 105, 106, 107, 109, 110, 111)
    assert timed.reference.cpu_ns == (500, 501, 502)


@pytest.mark.parametrize("runs", [400, 4000])
def test_the_bookkeeping_of_a_warm_up_is_the_same_for_each_run(runs: int) -> None:
    reads: Counter[str] = Counter()

    class CountedSample(Sample):
        """Counts how often its times are read."""

        def __getattribute__(self, name: str) -> object:
            reads[name] += name.endswith("_ns")
            return super().__getattribute__(name)

    brief = CountedSample(wall_ns=200_000_000 // runs, device_ns=1000)
    assert warm_up(FakeSession("a", iter(lambda: brief, None), [])) == runs
    assert reads.total() <= 5 * runs


class GpuSession(FakeSession):
    """Runs of a simulated GPU, timed by the clock of the runners."""

    def __init__(self, launch: Callable[[], None]) -> None:
        super().__init__("", iter(()), [])
        self._launch, self._clock = launch, CudaClock()

    def run_once(self) -> Sample:
        return self._clock.time(self._launch)

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        return self._clock.time_queued(self._launch, runs=runs, delay_ns=delay_ns, while_running=while_running)


def test_launch_cost_is_no_device_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu(monkeypatch)
    graph = GpuSession(lambda: gpu.launch(device_ns=100_000, host_ns=10_000))
    assert isinstance(graph, QueuedSession)
    assert graph.run_once().device_ns == 110_000  # an idle GPU waits for the launch
    plan, same = plan_samples(graph, graph)
    assert plan == same
    assert plan == SamplePlan(runs=18, queued=True, delay_ns=35_000)
    timed = time_pairs(graph, graph, pairs=4, plans=(plan, plan))
    assert timed.samples.device_ns == (100_000,) * 4
    assert timed.samples.host_ns == (10_000,) * 4
    assert timed.samples.wall_ns == (100_000,) * 4  # without the delay
    assert not is_enqueue_bound(timed.samples)


def test_an_enqueue_bound_network_keeps_the_time_that_the_gpu_waits_for_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = SimulatedGpu(monkeypatch)

    def run() -> None:
        for _ in range(100):
            gpu.launch(device_ns=3_000, host_ns=6_000)

    eager = GpuSession(run)
    plan, _ = plan_samples(eager, eager)
    assert plan == SamplePlan(runs=3, queued=True)
    timed = time_pairs(eager, eager, pairs=2, plans=(plan, plan))
    assert timed.samples.host_ns == (600_000,) * 2
    assert timed.samples.device_ns == (601_000,) * 2
    assert is_enqueue_bound(timed.samples)


def test_a_gpu_session_that_cannot_queue_is_timed_run_by_run() -> None:
    runs = iter(lambda: Sample(wall_ns=1_100_000, device_ns=1_000_000), None)
    plan, _ = plan_samples(FakeSession("a", runs, []), FakeSession("b", runs, []))
    assert plan == SamplePlan(runs=2)
    timed = time_pairs(FakeSession("a", runs, []), FakeSession("b", runs, []), pairs=2, plans=(plan, plan))
    assert timed.samples == Samples(runs_per_sample=2, wall_ns=(1_100_000,) * 2, device_ns=(1_000_000,) * 2)
