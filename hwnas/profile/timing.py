"""How two networks are timed: warm until stationary, then in strict turn with each other."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from hwnas.profile.runners.runner import RuntimeSession, Sample
from hwnas.records import Samples, Setting

PAIRS = 24
"""Runs of each of the two by default."""

_WINDOW = 4
_WINDOW_OF_SLOW = 2
_SLOW_NS = 200_000_000
_STILL_FASTER = 0.98
_MAX_WARM_UP = 40
_GPU_WARM_UP_NS = 200_000_000
_MAX_ROUNDS = 4
_SHORT_NS = 2_000_000
_MOST_RUNS = 64


@dataclass(frozen=True, kw_only=True)
class TimedPairs:
    """The runs of a network and of its reference, in the order in which each ran."""

    samples: Samples
    reference: Samples


def no_progress() -> None:
    """Tell nobody that another run is done."""


def warm_up(session: RuntimeSession, *, progress: Callable[[], None] = no_progress) -> int:
    """Run until runs no longer become faster, on a GPU also until its clocks are up; the number of runs.

    `progress` is called after each run.
    """
    samples: list[Sample] = []
    while len(samples) < _MAX_WARM_UP or not _lasted(samples):
        samples.append(session.run_once())
        progress()
        if _lasted(samples) and _stationary([duration_ns(sample) for sample in samples]):
            break
    return len(samples)


def runs_per_sample(session: RuntimeSession) -> int:
    """How many runs in a row are timed as one: enough to take 2 ms.

    A network that takes less is at the mercy of clocks and of the caches that the reference network left behind.
    """
    typical_ns = median(duration_ns(session.run_once()) for _ in range(3))
    return min(_MOST_RUNS, max(1, round(_SHORT_NS / max(typical_ns, 1))))


def time_pairs(
    candidate: RuntimeSession,
    reference: RuntimeSession,
    *,
    pairs: int,
    setting: Setting,
    runs: tuple[int, int] = (1, 1),
    progress: Callable[[], None] = no_progress,
) -> TimedPairs:
    """Run both in turn, `pairs` times each; which one begins a pair alternates.

    `runs` says how many runs of each are one sample, their mean; before several there is one that does not count.

    Where only undisturbed runs count (a CPU with several threads), pairs are added until enough of both do, up to
    four times as many. `progress` is called between pairs.
    """
    ours: list[Sample] = []
    theirs: list[Sample] = []
    turns = ((candidate, ours, runs[0]), (reference, theirs, runs[1]))
    for index in range(_MAX_ROUNDS * pairs):
        if index >= pairs and _enough(ours, pairs) and _enough(theirs, pairs):
            break
        for session, found, times in turns if index % 2 == 0 else reversed(turns):
            found.append(_sample(session, times))
        progress()
    return TimedPairs(
        samples=to_samples(ours, runs_per_sample=runs[0]), reference=to_samples(theirs, runs_per_sample=runs[1])
    )


def _sample(session: RuntimeSession, times: int) -> Sample:
    """The mean of so many runs in a row; interruptions are all of them."""
    if times == 1:
        return session.run_once()
    session.run_once()
    every = tuple(session.run_once() for _ in range(times))
    cpu, device = (_known(every, clock) for clock in (lambda run: run.cpu_ns, lambda run: run.device_ns))
    return Sample(
        wall_ns=sum(run.wall_ns for run in every) // times,
        cpu_ns=sum(cpu) // times if cpu else None,
        device_ns=sum(device) // times if device else None,
        switches=sum(run.switches for run in every),
    )


def to_samples(runs: Iterable[Sample], *, runs_per_sample: int = 1) -> Samples:
    """Samples as they are recorded; what one of them does not know is left out for all."""
    every = tuple(runs)
    return Samples(
        runs_per_sample=runs_per_sample,
        wall_ns=tuple(run.wall_ns for run in every),
        cpu_ns=_known(every, lambda run: run.cpu_ns),
        device_ns=_known(every, lambda run: run.device_ns),
        switches=() if _known(every, lambda run: run.device_ns) else tuple(run.switches for run in every),
    )


def duration_ns(sample: Sample) -> int:
    """The time of a run by the best clock that it has."""
    if sample.device_ns is not None:
        return sample.device_ns
    return sample.wall_ns if sample.cpu_ns is None else sample.cpu_ns


def _known(runs: tuple[Sample, ...], value: Callable[[Sample], int | None]) -> tuple[int, ...]:
    found = [value(run) for run in runs]
    return tuple(item for item in found if item is not None) if None not in found else ()


def _enough(runs: list[Sample], pairs: int) -> bool:
    """Whether enough runs count: those by a clock of their own all do, others if nothing disturbed them."""
    return sum(run.device_ns is not None or run.cpu_ns is not None or run.switches == 0 for run in runs) >= pairs


def _lasted(samples: list[Sample]) -> bool:
    """Whether a GPU was busy for long enough to raise its clocks; a CPU needs no such time."""
    if not samples or samples[0].device_ns is None:
        return bool(samples)
    return sum(sample.wall_ns for sample in samples) >= _GPU_WARM_UP_NS


def _stationary(durations: list[int]) -> bool:
    """Whether the last few runs were about as slow as those before them."""
    window = _WINDOW_OF_SLOW if min(durations) > _SLOW_NS else _WINDOW
    if len(durations) < 2 * window:
        return False
    return median(durations[-window:]) >= _STILL_FASTER * median(durations[-2 * window : -window])
