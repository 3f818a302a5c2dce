"""Find the batch size from which the images per second of a device no longer rise (`hwnas profile --batch peak`)."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.metrics import MAX_BATCH, Deployment
from hwnas.profile.crew import Measurer
from hwnas.profile.environment import choose_runtime
from hwnas.profile.options import CampaignOptions
from hwnas.profile.reference import REFERENCE
from hwnas.profile.runners.runner import RuntimeChecks, exporter_for, load_runner
from hwnas.profile.statistics import MIN_RUNS, run_ns, throughput
from hwnas.profile.worker_messages import MeasurementTask, ReferenceNetworkError
from hwnas.progress import NullReporter, Reporter
from hwnas.records import Setting

MIN_RISE = 0.05
"""Smallest rise of the images per second, as a fraction, for which a larger batch is worth its latency."""

_PATIENCE = 2
"""Doublings without a rise after which a sweep ends. One may fill the device badly without being the last to rise."""


@dataclass(frozen=True, kw_only=True)
class BatchThroughput:
    """Images per second of the reference network at one batch size."""

    batch: int
    images_per_s: float


def peak_batch(points: Sequence[BatchThroughput]) -> int:
    """Return the batch size from which images per second rise by less than 5 %, in all.

    Args:
        points: At least one batch size, in rising order.
    """
    peak = points[0]
    for point in points[1:]:
        if point.images_per_s >= (1 + MIN_RISE) * peak.images_per_s:
            peak = point
    return peak.batch


def sweep_batches(time_batch: Callable[[int], float | None]) -> tuple[BatchThroughput, ...]:
    """Double the batch size from 1 on, until two doublings in a row raise the images per second by less than 5 %.

    Args:
        time_batch: Returns the milliseconds that a batch takes; None if it does not fit into memory, which ends the
            sweep. One image fits.
    """
    points: list[BatchThroughput] = []
    batch = 1
    while batch <= MAX_BATCH:
        latency_ms = time_batch(batch)
        if latency_ms is None:
            break
        points.append(BatchThroughput(batch=batch, images_per_s=throughput(latency_ms, batch=batch)))
        if batch >= peak_batch(points) << _PATIENCE:
            break
        batch *= 2
    return tuple(points)


def describe_throughput(points: Sequence[BatchThroughput]) -> str:
    """Describe the images per second by batch size, and the peak, on one line."""
    rates = ", ".join(f"{point.batch}: {point.images_per_s:,.0f}" for point in points)
    peak = peak_batch(points)
    limit = f"they rise by less than {MIN_RISE:.0%} beyond {peak}"
    if peak == points[-1].batch:
        limit = f"they still rise at {peak}, the largest"
    return f"images/s of {REFERENCE.name} by batch: {rates}; {limit}"


def resolve_peak_batch(
    options: CampaignOptions,
    device: Device,
    *,
    start: Callable[[], Measurer],
    reporter: Reporter,
    find: Callable[[str], RuntimeChecks] = load_runner,
) -> CampaignOptions:
    """Return the options with the peak batch of the reference network in place of `peak_batch`.

    Args:
        options: Options of a campaign.
        device: The device.
        start: Starts a process that measures on it.
        reporter: Receives the images per second by batch size.
        find: Returns what can be asked about a runtime of the device.

    Raises:
        HwnasError: The reference network cannot be measured.
    """
    runtime = choose_runtime(options.runtime, device, NullReporter(), find=find)
    deployment = Deployment(
        device=device.name, runtime=runtime, precision=options.precision, threads=options.threads, batch=1
    )
    first = Setting(deployment=deployment, exporter=exporter_for(runtime, REFERENCE))
    with closing(start()) as worker:

        def time_batch(batch: int) -> float | None:
            setting = replace(first, deployment=replace(deployment, batch=batch))
            return _time_reference(worker, setting, seed=options.seed)

        points = sweep_batches(time_batch)
    batches = tuple(dict.fromkeys((*options.batches, peak_batch(points))))
    reporter.message(describe_throughput(points))
    reporter.message(f"--batch {','.join(map(str, batches))} measures the same without this sweep")
    return replace(options, batches=batches, peak_batch=False)


def _time_reference(worker: Measurer, setting: Setting, *, seed: int) -> float | None:
    """Milliseconds of a batch of the reference network; None if a batch of several images does not fit into memory."""
    task = MeasurementTask(subject=REFERENCE, setting=setting, seed=seed, pairs=MIN_RUNS)
    try:
        result = worker.measure(task)
        failure = result.failure
    except ReferenceNetworkError as error:
        failure = error.failure
    if failure is None and result.samples is not None:
        return run_ns(result.samples) / 1e6
    if failure is not None and failure.reason == "memory" and setting.batch > 1:
        return None
    reason = "no samples" if failure is None else f"{failure.reason}: {failure.message}"
    raise InputError(f"{REFERENCE.network_id} must run with batch {setting.batch} to find the peak", got=reason)
