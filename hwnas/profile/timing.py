"""Time two networks against each other: warm up, then run them in strict alternation."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from hwnas.profile.core_watch import CoreWatch
from hwnas.profile.runners.runner import QueuedSession, RuntimeSession, Sample
from hwnas.profile.statistics import ENQUEUE_BOUND, MAX_SLOWED
from hwnas.records import Samples

Observed = TypeVar("Observed")

PAIRS = 24
"""Default number of runs of each network."""

_WINDOW = 4
"""Runs in each of the two windows that warm-up compares."""

_SLOW_WINDOW = 2
"""Runs in each window for networks slower than `_SLOW_NS`, of which more runs would take minutes."""

_SLOW_NS = 200_000_000
_STATIONARY_RATIO = 0.98
"""Warm-up ends when the last window is at most 2 % faster than the one before."""

_MAX_WARM_UP_RUNS = 40
_GPU_WARM_UP_NS = 200_000_000
"""Time under load after which a GPU has raised its clocks."""

_MAX_EXTRA_PAIRS = 4
"""Pairs at most, as a multiple of the requested number."""

_MIN_SAMPLE_NS = 2_000_000
"""A shorter sample would measure the resolution of the clock and the cache misses after the other network's run."""

_MAX_RUNS_PER_SAMPLE = 64

_MAX_SAMPLES_PER_TURN = 4
"""A turn of the faster network of a pair has at most this many samples."""

_LOAD_SAMPLES = 16
"""A device is observed while it does the runs of this number of samples, which take tens of milliseconds."""

_TRIALS = 3
"""Runs from which the plan of a network's samples follows."""

_DELAY_FACTOR, _DELAY_NS = 1.5, 20_000
"""A GPU waits before a sample for the time in which the host queues a run, with a margin for a slower launch."""


