"""What the runs of a network and of its reference say; plain formulas on nanoseconds, no torch.

The time of a network is the 20 % quantile of its runs that count, taken over the same quantile of the reference
network, which ran in strict turn with it: what slows both down falls out. It becomes milliseconds by the reference's
own time on the machine, the 20 % quantile of all its runs in the campaign.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.records import DeviceState, Samples

QUANTILE = 0.2
"""Of a network's runs: low enough to miss disturbances, high enough to rest on several runs."""

MIN_RUNS = 8
"""Fewer runs that count make no stable measurement."""

MIN_NETWORKS = 12
"""Fewer networks measured twice tell no noise floor."""

MAX_INTERVAL = 0.04
"""A stable measurement's 95 % interval is at most so wide, as a share of the latency."""

MAX_HALVES = 0.05
"""The two halves of a stable measurement differ by at most this."""

HARMLESS_THROTTLE = ("gpu_idle", "applications_clocks_setting", "display_clock_setting")
"""Throttle reasons that say nothing against a measurement."""

Nanoseconds = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a measurement can be relied on, and if not, why."""

    stable: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval of a latency."""

    low_ms: float
    high_ms: float


@dataclass(frozen=True, kw_only=True)
class ReferenceDrift:
    """How the reference network's time moved during a campaign; shares, 0.01 is one percent."""

    change: float
    """From the first third of the measurements to the last one, by their medians."""
    spread: float
    """Standard deviation of the logarithms."""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What measuring the same network again gives; shares, 0.01 is one percent."""

    sigma: float
    """Standard deviation of one measurement: rms log-ratio of repeated pairs over the square root of 2."""
    mean_error: float
    """The mean absolute error of a perfect predictor: 0.8 sigma."""
    num_networks: int


def valid_runs(samples: Samples) -> Nanoseconds:
    """The runs that count: by the device's clock, else CPU time, else the wall time of undisturbed runs."""
    if samples.device_ns:
        return np.asarray(samples.device_ns, dtype=np.float64)
    if samples.cpu_ns:
        return np.asarray(samples.cpu_ns, dtype=np.float64)
    wall = np.asarray(samples.wall_ns, dtype=np.float64)
    if not samples.switches:
        return wall
    calm: Nanoseconds = wall[np.asarray(samples.switches) == 0]
    return calm


def quantile_ns(samples: Samples) -> float:
    """The 20 % quantile of the runs that count; of all runs where none does."""
    runs = valid_runs(samples)
    if not len(runs):
        runs = np.asarray(samples.wall_ns, dtype=np.float64)
    if not len(runs):
        raise InputError("a measurement must have at least one run")
    found = float(np.quantile(runs, QUANTILE))
    if found <= 0:
        raise InputError("the runs of a measurement must take some time", got=f"{found:g} ns")
    return found


def latency_ratio(samples: Samples, reference: Samples) -> float:
    """The latency of a network over that of the reference network that ran in turn with it."""
    return quantile_ns(samples) / quantile_ns(reference)


def reference_latency_ms(references: Iterable[Samples]) -> float:
    """The reference network's own latency: the 20 % quantile of all its runs in a campaign that count.

    Where none counts, all do, as for one measurement; then no verdict is stable.
    """
    every = tuple(references)
    runs = _joined(valid_runs(samples) for samples in every)
    if not len(runs):
        runs = _joined(np.asarray(samples.wall_ns, dtype=np.float64) for samples in every)
    if not len(runs):
        raise InputError("a campaign must have at least one run of the reference network")
    return float(np.quantile(runs, QUANTILE)) / 1e6


def latency_ms(samples: Samples, reference: Samples, *, reference_ms: float) -> float:
    """The undisturbed latency, `reference_ms` being the reference network's in the whole campaign."""
    return latency_ratio(samples, reference) * reference_ms


def latency_median_ms(samples: Samples) -> float:
    """The median wall time: what a user of this machine sees, as busy as it is."""
    return float(np.median(np.asarray(samples.wall_ns, dtype=np.float64))) / 1e6


