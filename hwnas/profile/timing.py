"""Time two networks against each other: warm up, then run them in strict alternation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from hwnas.profile.runners.runner import RuntimeSession, Sample
from hwnas.records import Samples

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


@dataclass(frozen=True, kw_only=True)
class TimedPairs:
    """Runs of a network and of its reference network, each in order of time."""

    samples: Samples
    reference: Samples


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
    samples: list[Sample] = []
    while len(samples) < _MAX_WARM_UP_RUNS or not _clocks_are_up(samples):
        samples.append(session.run_once())
        progress()
        if _clocks_are_up(samples) and _is_stationary([duration_ns(sample) for sample in samples]):
            break
    return len(samples)


def runs_per_sample(session: RuntimeSession) -> int:
    """Return the number of consecutive runs that make one sample of at least about 2 ms."""
    typical_ns = median(duration_ns(session.run_once()) for _ in range(3))
    return min(_MAX_RUNS_PER_SAMPLE, max(1, round(_MIN_SAMPLE_NS / max(typical_ns, 1))))


def time_pairs(
    candidate: RuntimeSession,
    reference: RuntimeSession,
    *,
    pairs: int,
    runs: tuple[int, int] = (1, 1),
    progress: Callable[[], None] = no_progress,
) -> TimedPairs:
    """Run two networks in strict alternation.

    Strict pairs make the ratio of the two times robust: both networks see the same load, temperature and clocks within
    milliseconds. The network that starts a pair alternates, so that neither always runs on the caches of the other.

    Where only undisturbed runs are valid (a CPU with several threads), pairs are added until enough runs of both are
    valid, up to four times the requested number.

    Args:
        candidate: The network to time.
        reference: The reference network.
        pairs: Number of pairs.
        runs: Runs per sample of the candidate and of the reference. A sample is their mean.
        progress: Called after each pair.
    """
    candidate_samples: list[Sample] = []
    reference_samples: list[Sample] = []
    turns = ((candidate, candidate_samples, runs[0]), (reference, reference_samples, runs[1]))
    for index in range(_MAX_EXTRA_PAIRS * pairs):
        if index >= pairs and _num_valid(candidate_samples) >= pairs and _num_valid(reference_samples) >= pairs:
            break
        for session, samples, count in turns if index % 2 == 0 else reversed(turns):
            samples.append(_time_sample(session, count))
        progress()
    return TimedPairs(
        samples=to_samples(candidate_samples, runs_per_sample=runs[0]),
        reference=to_samples(reference_samples, runs_per_sample=runs[1]),
    )


def to_samples(runs: Iterable[Sample], *, runs_per_sample: int = 1) -> Samples:
    """Convert runs to the form that is recorded; a clock that one run lacks is left out for all."""
    samples = tuple(runs)
    device_ns = _if_complete([sample.device_ns for sample in samples])
    return Samples(
        runs_per_sample=runs_per_sample,
        wall_ns=tuple(sample.wall_ns for sample in samples),
        cpu_ns=_if_complete([sample.cpu_ns for sample in samples]),
        device_ns=device_ns,
        switches=() if device_ns else tuple(sample.switches for sample in samples),
    )


def duration_ns(sample: Sample) -> int:
    """Return the time of a run by the best clock it has: device, CPU or wall time."""
    if sample.device_ns is not None:
        return sample.device_ns
    return sample.wall_ns if sample.cpu_ns is None else sample.cpu_ns


def _time_sample(session: RuntimeSession, runs: int) -> Sample:
    """Mean of several consecutive runs, with the interruptions of all of them."""
    if runs == 1:
        return session.run_once()
    session.run_once()  # refills the caches that the other network evicted; not counted
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


def _num_valid(samples: Sequence[Sample]) -> int:
    """Number of valid samples: all that have CPU or device time, others only if they were not interrupted."""
    return sum(sample.device_ns is not None or sample.cpu_ns is not None or sample.switches == 0 for sample in samples)


def _clocks_are_up(samples: Sequence[Sample]) -> bool:
    """Return True if a GPU was under load for long enough; a CPU needs a single run."""
    if not samples or samples[0].device_ns is None:
        return bool(samples)
    return sum(sample.wall_ns for sample in samples) >= _GPU_WARM_UP_NS


def _is_stationary(durations: Sequence[int]) -> bool:
    """Return True if the last few runs are about as slow as the few before them."""
    window = _SLOW_WINDOW if min(durations) > _SLOW_NS else _WINDOW
    if len(durations) < 2 * window:
        return False
    return median(durations[-window:]) >= _STATIONARY_RATIO * median(durations[-2 * window : -window])