@dataclass(frozen=True, kw_only=True)
class TimedPairs:
    """Runs of a network and of its reference network, each in order of time."""

    samples: Samples
    reference: Samples


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The way to take a sample of a network."""

    runs: int = 1
    """Consecutive runs, of which the sample is the mean."""
    queued: bool = False
    """All runs are queued on the device before the first is waited for."""
    delay_ns: int = 0
    """Time for which the device waits while the first run is queued."""
    samples: int = 1
    """Samples in each turn."""


def no_progress() -> None:
    """Ignore progress."""


def warm_up(session: RuntimeSession, *, progress: Callable[[], None] = no_progress) -> int:
    """Run a network until it no longer becomes faster; on a GPU also until its clocks are up.

    Args:
        session: The network.
        progress: Called after each run.

    Returns:
        The number of runs.
    """
    warm = _WarmUp()
    while warm.runs < _MAX_WARM_UP_RUNS or not warm.clocks_are_up:
        warm.add(session.run_once())
        progress()
        if warm.clocks_are_up and warm.is_stationary:
            break
    return warm.runs


def plan_samples(candidate: RuntimeSession, reference: RuntimeSession) -> tuple[SamplePlan, SamplePlan]:
    """Return how to take samples of two warm networks in turn.

    The faster one takes as many samples in its turn as last about as long as the turn of the other, at most four: they
    make a pair little longer, and the time of a fast network varies most. A reference network whose sample is a single
    run takes no more than one, also beside a slower network: its caches are then as cold in all pairs of a campaign,
    whose latencies it converts to milliseconds.
    """
    plans, times_ns = zip(*map(_plan_sample, (candidate, reference)), strict=True)
    longest_ns = max(times_ns)
    first, second = (
        replace(plan, samples=min(_MAX_SAMPLES_PER_TURN, max(1, round(longest_ns / max(time_ns, 1)))))
        for plan, time_ns in zip(plans, times_ns, strict=True)
    )
    return first, second if second.runs > 1 else replace(second, samples=1)


def time_pairs(
    candidate: RuntimeSession,
    reference: RuntimeSession,
    *,
    pairs: int,
    plans: tuple[SamplePlan, SamplePlan] = (SamplePlan(), SamplePlan()),
    watch: CoreWatch | None = None,
    progress: Callable[[], None] = no_progress,
) -> TimedPairs:
    """Run two networks in strict alternation.

    Strict pairs make the ratio of the two times robust: both networks see the same load, temperature and clocks within
    milliseconds. The network that starts a pair alternates, so that neither always runs on the caches of the other.

    Where only undisturbed runs are valid (a CPU with several threads, or a core that is watched), pairs are added until
    enough runs of both are valid, up to four times the requested number.

    Args:
        candidate: The network to time.
        reference: The reference network.
        pairs: Number of pairs.
        plans: How samples of the candidate and of the reference are taken.
        watch: Watches the core of this thread, if this thread does the work.
        progress: Called after each pair.
    """
    turns = (_Runs(candidate, plans[0], watch), _Runs(reference, plans[1], watch))
    for index in range(_MAX_EXTRA_PAIRS * pairs):
        if index >= pairs and all(runs.num_valid >= pairs for runs in turns):
            break
        if watch is not None:
            watch.settle(interrupted=any(runs.was_interrupted for runs in turns), progress=progress)
        for runs in turns if index % 2 == 0 else reversed(turns):
            runs.take_turn()
        progress()
    ours, theirs = turns
    return TimedPairs(samples=ours.samples(), reference=theirs.samples())


def observe_under_load(session: RuntimeSession, plan: SamplePlan, observe: Callable[[], Observed]) -> Observed | None:
    """Return what `observe` returns while a network runs on a device; None if its runs cannot be queued."""
    if not plan.queued or not isinstance(session, QueuedSession):
        return None
    observed: list[Observed] = []
    session.run_queued(_LOAD_SAMPLES * plan.runs, while_running=lambda: observed.append(observe()))
    return observed[0]


def to_samples(
    runs: Iterable[Sample],
    *,
    runs_per_sample: int = 1,
    loop_ns: Sequence[int] = (),
    quickest_loop_ns: int | None = None,
) -> Samples:
    """Convert runs to the form that is recorded; a clock that one run lacks is left out for all."""
    samples = tuple(runs)
    device_ns = _if_complete([sample.device_ns for sample in samples])
    return Samples(
        runs_per_sample=runs_per_sample,
        wall_ns=tuple(sample.wall_ns for sample in samples),
        cpu_ns=_if_complete([sample.cpu_ns for sample in samples]),
        device_ns=device_ns,
        host_ns=_if_complete([sample.host_ns for sample in samples]) or None,
        switches=() if device_ns else tuple(sample.switches for sample in samples),
        loop_ns=tuple(loop_ns),
        quickest_loop_ns=quickest_loop_ns,
    )


def duration_ns(sample: Sample) -> int:
    """Return the time of a run by the best clock it has: device, CPU or wall time."""
    if sample.device_ns is not None:
        return sample.device_ns
    return sample.wall_ns if sample.cpu_ns is None else sample.cpu_ns


def _plan_sample(session: RuntimeSession) -> tuple[SamplePlan, float]:
    """The way to take samples of a warm network, and the time of one in nanoseconds.

    A sample has as many consecutive runs as take at least about 2 ms. On a GPU all of them are queued at once, and the
    first one behind a delay that covers its launch. A network that the host queues hardly faster than the GPU runs it
    (it is enqueue-bound) gets no delay: the GPU would have to wait for the host in any use of it, so this wait is part
    of its latency.
    """
    trials = [session.run_once() for _ in range(_TRIALS)]
    typical_ns = median(map(duration_ns, trials))
    plan = SamplePlan(runs=min(_MAX_RUNS_PER_SAMPLE, max(1, round(_MIN_SAMPLE_NS / max(typical_ns, 1)))))
    if trials[0].device_ns is not None and isinstance(session, QueuedSession):
        host_ns = median(session.run_queued(1).host_ns or 0 for _ in range(_TRIALS))
        is_bound = host_ns > ENQUEUE_BOUND * typical_ns
        plan = replace(plan, queued=True, delay_ns=0 if is_bound else round(_DELAY_FACTOR * host_ns) + _DELAY_NS)
    return plan, plan.runs * typical_ns


def _time_sample(session: RuntimeSession, plan: SamplePlan) -> Sample:
    """Mean of several consecutive runs, with the interruptions of all of them."""
    runs = plan.runs
    if plan.queued and isinstance(session, QueuedSession):
        return session.run_queued(runs, delay_ns=plan.delay_ns)
    if runs == 1:
        return session.run_once()
    samples = [session.run_once() for _ in range(runs)]
    cpu_ns = _if_complete([sample.cpu_ns for sample in samples])
    device_ns = _if_complete([sample.device_ns for sample in samples])
    return Sample(
        wall_ns=sum(sample.wall_ns for sample in samples) // runs,
        cpu_ns=sum(cpu_ns) // runs if cpu_ns else None,
        device_ns=sum(device_ns) // runs if device_ns else None,
        switches=sum(sample.switches for sample in samples),
    )


def _if_complete(values: Sequence[int | None]) -> tuple[int, ...]:
    """The values if all are known, else nothing."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()


