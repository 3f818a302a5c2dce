"""Predictors of unmeasured devices: one model of all measured devices, with their datasheets as input.

The costs of a network are times at a device's sustained rates, so one set of coefficients serves all devices. Errors
are those of devices left out: each device is predicted by a model of the others. Networks of one device err in the same
direction, and two or three devices say little about the next one. So the intervals add the spread of a device's mean
error, with a prior, to the errors around it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np

from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.metrics import Metric, Precision
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import CONFIDENCES, UNMEASURED, Card, Coverage, FittedData, Ranked, held_out_rows, usual_batch
from hwnas.predict.features.conditions import Batch, Conditions, conditions_of
from hwnas.predict.features.table import Features, joined
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import Intervals, calibrate
from hwnas.predict.metrics import scores
from hwnas.predict.models import AnalyticLearner, BoostedLearner, Stack
from hwnas.predict.predictor import Predictor
from hwnas.predict.selection import Protocol

MIN_DEVICES = 2
"""Least number of measured devices; with one, nothing shows how well a datasheet carries over."""

_MODEL = "pooled"
_SUSTAINED_W = 0.35e12
"""Operations per second and watt that a GPU sustains at half precision; above, its peak is limited by power."""
_BALANCE = 164.0
"""Operations per byte of the device whose memory rate stays as it is, an RTX 4090."""
_PRIOR_SPREAD = 0.1
"""Prior of the spread of the mean errors of devices, in logarithms, worth two devices."""
_PRIOR_DEVICES = 2
_UNLIKE_SPREAD = 2.0
"""Factor of the spread for an architecture that the pool lacks."""
_DEVICE_QUANTILES = 21
_MAX_ERRORS = 4000


@dataclass(frozen=True, kw_only=True)
class MeasuredDevice:
    """Measured networks of one device as part of a pool."""

    device: Device
    features: Features
    """Under `sustained_conditions` of the device."""
    target: Numbers
    """Milliseconds of one run of a batch."""
    batches: Numbers
    sources: tuple[str, ...]
    kinds: tuple[str, ...] = ("timm",)
    """Spaces of the networks; `timm` for its models."""
    software: str = ""
    """The runtime's package and version, such as `torch 2.9.1`; empty if it is not known."""


def described(pool: Sequence[MeasuredDevice]) -> str:
    """Return the devices of a pool, with the version of the runtime that each was measured in."""
    software = {part.device.name: list[str]() for part in pool}
    for part in pool:
        if part.software and part.software not in software[part.device.name]:
            software[part.device.name].append(part.software)
    return ", ".join(f"{name} ({', '.join(versions)})" if versions else name for name, versions in software.items())


def version_notes(pool: Sequence[MeasuredDevice]) -> tuple[str, ...]:
    """Return a note that the devices of a pool were measured in several versions of the runtime, if they were."""
    if len({part.software for part in pool}) < 2:
        return ()
    return ("the measured devices ran different versions of the runtime, which count as differences of the devices",)


def sustained_conditions(
    device: Device, *, precision: Precision, batch: Batch = 1, runtime: str = "", autocast: bool = False
) -> Conditions:
    """Return the conditions on a device at the rates that it sustains, by its datasheet.

    The peak of a GPU's matrix units is limited by its power: where the limit allows less than the peak, the geometric
    mean of the two counts. Caches grow with compute, so the rate of its memory is the geometric mean of the bandwidth
    and of what its compute needs. Both were chosen by leaving measured devices out (`benchmarks.unmeasured`).

    Raises:
        InputError: The datasheet lacks the rates.
    """
    known = conditions_of(device, precision=precision, batch=batch, runtime=runtime, autocast=autocast)
    # fp16 and bf16 run at the same rate, where a datasheet states one of them.
    half = device.fp16_flop_per_s or device.bf16_flop_per_s
    peak = half if precision in ("fp16", "bf16") else device.peak_op_per_s(precision)
    if peak is None or device.memory_byte_per_s is None:
        missing = f"rate in {precision}" if peak is None else "memory bandwidth"
        hint = "profile it: hwnas profile --device auto on that device"
        raise InputError(f"the datasheet of {device.name} must state its {missing}", got="none", hint=hint)
    if device.kind != "gpu":
        return replace(known, op_per_s=peak, byte_per_s=device.memory_byte_per_s)
    if device.power_w is not None and known.bytes_per_element <= 2:
        peak = min(peak, float(np.sqrt(peak * device.power_w * _SUSTAINED_W)))
    return replace(known, op_per_s=peak, byte_per_s=float(np.sqrt(device.memory_byte_per_s * peak / _BALANCE)))


