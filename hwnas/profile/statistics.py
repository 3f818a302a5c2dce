"""Statistics of timed runs: latency ratios, intervals, noise floor, drift. Plain numpy on nanoseconds, no torch.

The time of a network is the mean of the fastest 30 % of its valid runs. Its latency is a ratio: its time over that of
the reference network, which alternated with it. Whatever slows both down (other load on the machine, a lower clock)
cancels in the ratio. Multiplied by the reference network's own time, from all its runs in the campaign, the ratio
becomes milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.records import DeviceState, Samples

# Disturbances only ever make a run longer, so the fastest runs are closer to the undisturbed time than the mean or the
# median of all. The minimum would be lower still, but it rests on a single run and varies more, as a quantile does.
FASTEST = 0.3
"""The share of a network's runs, the fastest ones, whose mean counts as its time."""

MIN_RUNS = 8
"""A stable measurement has at least this many valid runs."""

MIN_NETWORKS = 12
"""A noise floor needs at least this many networks measured twice."""

MAX_INTERVAL = 0.04
"""Largest width of a stable measurement's 95 % interval, relative to the latency."""

MAX_SLOWED = 1.25
"""Time of the fixed loop next to a run, relative to the shortest, above which the core was slowed down.

Undisturbed, it takes up to 1.1 times the shortest; with both threads of a physical core at work, 1.4 times and more.
"""

MAX_HALVES = 0.05
"""Largest relative difference between the two halves of a stable measurement."""

ENQUEUE_BOUND = 0.8
"""A network is enqueue-bound if the host takes more than this share of a run's device time to queue it (trtexec's)."""

MAX_LIMITED = 0.01
"""Share of the time of the runs above which a limit that held the clocks down makes a measurement unstable."""

HARMLESS_THROTTLE = ("gpu_idle", "applications_clocks_setting", "display_clock_setting")
"""Throttle reasons that do not make a measurement unstable."""

_MAX_DRAWS = 1 << 20
"""Bootstrap draws at once; measurements with thousands of runs are resampled in blocks."""

Nanoseconds = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Stability of one measurement, with the reason if it is unstable."""

    stable: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Confidence interval of a latency."""

    low_ms: float
    high_ms: float


