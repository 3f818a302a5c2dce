"""What a profile is worth: how many networks, what failed and why, noise floor, drift, unstable rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import GateError
from hwnas.profile.statistics import (
    HARMLESS_THROTTLE,
    MIN_NETWORKS,
    NoiseFloor,
    ReferenceDrift,
    Verdict,
    latency_interval,
    latency_median_ms,
    latency_ms,
    noise_floor,
    reference_drift,
    reference_latency_ms,
    stability_verdict,
    throughput,
)
from hwnas.records import Measurement, Profile, Samples, Subject

MAX_MEAN_ERROR = 0.02
"""The largest noise floor of a campaign that passes `--strict`."""

MAX_UNSTABLE = 0.1
"""The largest share of unstable measurements of one that does."""

MAX_DRIFT = 0.1
"""The largest drift of the reference network of one that does."""


@dataclass(frozen=True, kw_only=True)
class MeasurementSummary:
    """What one measurement says, in the units that users ask for."""

    subject: Subject
    exporter: str
    latency_ms: float
    """Undisturbed: against the reference network that ran in turn with it."""
    latency_median_ms: float
    """The median wall time, as busy as the machine was."""
    throughput: float
    """Images a second, undisturbed."""
    memory_mb: float | None
    energy_j: float | None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """How many networks could not be measured for one reason, and what the last of them said."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True, kw_only=True)
class ProfileQuality:
    """How good a profile is; shares, 0.01 is one percent."""

    num_networks: int
    num_measurements: int
    num_repeated: int
    failures: tuple[FailureCount, ...]
    num_unstable: int
    unstable: tuple[FailureCount, ...]
    """Why measurements are unstable, most frequent first."""
    reference_ms: float | None
    noise_floor: NoiseFloor | None
    """None where fewer than 12 networks were measured twice."""
    drift: ReferenceDrift | None
    exporters: tuple[str, ...]
    throttled: tuple[str, ...]
    """Throttle reasons that the device gave."""
    measured_s: float
    """Time spent on measuring, pauses left out."""
    first_utc: str | None
    last_utc: str | None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the measurements should not be relied on; empty where they may be."""
        return tuple(filter(None, (_floor_problem(self), _unstable_problem(self), _drift_problem(self))))


def summarize_measurements(profile: Profile) -> tuple[MeasurementSummary, ...]:
    """What each measurement that has samples says, in the order of the rows."""
    pairs = _samples(profile)
    if not pairs:
        return ()
    reference = reference_latency_ms([theirs for _, _, theirs in pairs])
    return tuple(_figures(row, ours, theirs, reference_ms=reference) for row, ours, theirs in pairs)


def assess_profile(profile: Profile) -> ProfileQuality:
    """Judge a profile."""
    found = summarize_measurements(profile)
    pairs = _samples(profile)
    repeated = _repeated([row for row, _, _ in pairs], found)
    rows = [row for row, _, _ in pairs]
    references = [theirs for _, _, theirs in sorted(pairs, key=lambda pair: pair[0].started_utc)]
    unstable = [item.verdict.reason for item in found if not item.verdict.stable]
    failed = [(row.failure.reason, row.failure.message) for row in profile.failures if row.failure]
    times = sorted(row.started_utc for row in profile.measurements)
    return ProfileQuality(
        num_networks=len(profile.counts),
        num_measurements=len(rows),
        num_repeated=len(repeated),
        failures=_counted(failed),
        num_unstable=len(unstable),
        unstable=_counted([(_kind(reason), reason) for reason in unstable]),
        reference_ms=reference_latency_ms(references) if references else None,
        noise_floor=noise_floor(repeated),
        drift=reference_drift(references) if references else None,
        exporters=tuple(sorted({row.setting.exporter for row in rows})),
        throttled=_throttled(rows),
        measured_s=sum(row.duration_s for row in profile.measurements),
        first_utc=times[0] if times else None,
        last_utc=times[-1] if times else None,
    )


def repeated_pairs(profile: Profile) -> list[tuple[float, float]]:
    """The latencies of networks measured twice: first and second, of different processes."""
    return _repeated([row for row, _, _ in _samples(profile)], summarize_measurements(profile))


def _repeated(rows: Sequence[Measurement], found: Sequence[MeasurementSummary]) -> list[tuple[float, float]]:
    first: dict[str, tuple[str, float]] = {}
    pairs: dict[str, tuple[float, float]] = {}
    for row, item in zip(rows, found, strict=True):
        known = first.setdefault(row.subject.network_id, (row.process_id, item.latency_ms))
        if known[0] != row.process_id:
            pairs.setdefault(row.subject.network_id, (known[1], item.latency_ms))
    return list(pairs.values())


def require_measured(qualities: Sequence[tuple[str, ProfileQuality]]) -> None:
    """The gate of every campaign: no profile may consist of failures alone, of this session or of earlier ones."""
    empty = [
        f"{name}: {', '.join(f'{failure.count} {failure.reason}' for failure in quality.failures)}"
        for name, quality in qualities
        if quality.failures and not quality.num_measurements
    ]
    if empty:
        hint = "hwnas profiles show NAME for what they said; --retry tries them again"
        raise GateError("no network could be measured, all failed", got="; ".join(empty), hint=hint)


def require_stable(qualities: Sequence[tuple[str, ProfileQuality]]) -> None:
    """The gate of `--strict`: every profile must be one to rely on."""
    problems = [f"{name}: {problem}" for name, quality in qualities for problem in quality.problems]
    if problems:
        hint = "measure again when the machine is less busy, with more --pairs or --repeats"
        raise GateError("the measurements must be stable", got="; ".join(problems), hint=hint)


def _samples(profile: Profile) -> list[tuple[Measurement, Samples, Samples]]:
    return [(row, row.samples, row.reference) for row in profile.measured if row.samples and row.reference]


def _figures(row: Measurement, ours: Samples, theirs: Samples, *, reference_ms: float) -> MeasurementSummary:
    latency = latency_ms(ours, theirs, reference_ms=reference_ms)
    return MeasurementSummary(
        subject=row.subject,
        exporter=row.setting.exporter,
        latency_ms=latency,
        latency_median_ms=latency_median_ms(ours),
        throughput=throughput(latency, batch=row.setting.batch),
        memory_mb=row.memory_mb,
        energy_j=row.energy_j,
        verdict=stability_verdict(ours, theirs, states=(row.before, row.after), seed=row.seed),
    )


def _counted(items: Sequence[tuple[str, str]]) -> tuple[FailureCount, ...]:
    last = dict(items)
    counts = Counter(reason for reason, _ in items).most_common()
    return tuple(FailureCount(reason=reason, count=count, example=last[reason]) for reason, count in counts)


def _kind(reason: str) -> str:
    """What kind of instability a reason tells of: its words without the figures."""
    words = [word for word in reason.split("(")[0].split() if not any(letter.isdigit() for letter in word)]
    return " ".join(words[:6]).rstrip(",:")


def _throttled(rows: Sequence[Measurement]) -> tuple[str, ...]:
    reasons = {reason for row in rows for state in (row.before, row.after) if state for reason in state.throttle}
    return tuple(sorted(reasons - set(HARMLESS_THROTTLE)))


def _floor_problem(quality: ProfileQuality) -> str | None:
    floor = quality.noise_floor
    if floor is None:
        return f"{quality.num_repeated} networks were measured twice, and {MIN_NETWORKS} tell a noise floor"
    if floor.mean_error > MAX_MEAN_ERROR:
        return f"the noise floor is {floor.mean_error:.1%}, and {MAX_MEAN_ERROR:.0%} is the most"
    return None


def _unstable_problem(quality: ProfileQuality) -> str | None:
    share = quality.num_unstable / max(1, quality.num_measurements)
    if share > MAX_UNSTABLE:
        return f"{share:.0%} of the measurements are unstable, and {MAX_UNSTABLE:.0%} is the most"
    return None


def _drift_problem(quality: ProfileQuality) -> str | None:
    if quality.drift is not None and abs(quality.drift.change) > MAX_DRIFT:
        return f"the reference network drifted by {quality.drift.change:+.1%}, and {MAX_DRIFT:.0%} is the most"
    return None


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One network as it was measured; of networks measured twice, the mean."""

    latency_ms: float = float("nan")
    low_ms: float = float("nan")
    high_ms: float = float("nan")
    memory_mb: float | None = None
    energy_j: float | None = None
    batch: int = 1
    verdict: Verdict | None = None
    failure: str | None = None

    def value(self, metric: str) -> float | None:
        """The value of a metric; None where it was not measured."""
        if self.failure is not None:
            return None
        if metric == "latency_ms":
            return self.latency_ms
        if metric == "throughput":
            return throughput(self.latency_ms, batch=self.batch)
        return self.memory_mb if metric == "memory_mb" else self.energy_j

    def ends(self, metric: str) -> tuple[float | None, float | None]:
        """The 95 % interval of the runs; None where the metric has none."""
        if self.failure is not None or metric not in ("latency_ms", "throughput"):
            return None, None
        if metric == "latency_ms":
            return self.low_ms, self.high_ms
        return throughput(self.high_ms, batch=self.batch), throughput(self.low_ms, batch=self.batch)