def pooled_predictor(
    pool: Sequence[MeasuredDevice],
    *,
    device: Device,
    metric: Metric,
    conditions: Conditions,
    environment: Mapping[str, str],
) -> Predictor:
    """Make the predictor of an unmeasured device.

    Args:
        pool: Measured devices of the same kind, in the same runtime and precision.
        device: The device to predict.
        metric: Latency or throughput in its deployment.
        conditions: Its `sustained_conditions`.
        environment: What the environments of all measured devices have in common.

    Raises:
        InputError: The pool has fewer than two devices, or is of too few networks.
    """
    names = [part.device.name for part in pool]
    if len(set(names)) < MIN_DEVICES:
        hint = f"hwnas profile on {device.name}, or import a table of another device"
        raise InputError(f"a pool must have {MIN_DEVICES} measured devices", got=", ".join(names) or "none", hint=hint)
    features, target = joined([part.features for part in pool]), np.concatenate([part.target for part in pool])
    left_out = [
        fit_pool([other for other in pool if other.device.name != part.device.name]).predict(part.features)
        for part in pool
    ]
    predicted = np.concatenate(left_out)
    is_unlike = device.architecture not in {part.device.architecture for part in pool}
    intervals, spread = device_intervals(pool, left_out, unlike=is_unlike)
    batches = np.concatenate([part.batches for part in pool])
    card = Card(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=metric,
        data=FittedData(
            sources=tuple(source for part in pool for source in part.sources),
            num_rows=len(features),
            num_networks=max(len(set(group_equal_networks(part.features))) for part in pool),
            is_mixed=True,
            kinds=tuple(sorted({kind for part in pool for kind in part.kinds})),
            usual_batch=usual_batch(batches) if metric.deployment.fixed_batch is None else None,
        ),
        protocol=Protocol(num_folds=len(set(names)), repeats=1, held_out="devices"),
        model=_MODEL,
        ranking=(_ranked(metric, predicted, target, batches),),
        coverage=tuple(_coverage(pool, left_out, confidence=confidence) for confidence in CONFIDENCES),
        held_out=held_out_rows(*(metric.from_target(rows, batch=batches) for rows in (target, predicted))),
        notes=_notes(device, pool, left_out, spread=spread, is_unlike=is_unlike),
        environment=environment,
    )
    return Predictor(
        card=card,
        conditions=replace(conditions, batch=1),
        model=fit_pool(pool),
        intervals=intervals,
        fitted_range=pool_range(pool),
    )


def fit_pool(pool: Sequence[MeasuredDevice]) -> Stack:
    """Fit one model to several devices, which have equal weight however many networks were measured on each."""
    features, target = joined([part.features for part in pool]), np.concatenate([part.target for part in pool])
    weights = np.concatenate([np.full(len(part.target), 1 / len(part.target)) for part in pool])
    weights *= len(target) / weights.sum()
    # The corrections of trees hold for the devices that they were fitted to; half of them is what carries over.
    learners = (AnalyticLearner(), BoostedLearner())
    members = tuple(learner.fit(features, target, weights=weights) for learner in learners)
    return Stack(members=members, weights=np.full(len(members), 1 / len(members)))