def throughput(latency_ms: float, *, batch: int) -> float:
    """Images a second."""
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
    """A bootstrap interval of `latency_ms`: how far the runs at hand decide it.

    It does not know what another process would give (memory placement, 0.3-0.4 %); the noise floor does.
    """
    ratios = _bootstrap(samples, reference, seed=seed, resamples=resamples)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2]) * reference_ms
    return Interval(low_ms=float(low), high_ms=float(high))


def stability_verdict(
    samples: Samples, reference: Samples, *, states: Sequence[DeviceState | None] = (), seed: int = 0
) -> Verdict:
    """Whether a measurement is stable; `states` are the device's before and after it."""
    reasons = (_few(samples, "network"), _few(reference, "reference"), _throttled(states))
    reason = next(filter(None, reasons), "") or _unsteady(samples, reference, seed=seed)
    return Verdict(stable=not reason, reason=reason)


def reference_drift(references: Sequence[Samples]) -> ReferenceDrift:
    """How the reference network's time moved over the measurements of a campaign, given in order of time."""
    logs = np.log([quantile_ns(samples) for samples in references])
    if not len(logs):
        raise InputError("drift needs at least one measurement")
    third = max(1, len(logs) // 3)
    change = float(np.exp(np.median(logs[-third:]) - np.median(logs[:third]))) - 1
    return ReferenceDrift(change=change, spread=float(np.std(logs)))


def noise_floor(pairs: Sequence[tuple[float, float]]) -> NoiseFloor | None:
    """The noise floor from networks measured twice, each in another process; None if they are too few."""
    if len(pairs) < MIN_NETWORKS:
        return None
    first, second = np.asarray(pairs, dtype=np.float64).T
    sigma = float(np.sqrt(np.mean(np.log(first / second) ** 2) / 2))
    return NoiseFloor(sigma=sigma, mean_error=0.8 * sigma, num_networks=len(pairs))


def _joined(runs: Iterable[Nanoseconds]) -> Nanoseconds:
    return np.concatenate([np.zeros(0), *runs])


def _bootstrap(samples: Samples, reference: Samples, *, seed: int, resamples: int) -> Nanoseconds:
    """Ratios of quantiles of runs drawn anew; pairs stay together where every run counts."""
    rng = np.random.default_rng(seed)
    ours, theirs = valid_runs(samples), valid_runs(reference)
    if not len(ours) or not len(theirs):
        raise InputError("an interval needs runs that count", got=f"{len(ours)} and {len(theirs)} of the reference")
    draws = rng.integers(0, len(ours), (resamples, len(ours)))
    paired = len(ours) == len(theirs) == len(samples.wall_ns)
    others = draws if paired else rng.integers(0, len(theirs), (resamples, len(theirs)))
    ratios = np.quantile(ours[draws], QUANTILE, axis=1) / np.quantile(theirs[others], QUANTILE, axis=1)
    return np.asarray(ratios, dtype=np.float64)


def _few(samples: Samples, whose: str) -> str:
    runs = len(valid_runs(samples))
    if runs >= MIN_RUNS:
        return ""
    disturbed = len(samples.wall_ns) - runs
    return f"only {runs} runs of the {whose} count ({disturbed} were disturbed), and {MIN_RUNS} must"


def _throttled(states: Sequence[DeviceState | None]) -> str:
    found = {reason for state in states if state for reason in state.throttle if reason not in HARMLESS_THROTTLE}
    return f"the device throttled: {', '.join(sorted(found))}" if found else ""


def _unsteady(samples: Samples, reference: Samples, *, seed: int) -> str:
    found = latency_interval(samples, reference, reference_ms=1.0, seed=seed)
    width = (found.high_ms - found.low_ms) / latency_ratio(samples, reference)
    if width > MAX_INTERVAL:
        return f"the runs leave {width:.1%} of the latency open, and {MAX_INTERVAL:.0%} is the most"
    halves = _halves(valid_runs(samples)) / _halves(valid_runs(reference))
    if abs(np.log(halves)) > MAX_HALVES:
        return f"the second half is {halves - 1:+.1%} off the first, and {MAX_HALVES:.0%} is the most"
    return ""


def _halves(runs: Nanoseconds) -> float:
    """The second half's quantile over the first one's."""
    middle = len(runs) // 2
    return float(np.quantile(runs[middle:], QUANTILE) / np.quantile(runs[:middle], QUANTILE))