def results_by_network(profile: Profile) -> Mapping[str, NetworkResult]:
    """What a profile says, by the id of the network; those that could not be measured have a failure."""
    rows = [row for row in profile.measured if row.samples and row.reference]
    reference = reference_latency_ms([row.reference for row in rows if row.reference]) if rows else float("nan")
    grouped: dict[str, list[tuple[Measurement, MeasurementSummary]]] = {}
    for row, item in zip(rows, summarize_measurements(profile), strict=True):
        grouped.setdefault(row.subject.network_id, []).append((row, item))
    found = {network_id: _reading(pairs, reference_ms=reference) for network_id, pairs in grouped.items()}
    failures = {
        row.subject.network_id: NetworkResult(failure=f"{row.failure.reason}: {row.failure.message}")
        for row in profile.failures
        if row.failure is not None
    }
    return {**failures, **found}


def _reading(pairs: list[tuple[Measurement, MeasurementSummary]], *, reference_ms: float) -> NetworkResult:
    latencies, lows, highs = [], [], []
    for row, item in pairs:
        assert row.samples is not None
        assert row.reference is not None
        interval = latency_interval(row.samples, row.reference, reference_ms=reference_ms, seed=row.seed)
        latencies.append(item.latency_ms)
        lows.append(interval.low_ms)
        highs.append(interval.high_ms)
    # An unstable row makes the whole doubtful.
    verdict = min((item.verdict for _, item in pairs), key=lambda each: each.stable)
    return NetworkResult(
        latency_ms=float(np.exp(np.mean(np.log(latencies)))),
        low_ms=min(lows),
        high_ms=max(highs),
        memory_mb=_mean([item.memory_mb for _, item in pairs]),
        energy_j=_mean([item.energy_j for _, item in pairs]),
        batch=pairs[0][0].setting.batch,
        verdict=verdict,
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
