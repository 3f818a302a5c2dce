"""What a profile says of each network: one value of each metric, with its interval and its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.profile.statistics import Verdict, interval_ms, reference_latency_ms, throughput
from hwnas.profile.summary import Figures, figures
from hwnas.records import Measurement, Profile


@dataclass(frozen=True, kw_only=True)
class Reading:
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


def readings(profile: Profile) -> Mapping[str, Reading]:
    """What a profile says, by the id of the network; those that could not be measured have a failure."""
    rows = [row for row in profile.measured if row.samples and row.reference]
    reference = reference_latency_ms([row.reference for row in rows if row.reference]) if rows else float("nan")
    grouped: dict[str, list[tuple[Measurement, Figures]]] = {}
    for row, item in zip(rows, figures(profile), strict=True):
        grouped.setdefault(row.subject.network_id, []).append((row, item))
    found = {network_id: _reading(pairs, reference_ms=reference) for network_id, pairs in grouped.items()}
    failures = {
        row.subject.network_id: Reading(failure=f"{row.failure.reason}: {row.failure.message}")
        for row in profile.failures
        if row.failure is not None
    }
    return {**failures, **found}


def _reading(pairs: list[tuple[Measurement, Figures]], *, reference_ms: float) -> Reading:
    latencies, lows, highs = [], [], []
    for row, item in pairs:
        assert row.samples is not None
        assert row.reference is not None
        interval = interval_ms(row.samples, row.reference, reference_ms=reference_ms, seed=row.seed)
        latencies.append(item.latency_ms)
        lows.append(interval.low_ms)
        highs.append(interval.high_ms)
    # An unstable row makes the whole doubtful.
    verdict = min((item.verdict for _, item in pairs), key=lambda each: each.stable)
    return Reading(
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
