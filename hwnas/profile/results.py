"""Results of a profile: a summary of each measurement, one result per network, and the quality of the profile."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import CheckFailedError
from hwnas.frames import Columns
from hwnas.metrics import TIMED_METRICS
from hwnas.profile.statistics import (
    MIN_NETWORKS,
    MIN_RUNS,
    NoiseFloor,
    ReferenceDrift,
    ReferenceTimes,
    Verdict,
    host_median_ms,
    is_enqueue_bound,
    latency_interval,
    latency_median_ms,
    latency_ms,
    latency_ratio,
    noise_floor,
    reference_drift,
    reference_latency_ms,
    run_ns,
    stability_verdict,
    throttle_reasons,
    throughput,
    valid_runs,
)
from hwnas.records import DeviceState, Measurement, Profile, Samples, Subject

MAX_MEAN_ERROR = 0.02
"""Largest noise floor of a campaign that passes `--strict`."""

MAX_UNSTABLE = 0.1
"""Largest fraction of unstable measurements of a campaign that passes `--strict`."""

MAX_DRIFT = 0.1
"""Largest drift of the reference network of a campaign that passes `--strict`."""


@dataclass(frozen=True, kw_only=True)
class MeasurementSummary:
    """Latency, throughput, memory and energy of one measurement."""

    subject: Subject
    exporter: str
    latency_ms: float
    """Undisturbed: relative to the reference network that alternated with it."""
    latency_median_ms: float
    """Median wall time, including other load on the machine."""
    host_ms: float | None
    """Median time that the host took to queue a run on a GPU."""
    is_enqueue_bound: bool
    """The host took about as long to queue the runs as the GPU to do them."""
    throughput: float
    """Images per second, undisturbed."""
    memory_mb: float | None
    energy_j: float | None
    has_enough_runs: bool
    """Network and reference have enough valid runs; if not, runs on a core that was slowed down count as well."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """Measured metrics of one network; the geometric mean if it was measured twice."""

    latency_ms: float = float("nan")
    low_ms: float = float("nan")
    high_ms: float = float("nan")
    """The 95 % interval of the latency."""
    memory_mb: float | None = None
    energy_j: float | None = None
    batch: int = 1
    verdict: Verdict | None = None
    failure: str | None = None

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, or None if it was not measured."""
        if self.failure is not None:
            return None
        if metric == "latency_ms":
            return self.latency_ms
        if metric == "throughput":
            return throughput(self.latency_ms, batch=self.batch)
        return self.memory_mb if metric == "memory_mb" else self.energy_j

    def interval(self, metric: str) -> tuple[float | None, float | None]:
        """Return the 95 % interval of a metric; (None, None) if the metric has none."""
        if self.failure is not None or metric not in TIMED_METRICS:
            return None, None
        if metric == "latency_ms":
            return self.low_ms, self.high_ms
        return throughput(self.high_ms, batch=self.batch), throughput(self.low_ms, batch=self.batch)


@dataclass(frozen=True, kw_only=True)
class ReasonCount:
    """Number of measurements that failed, or are unstable, for one reason."""

    reason: str
    count: int
    example: str
    """The message of the last one."""