@dataclass(frozen=True, kw_only=True)
class ReferenceDrift:
    """Drift of the reference network's time during a campaign, as fractions (0.01 is one percent)."""

    change: float
    """From the first third of the measurements to the last third, by their medians."""
    spread: float
    """Standard deviation of the logarithms."""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Repeatability of a profile, as fractions (0.01 is one percent)."""

    sigma: float
    """Standard deviation of one measurement, without the shift."""
    mean_error: float
    """Mean absolute relative error that a perfect predictor would have on this profile."""
    num_networks: int
    shift: float = 0.0
    """Median change from the first measurement of a network to the second, which is no noise."""


def valid_runs(samples: Samples) -> Nanoseconds:
    """Return the times of the runs that count.

    These are device times if there are any, else CPU times, else the wall times of the runs without an involuntary
    context switch; of each those whose core was not slowed down, if it was watched.
    """
    valid: Nanoseconds = _all_runs(samples)[_are_valid(samples)]
    return valid


def run_ns(samples: Samples, runs: Nanoseconds | None = None) -> float:
    """Return the mean of the fastest 30 % of some runs, by default the valid ones, or of all runs if there is none."""
    runs = valid_runs(samples) if runs is None else runs
    if not len(runs):
        runs = _all_runs(samples)
    if not len(runs):
        raise InputError("a measurement must have at least one run")
    time = float(mean_of_fastest(runs))
    if time <= 0:
        raise InputError("the runs of a measurement must take a time above 0", got=f"{time:g} ns")
    return time


def latency_ratio(samples: Samples, reference: Samples) -> float:
    """Return the latency of a network relative to the reference network that alternated with it."""
    runs, reference_runs = (times[~np.isnan(times)] for times in _counted_runs(samples, reference))
    return run_ns(samples, runs) / run_ns(reference, reference_runs)


def reference_latency_ms(references: Iterable[Samples]) -> float:
    """Return the reference network's latency over a campaign.

    Args:
        references: Runs of the reference network, one entry for each measurement of the campaign.

    Raises:
        InputError: There is no run at all.
    """
    times = ReferenceTimes()
    for samples in references:
        times.add(samples)
    return times.latency_ms()


class ReferenceTimes:
    """Runs of the reference network, collected measurement by measurement."""

    def __init__(self) -> None:
        self._valid: list[Nanoseconds] = []
        self._disturbed: list[Nanoseconds] = []

    def add(self, samples: Samples) -> None:
        """Add the runs of one measurement."""
        runs = valid_runs(samples)
        if len(runs):
            self._valid.append(runs)
        else:
            self._disturbed.append(_all_runs(samples))

    def latency_ms(self) -> float:
        """Return the latency over all runs; see `reference_latency_ms`."""
        runs = self._valid or self._disturbed  # if no run was undisturbed, the verdicts call all measurements unstable
        if not runs:
            raise InputError("a campaign must have at least one run of the reference network")
        return float(mean_of_fastest(np.concatenate(runs))) / 1e6


def latency_ms(samples: Samples, reference: Samples, *, reference_ms: float) -> float:
    """Return the undisturbed latency of a network.

    Args:
        samples: Runs of the network.
        reference: Runs of the reference network that alternated with them.
        reference_ms: The reference network's latency over the campaign (`reference_latency_ms`).
    """
    return latency_ratio(samples, reference) * reference_ms


def latency_median_ms(samples: Samples) -> float:
    """Return the median wall time, which includes whatever else the machine was doing."""
    return float(np.median(np.asarray(samples.wall_ns, dtype=np.float64))) / 1e6


def host_median_ms(samples: Samples) -> float | None:
    """Return the median time that the host took to queue a run; None if it is not known."""
    return float(np.median(np.asarray(samples.host_ns, dtype=np.float64))) / 1e6 if samples.host_ns else None


def is_enqueue_bound(samples: Samples) -> bool:
    """Return True if the host took about as long to queue the runs of a network as the device to do them.

    The host then decides the latency, and a faster device would hardly be faster.
    """
    host_ms = host_median_ms(samples)
    if host_ms is None or not samples.device_ns:
        return False
    return host_ms > ENQUEUE_BOUND * float(np.median(np.asarray(samples.device_ns, dtype=np.float64))) / 1e6


def throughput(latency_ms: float, *, batch: int) -> float:
    """Return the number of images per second."""
    return batch / latency_ms * 1e3


def latency_interval(
    samples: Samples,
    reference: Samples,
    *,
    reference_ms: float,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 400,
) -> Interval:
    """Compute a percentile bootstrap interval of `latency_ms` (Efron and Tibshirani 1993, chapter 13).

    It covers the variation between the runs of this process only. Another process would place its memory differently,
    which shifts all runs together (0.3 to 0.4 % was observed); the noise floor includes that.

    Args:
        samples: Runs of the network.
        reference: Runs of the reference network that alternated with them.
        reference_ms: The reference network's latency over the campaign.
        seed: Seed of the resampling.
        confidence: Coverage of the interval.
        resamples: Number of bootstrap samples.

    Raises:
        InputError: One of the two networks has no valid run.
    """
    ratios = _bootstrap_ratios(samples, reference, seed=seed, resamples=resamples)
    low, high = (fast_quantile(ratios, level) * reference_ms for level in ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(low_ms=float(low), high_ms=float(high))


def stability_verdict(
    samples: Samples,
    reference: Samples,
    *,
    states: Sequence[DeviceState | None] = (),
    limited: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Verdict:
    """Decide if a measurement is stable.

    Args:
        samples: Runs of the network.
        reference: Runs of the reference network that alternated with them.
        states: States of the device before, during and after the measurement.
        limited: Share of the time in which each limit held the clocks down.
        seed: Seed of the bootstrap interval.

    Returns:
        The verdict, with the first problem found: too few valid runs, throttling, a wide interval, unequal halves.
        What precedes the parenthesis of a reason names the kind of problem.
    """
    reasons = (_too_few_runs(samples, "network"), _too_few_runs(reference, "reference"), _throttling(states, limited))
    reason = next(filter(None, reasons), "") or _unsteadiness(samples, reference, seed=seed)
    return Verdict(stable=not reason, reason=reason)


def throttle_reasons(states: Sequence[DeviceState | None], limited: Mapping[str, float] | None) -> set[str]:
    """Return what slowed the device down: throttle reasons of its states, and limits that held for some of the time."""
    seen = {reason for state in states if state for reason in state.throttle}
    counted = {reason for reason, share in (limited or {}).items() if share > MAX_LIMITED}
    return (seen | counted) - set(HARMLESS_THROTTLE)


def reference_drift(times_ns: Sequence[float]) -> ReferenceDrift:
    """Compute the drift of the reference network's time over a campaign.

    Args:
        times_ns: `run_ns` of the reference network in each measurement, in order of time.
    """
    logs = np.log(np.asarray(times_ns, dtype=np.float64))
    if not len(logs):
        raise InputError("drift needs at least one measurement")
    third = max(1, len(logs) // 3)
    change = float(np.exp(np.median(logs[-third:]) - np.median(logs[:third]))) - 1
    return ReferenceDrift(change=change, spread=float(np.std(logs)))


def noise_floor(pairs: Sequence[tuple[float, float]]) -> NoiseFloor | None:
    """Estimate the noise of one measurement from repeated ones.

    Args:
        pairs: Two latencies of each repeated network, measured in different processes.

    Returns:
        The noise floor, or None with fewer than `MIN_NETWORKS` pairs.
    """
    if len(pairs) < MIN_NETWORKS:
        return None
    first, second = np.asarray(pairs, dtype=np.float64).T
    logs = np.log(second / first)
    shift = float(np.median(logs))
    # The difference of two equally noisy values is sqrt(2) times as large as the error of one of them. Its mean size is
    # taken, not its root mean square: a predictor's error is a mean as well, and one outlier must not raise the floor.
    apart = logs - shift
    return NoiseFloor(
        sigma=float(np.sqrt(np.mean(apart**2) / 2)),
        mean_error=float(np.mean(np.abs(apart)) / np.sqrt(2)),
        num_networks=len(pairs),
        shift=float(np.expm1(shift)),
    )


def mean_of_fastest(values: Nanoseconds) -> Any:
    """Return the mean of the smallest 30 % of the values along the last axis, of at least one; NaN counts as none."""
    missing = np.isnan(values)
    if not missing.any():
        count = max(1, round(FASTEST * values.shape[-1]))
        return np.partition(values, count - 1, axis=-1)[..., :count].mean(axis=-1)
    counts = np.maximum(1, np.round(FASTEST * (~missing).sum(axis=-1))).astype(np.int64)
    sums = np.cumsum(np.sort(values, axis=-1), axis=-1)  # NaN comes last
    return np.take_along_axis(sums, counts[..., None] - 1, axis=-1)[..., 0] / counts


def fast_quantile(values: Nanoseconds, level: float) -> Any:
    """Return the same as `np.quantile(values, level, axis=-1)`, which takes six times as long for short rows."""
    ordered, position = np.sort(values, axis=-1), (values.shape[-1] - 1) * level
    below = int(position)
    above, weight = min(below + 1, values.shape[-1] - 1), position - below
    low, high = ordered[..., below], ordered[..., above]
    # The two forms of the interpolation round like those of numpy.
    return low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)


def _are_valid(samples: Samples) -> NDArray[np.bool_]:
    """True for each run that counts, see `valid_runs`."""
    valid = np.ones(len(samples.wall_ns), dtype=np.bool_)
    if samples.switches and not samples.device_ns and not samples.cpu_ns:
        valid &= np.asarray(samples.switches) == 0
    if samples.quickest_loop_ns is not None:
        valid &= np.asarray(samples.loop_ns) <= MAX_SLOWED * samples.quickest_loop_ns
    return valid


def _counted_runs(samples: Samples, reference: Samples) -> tuple[Nanoseconds, Nanoseconds]:
    """The runs of both networks that their ratio is made of, with NaN in the place of the others: the valid ones.

    If too few of one are left because the core was slowed down, all runs of both count: a ratio of undisturbed runs to
    slowed ones would be further off. The verdict calls such a measurement unstable.
    """
    valid = _are_valid(samples), _are_valid(reference)
    if samples.quickest_loop_ns is not None and min(map(np.count_nonzero, valid)) < MIN_RUNS:
        return _all_runs(samples), _all_runs(reference)
    return np.where(valid[0], _all_runs(samples), np.nan), np.where(valid[1], _all_runs(reference), np.nan)


def _all_runs(samples: Samples) -> Nanoseconds:
    """Times of all runs by the best clock."""
    return np.asarray(samples.device_ns or samples.cpu_ns or samples.wall_ns, dtype=np.float64)


def _bootstrap_ratios(samples: Samples, reference: Samples, *, seed: int, resamples: int) -> Nanoseconds:
    """Latency ratios of pairs resampled with replacement.

    The runs of a pair are next to each other in time: they are drawn together, so that a slow moment affects both sides
    of the ratio, and all samples of a turn, as it did in the measurement.
    """
    runs, reference_runs = _counted_runs(samples, reference)
    counts = [int(np.count_nonzero(~np.isnan(times))) for times in (runs, reference_runs)]
    if not all(counts):
        raise InputError("an interval needs valid runs", got=f"{counts[0]} and {counts[1]} of the reference")
    num_pairs = min(len(runs), len(reference_runs))
    paired = not len(runs) % num_pairs and not len(reference_runs) % num_pairs
    turns = [times.reshape(num_pairs if paired else len(times), -1) for times in (runs, reference_runs)]
    sizes = len(turns[0]), 0 if paired else len(turns[1])
    block = min(resamples, max(1, _MAX_DRAWS // max(len(runs), len(reference_runs))))
    ratios = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = _bootstrap_draws((seed, start) if start else seed, size, *sizes)
        ours, theirs = (
            mean_of_fastest(part[drawn].reshape(size, -1)) for part, drawn in zip(turns, draws, strict=True)
        )
        ratios.append(ours / theirs)
    found: Nanoseconds = np.concatenate(ratios)
    known: Nanoseconds = found[~np.isnan(found)]  # without draws of pairs in which no run of a network counts
    return known


@lru_cache(maxsize=4)
def _bootstrap_draws(
    seed: int | tuple[int, int], resamples: int, num_turns: int, num_reference_turns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of resampled turns; with 0 turns of the reference they are drawn as pairs. A campaign has one seed."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, num_turns, (resamples, num_turns))
    if not num_reference_turns:
        return draws, draws
    return draws, rng.integers(0, num_reference_turns, (resamples, num_reference_turns))


def _too_few_runs(samples: Samples, network: str) -> str:
    runs = len(valid_runs(samples))
    if runs >= MIN_RUNS:
        return ""
    disturbed = len(samples.wall_ns) - runs
    return f"too few valid runs of the {network} ({runs} valid, {disturbed} disturbed, at least {MIN_RUNS} needed)"


def _throttling(states: Sequence[DeviceState | None], limited: Mapping[str, float] | None) -> str:
    reasons = throttle_reasons(states, limited)
    if not reasons:
        return ""
    share = max((limited or {}).get(reason, 0.0) for reason in reasons)
    return f"the device throttled: {', '.join(sorted(reasons))}" + (f" ({share:.0%} of the time)" if share else "")


def _unsteadiness(samples: Samples, reference: Samples, *, seed: int) -> str:
    interval = latency_interval(samples, reference, reference_ms=1.0, seed=seed)
    width = (interval.high_ms - interval.low_ms) / latency_ratio(samples, reference)
    if width > MAX_INTERVAL:
        return f"the confidence interval is too wide ({width:.1%} of the latency, at most {MAX_INTERVAL:.0%})"
    halves = _halves_ratio(valid_runs(samples)) / _halves_ratio(valid_runs(reference))
    if abs(np.log(halves)) > MAX_HALVES:
        return f"the two halves of the runs differ too much (by {halves - 1:+.1%}, at most {MAX_HALVES:.0%})"
    return ""


def _halves_ratio(runs: Nanoseconds) -> float:
    """Time of the second half of the runs over that of the first half."""
    middle = len(runs) // 2
    return float(mean_of_fastest(runs[middle:]) / mean_of_fastest(runs[:middle]))