def device_intervals(
    pool: Sequence[MeasuredDevice], left_out: Sequence[Numbers], *, unlike: bool, spread: float | None = None
) -> tuple[Intervals, float]:
    """Return the intervals, and the spread of the devices' mean errors that they allow for."""
    logs = [np.log(part.target / predicted) for part, predicted in zip(pool, left_out, strict=True)]
    means = np.array([float(np.median(values)) for values in logs])
    total = _PRIOR_DEVICES * _PRIOR_SPREAD**2 + float((means**2).sum())
    if spread is None:
        spread = float(np.sqrt(total / (_PRIOR_DEVICES + len(means)))) * (_UNLIKE_SPREAD if unlike else 1.0)
    features, target = joined([part.features for part in pool]), np.concatenate([part.target for part in pool])
    around = np.concatenate([values - mean for values, mean in zip(logs, means, strict=True)])
    fitted = calibrate(features, target, (target / np.exp(around))[None])
    # The sum of two independent errors, as all pairs of their quantiles.
    ranks = (np.arange(_DEVICE_QUANTILES) + 0.5) / _DEVICE_QUANTILES
    device = spread * np.array([NormalDist().inv_cdf(rank) for rank in ranks])
    errors = np.sort((fitted.errors[:, None] + device[None, :]).ravel())
    kept = np.linspace(0, len(errors) - 1, min(len(errors), _MAX_ERRORS)).round().astype(int)
    return replace(fitted, errors=errors[kept]), spread


def _coverage(pool: Sequence[MeasuredDevice], left_out: Sequence[Numbers], *, confidence: float) -> Coverage:
    """Return the share of networks of left-out devices in intervals that were calibrated without their device."""
    inside = []
    for part, predicted in zip(pool, left_out, strict=True):
        others = [row for row in range(len(pool)) if pool[row].device.name != part.device.name]
        intervals, _ = device_intervals([pool[row] for row in others], [left_out[row] for row in others], unlike=False)
        low, high = intervals.bounds(predicted, part.features, confidence=confidence)
        inside.append((low <= part.target) & (part.target <= high))
    return Coverage(confidence=confidence, share=float(np.concatenate(inside).mean()))


def pool_range(pool: Sequence[MeasuredDevice]) -> FittedRange:
    """Return the range of the pool; a faster or slower device has other times for the same networks."""
    fitted = FittedRange.fit(joined([part.features for part in pool]))
    rates = 2.0 * (fitted.high - fitted.low)
    costs = len(fitted.cost_names)
    low, high = fitted.low.copy(), fitted.high.copy()
    low[:costs], high[:costs] = np.minimum(low, 0.0)[:costs], (high + rates)[:costs]
    return replace(fitted, low=low, high=high, far=2 * fitted.far)


def _notes(
    device: Device,
    pool: Sequence[MeasuredDevice],
    left_out: Sequence[Numbers],
    *,
    spread: float,
    is_unlike: bool,
) -> tuple[str, ...]:
    errors = ", ".join(
        f"{part.device.name} {float(np.abs(predicted / part.target - 1).mean()):.1%}"
        for part, predicted in zip(pool, left_out, strict=True)
    )
    notes = [
        f"{UNMEASURED}: predicted from {described(pool)} by the datasheet of {device.name}; each of these, left out: "
        f"{errors}",
        *version_notes(pool),
        f"intervals allow for a mean error of the device with a standard deviation of {spread:.0%}",
    ]
    if is_unlike:
        notes.append(f"no measured device is of {device.name}'s architecture, {device.architecture}")
    return tuple(notes)


def _ranked(metric: Metric, predicted: Numbers, target: Numbers, batches: Numbers) -> Ranked:
    values = metric.from_target(predicted, batch=batches), metric.from_target(target, batch=batches)
    return Ranked(model=_MODEL, scores=scores(*values))