@dataclass(frozen=True, kw_only=True)
class ProfileQuality:
    """Quality of a profile; noise, drift and the like are fractions (0.01 is one percent)."""

    num_networks: int
    num_measurements: int
    num_repeated: int
    failures: tuple[ReasonCount, ...]
    num_unstable: int
    unstable: tuple[ReasonCount, ...]
    """Reasons of unstable measurements, most frequent first."""
    reference_ms: float | None
    noise_floor: NoiseFloor | None
    """None if fewer than 12 networks were measured twice."""
    drift: ReferenceDrift | None
    exporters: tuple[str, ...]
    throttled: tuple[str, ...]
    """Throttle reasons that the device reported."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that measured."""
    hosts: tuple[str, ...] = ()
    """Machines that measured, if not the one of the campaign."""
    enqueue_bound: ReasonCount | None = None
    """Measurements in which the host, and not the device, decided the latency; None if there is none."""
    lowest_clock_mhz: float | None = None
    highest_clock_mhz: float | None = None
    """Clocks of a GPU while networks ran; equal if they are locked."""
    other_processes: int = 0
    """Largest number of other processes that computed on the device."""
    measured_s: float
    """Time spent on measuring, without pauses."""
    first_utc: str | None
    last_utc: str | None

    @property
    def is_noisy(self) -> bool:
        """True if noise floor, unstable measurements or drift are above what is allowed."""
        is_floor_high = self.noise_floor is not None and self.noise_floor.mean_error > MAX_MEAN_ERROR
        is_drift_high = self.drift is not None and abs(self.drift.change) > MAX_DRIFT
        return is_floor_high or is_drift_high or self.num_unstable > MAX_UNSTABLE * self.num_measurements

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons not to rely on the measurements; empty for a good profile."""
        few = f"{self.num_repeated} networks were measured twice, a noise floor needs {MIN_NETWORKS}"
        return (*((few,) if self.noise_floor is None else ()), *self.disturbances)

    @property
    def disturbances(self) -> tuple[str, ...]:
        """The problems without that of too few networks for a noise floor, which a small front cannot help."""
        problems, floor = [], self.noise_floor
        if floor is not None and floor.mean_error > MAX_MEAN_ERROR:
            problems.append(f"the noise floor is {floor.mean_error:.1%}, at most {MAX_MEAN_ERROR:.0%} is allowed")
        unstable = self.num_unstable / max(1, self.num_measurements)
        if unstable > MAX_UNSTABLE:
            problems.append(f"{unstable:.0%} of the measurements are unstable, at most {MAX_UNSTABLE:.0%} are allowed")
        if self.drift is not None and abs(self.drift.change) > MAX_DRIFT:
            change = f"{self.drift.change:+.1%}"
            problems.append(f"the reference network drifted by {change}, at most {MAX_DRIFT:.0%} is allowed")
        return tuple(problems)


def summarize_measurements(profile: Profile) -> tuple[MeasurementSummary, ...]:
    """Summarize each measurement that has samples, in the order of the rows."""
    rows = _sampled_rows(profile)
    if not rows:
        return ()
    reference_ms = reference_latency_ms([reference for _, _, reference in rows])
    return tuple(_summarize(*row, reference_ms=reference_ms) for row in rows)


def summary_columns(summaries: Sequence[MeasurementSummary]) -> Columns:
    """Return the columns of a data frame with one row per measurement."""
    names = ("latency_ms", "latency_median_ms", "host_ms", "is_enqueue_bound", "throughput", "memory_mb", "energy_j")
    columns: dict[str, list[object]] = {
        "network_id": [summary.subject.network_id for summary in summaries],
        "name": [summary.subject.name for summary in summaries],
        "arch_id": [summary.subject.arch_id for summary in summaries],
    }
    columns |= {name: [getattr(summary, name) for summary in summaries] for name in names}
    columns["is_stable"] = [summary.verdict.stable for summary in summaries]
    columns["problem"] = [summary.verdict.reason for summary in summaries]
    return {**columns, "arch": [summary.subject.arch for summary in summaries]}


def results_by_network(profile: Profile) -> Mapping[str, NetworkResult]:
    """Combine the measurements of each network.

    Returns:
        Results by network_id. A network that was never measured successfully has its failure.
    """
    rows = _sampled_rows(profile)
    reference_ms = reference_latency_ms([reference for _, _, reference in rows]) if rows else float("nan")
    repeated: dict[str, list[NetworkResult]] = {}
    for row, samples, reference in rows:
        summary = _summarize(row, samples, reference, reference_ms=reference_ms)
        interval = latency_interval(samples, reference, reference_ms=reference_ms, seed=row.seed)
        result = NetworkResult(
            latency_ms=summary.latency_ms,
            low_ms=interval.low_ms,
            high_ms=interval.high_ms,
            memory_mb=summary.memory_mb,
            energy_j=summary.energy_j,
            batch=row.setting.batch,
            verdict=summary.verdict,
        )
        repeated.setdefault(row.subject.network_id, []).append(result)
    failures = {
        row.subject.network_id: NetworkResult(failure=f"{row.failure.reason}: {row.failure.message}")
        for row in profile.failures
        if row.failure is not None
    }
    return {**failures, **{network_id: _combine(results) for network_id, results in repeated.items()}}


def assess_profile(profile: Profile) -> ProfileQuality:
    """Assess the quality of a profile."""
    return assess_measurements(profile.measurements)


def assess_measurements(rows: Iterable[Measurement]) -> ProfileQuality:
    """Assess the quality of measurements, of which only figures are kept: a large profile need not fit into memory."""
    assessment = _Assessment()
    for row in rows:
        assessment.add(row)
    return assessment.quality()


def require_measured(qualities: Sequence[tuple[str, ProfileQuality]]) -> None:
    """Raise a CheckFailedError if a profile, given with its name, consists of failures alone."""
    empty = [
        f"{name}: {', '.join(f'{failure.count} {failure.reason}' for failure in quality.failures)}"
        for name, quality in qualities
        if quality.failures and not quality.num_measurements
    ]
    if empty:
        hint = "hwnas profiles show NAME for the messages, or --retry to measure failed networks again"
        raise CheckFailedError("no network could be measured, all failed", got="; ".join(empty), hint=hint)


def require_stable(qualities: Sequence[tuple[str, ProfileQuality]]) -> None:
    """Raise a CheckFailedError if a profile, given with its name, has problems, as `--strict` requires."""
    problems = [f"{name}: {problem}" for name, quality in qualities for problem in quality.problems]
    if problems:
        hint = "measure again when the machine is less busy, with more --pairs or --repeats"
        raise CheckFailedError("the measurements must be stable", got="; ".join(problems), hint=hint)


def _sampled_rows(profile: Profile) -> list[tuple[Measurement, Samples, Samples]]:
    return [(row, row.samples, row.reference) for row in profile.measured if row.samples and row.reference]


def _summarize(row: Measurement, samples: Samples, reference: Samples, *, reference_ms: float) -> MeasurementSummary:
    latency = latency_ms(samples, reference, reference_ms=reference_ms)
    return MeasurementSummary(
        subject=row.subject,
        exporter=row.setting.exporter,
        latency_ms=latency,
        latency_median_ms=latency_median_ms(samples),
        host_ms=host_median_ms(samples),
        is_enqueue_bound=is_enqueue_bound(samples),
        throughput=throughput(latency, batch=row.setting.batch),
        memory_mb=row.memory_mb,
        energy_j=row.energy_j,
        has_enough_runs=_has_enough_runs(samples) and _has_enough_runs(reference),
        verdict=_verdict(row, samples, reference),
    )


def _has_enough_runs(samples: Samples) -> bool:
    return len(valid_runs(samples)) >= MIN_RUNS


def _verdict(row: Measurement, samples: Samples, reference: Samples) -> Verdict:
    return stability_verdict(samples, reference, states=_states(row), limited=row.limited, seed=row.seed)


def _states(row: Measurement) -> tuple[DeviceState | None, ...]:
    return row.before, row.during, row.after


def _combine(results: Sequence[NetworkResult]) -> NetworkResult:
    """One result of all measurements of a network; unstable if one of them is."""
    verdicts = [result.verdict for result in results if result.verdict]
    return NetworkResult(
        latency_ms=float(np.exp(np.mean(np.log([result.latency_ms for result in results])))),
        low_ms=min(result.low_ms for result in results),
        high_ms=max(result.high_ms for result in results),
        memory_mb=_mean([result.memory_mb for result in results]),
        energy_j=_mean([result.energy_j for result in results]),
        batch=results[0].batch,
        verdict=min(verdicts, key=lambda verdict: verdict.stable),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass
class _Assessment:
    """Figures of the rows of a profile so far."""

    counts: Counter[str] = field(default_factory=Counter)
    """Successful measurements by network_id."""
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Reason and message of the last failure by network_id."""
    references: ReferenceTimes = field(default_factory=ReferenceTimes)
    reference_ns: list[tuple[str, str, float]] = field(default_factory=list)
    """Time of the start, GPU or host, and time of the reference network, by measurement with enough of its runs."""
    disturbed_ns: list[tuple[str, str, float]] = field(default_factory=list)
    """The same of the other measurements, whose runs were slowed down."""
    gpus: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    first: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Process and latency ratio of the first measurement by network_id."""
    pairs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Latency ratios of the first measurement and of one in another process, by network_id."""
    unstable: list[tuple[str, str]] = field(default_factory=list)
    """Kind of problem and reason of each unstable measurement."""
    enqueue_bound: list[tuple[str, str]] = field(default_factory=list)
    """Kind and message of each enqueue-bound measurement."""
    exporters: set[str] = field(default_factory=set)
    throttled: set[str] = field(default_factory=set)
    clocks_mhz: list[float] = field(default_factory=list)
    other_processes: int = 0
    first_utc: str | None = None
    last_utc: str | None = None
    measured_s: float = 0.0

    def add(self, row: Measurement) -> None:
        """Add a row."""
        self.measured_s += row.duration_s
        self.first_utc = min(self.first_utc or row.started_utc, row.started_utc)
        self.last_utc = max(self.last_utc or row.started_utc, row.started_utc)
        if row.failure is not None:
            self.failures[row.subject.network_id] = (row.failure.reason, row.failure.message)
        elif row.samples is not None and row.reference is not None:
            self.counts[row.subject.network_id] += 1
            self._add_samples(row, row.samples, row.reference)

    def _add_samples(self, row: Measurement, samples: Samples, reference: Samples) -> None:
        network_id = row.subject.network_id
        self.references.add(reference)
        times_ns = self.reference_ns if _has_enough_runs(reference) else self.disturbed_ns
        times_ns.append((row.started_utc, row.gpu or row.host or "", run_ns(reference)))
        self.gpus |= {gpu for gpu in (row.gpu,) if gpu}
        self.hosts |= {host for host in (row.host,) if host}
        ratio = latency_ratio(samples, reference)
        process_id, first = self.first.setdefault(network_id, (row.process_id, ratio))
        if process_id != row.process_id:
            self.pairs.setdefault(network_id, (first, ratio))
        verdict = _verdict(row, samples, reference)
        if not verdict.stable:
            self.unstable.append((verdict.reason.split(" (")[0], verdict.reason))
        if is_enqueue_bound(samples):
            self.enqueue_bound.append(("enqueue-bound", _enqueue_message(row, samples)))
        self.exporters.add(row.setting.exporter)
        self.throttled |= throttle_reasons(_states(row), row.limited)
        if row.during is not None and row.during.clock_mhz is not None:
            self.clocks_mhz.append(row.during.clock_mhz)
        others = [state.other_processes for state in _states(row) if state and state.other_processes is not None]
        self.other_processes = max(self.other_processes, *others, 0)

    def quality(self) -> ProfileQuality:
        """Return the quality of the rows."""
        failures = [failure for network_id, failure in self.failures.items() if network_id not in self.counts]
        times_ns = self._times_in_order()
        reference_ms = self.references.latency_ms() if times_ns else None
        scale = reference_ms or 1.0
        return ProfileQuality(
            num_networks=len(self.counts),
            num_measurements=sum(self.counts.values()),
            num_repeated=len(self.pairs),
            failures=_count_reasons(failures),
            num_unstable=len(self.unstable),
            unstable=_count_reasons(self.unstable),
            reference_ms=reference_ms,
            noise_floor=noise_floor([(first * scale, second * scale) for first, second in self.pairs.values()]),
            drift=reference_drift(times_ns) if times_ns else None,
            exporters=tuple(sorted(self.exporters)),
            throttled=tuple(sorted(self.throttled)),
            lowest_clock_mhz=min(self.clocks_mhz, default=None),
            highest_clock_mhz=max(self.clocks_mhz, default=None),
            other_processes=self.other_processes,
            gpus=tuple(sorted(self.gpus)),
            hosts=tuple(sorted(self.hosts)),
            enqueue_bound=next(iter(_count_reasons(self.enqueue_bound)), None),
            measured_s=self.measured_s,
            first_utc=self.first_utc,
            last_utc=self.last_utc,
        )

    def _times_in_order(self) -> list[float]:
        """Times of the reference network by the time of the measurement, those of several GPUs brought to one level.

        Otherwise a GPU that joins or leaves a campaign would be a drift.
        """
        by_gpu: dict[str, list[float]] = {}
        rows = self.reference_ns or self.disturbed_ns
        for _, gpu, time_ns in rows:
            by_gpu.setdefault(gpu, []).append(time_ns)
        levels = {gpu: float(np.median(times)) if len(by_gpu) > 1 else 1.0 for gpu, times in by_gpu.items()}
        return [time_ns / levels[gpu] for _, gpu, time_ns in sorted(rows, key=lambda entry: entry[0])]


def _enqueue_message(row: Measurement, samples: Samples) -> str:
    return (
        f"the host took {host_median_ms(samples):.3f} ms to queue a run of {row.subject.network_id}, "
        f"the device {np.median(samples.device_ns) / 1e6:.3f} ms to do it"
    )


def _count_reasons(items: Sequence[tuple[str, str]]) -> tuple[ReasonCount, ...]:
    """Count (reason, message) pairs by reason, most frequent first."""
    last = dict(items)
    counts = Counter(reason for reason, _ in items).most_common()
    return tuple(ReasonCount(reason=reason, count=count, example=last[reason]) for reason, count in counts)