class _Runs:
    """Samples of one of the two networks, with the time of the loop on the core of each."""

    def __init__(self, session: RuntimeSession, plan: SamplePlan, watch: CoreWatch | None) -> None:
        self._session, self._plan, self._watch = session, plan, watch
        self._taken: list[Sample] = []
        self._loop_ns: list[int] = []

    def take_turn(self) -> None:
        """Take the samples of a turn."""
        if self._plan.runs > 1 or self._plan.samples > 1:
            self._session.run_once()  # refills the caches that the other network evicted; not counted
        loop_ns = None if self._watch is None else self._watch.probe()
        for _ in range(self._plan.samples):
            self._taken.append(_time_sample(self._session, self._plan))
            if self._watch is not None and loop_ns is not None:
                before_ns, loop_ns = loop_ns, self._watch.probe()
                self._loop_ns.append(max(before_ns, loop_ns))

    @property
    def was_interrupted(self) -> bool:
        """True if another program ran on the core during the last sample."""
        return bool(self._taken) and self._taken[-1].switches > 0

    @property
    def num_valid(self) -> int:
        """Number of valid samples: all that have CPU or device time, others only if they were not interrupted."""
        limit_ns = MAX_SLOWED * (self._quickest_ns or 0)
        slowed = [loop_ns > limit_ns for loop_ns in self._loop_ns] or [False] * len(self._taken)
        return sum(
            not is_slowed and (sample.device_ns is not None or sample.cpu_ns is not None or sample.switches == 0)
            for sample, is_slowed in zip(self._taken, slowed, strict=True)
        )

    def samples(self) -> Samples:
        """Return the samples in the form that is recorded."""
        runs = self._plan.runs
        return to_samples(self._taken, runs_per_sample=runs, loop_ns=self._loop_ns, quickest_loop_ns=self._quickest_ns)

    @property
    def _quickest_ns(self) -> int | None:
        return None if self._watch is None else self._watch.quickest_ns


class _WarmUp:
    """The state of a warm-up after some runs. A fast network makes thousands, so each takes constant time."""

    def __init__(self) -> None:
        self.runs = 0
        self._on_gpu = False
        self._wall_ns = 0
        self._quickest_ns = 0
        self._recent: deque[int] = deque(maxlen=2 * _WINDOW)

    def add(self, sample: Sample) -> None:
        """Add a run."""
        duration = duration_ns(sample)
        self._quickest_ns = min(self._quickest_ns or duration, duration)
        self._on_gpu = self._on_gpu or (not self.runs and sample.device_ns is not None)
        self._wall_ns += sample.wall_ns
        self._recent.append(duration)
        self.runs += 1

    @property
    def clocks_are_up(self) -> bool:
        """True if a GPU was under load for long enough; a CPU needs a single run."""
        return self._wall_ns >= _GPU_WARM_UP_NS if self._on_gpu else self.runs > 0

    @property
    def is_stationary(self) -> bool:
        """True if the last few runs are about as slow as the few before them."""
        window = _SLOW_WINDOW if self._quickest_ns > _SLOW_NS else _WINDOW
        recent = list(self._recent)
        if len(recent) < 2 * window:
            return False
        return median(recent[-window:]) >= _STATIONARY_RATIO * median(recent[-2 * window : -window])
