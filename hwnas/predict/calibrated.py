"""Predictors of devices of which a few networks were measured: a model of other devices with three factors.

The factors are of compute, of memory and of launches, with priors around one common factor. They are used where they
predict the measured networks clearly better than one factor does, each network left out in turn, so that this error is
never larger. Otherwise the answer is that for an unmeasured device under the same conditions times one ratio, exactly;
where torch's autocast is used for one alone, features and answers differ.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import CONFIDENCES, Card, Coverage, FittedData, held_out_rows, usual_batch
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.table import Features
from hwnas.predict.features.terms import is_moving
from hwnas.predict.fit import Observations
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import Intervals
from hwnas.predict.models import Analytic, Boosted, Fitted, Stack
from hwnas.predict.pooled import (
    MIN_DEVICES,
    MeasuredDevice,
    described,
    device_intervals,
    fit_pool,
    pool_range,
)
from hwnas.predict.predictor import Predictor, Validation
from hwnas.predict.selection import Protocol

FEW_NETWORKS = 30
"""Up to this number of networks, a device is a change of others; beyond, it is fitted for itself."""

MIN_CALIBRATION = 3
"""Least number of different networks for the factors of a device."""

ONE_FACTOR, THREE_FACTORS = "pooled, one factor", "pooled, three factors"
"""Names of the models on a card."""

_CLEARLY = 0.9
"""Three factors are used if their error is below this share of that of one factor; of ten networks a smaller gain is
often chance."""
_STEP = 0.1
_PRIORS = (0.5, 0.1, 0.1)
"""Standard deviations of the logarithms: common factor, memory against compute, launches."""
_RESIDUAL = 0.06
"""Error of a model of other devices on a network, as a logarithm."""
_BASIS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])


def calibrated_predictor(
    pool: Sequence[MeasuredDevice],
    observed: Observations,
    *,
    features: Features,
    conditions: Conditions,
) -> Predictor:
    """Make the predictor of a device of which a few networks were measured.

    Args:
        pool: Other devices, measured in the same deployment.
        observed: The measured networks: latency or throughput.
        features: Their features under these conditions.
        conditions: The `sustained_conditions` of the device.

    Raises:
        InputError: The networks are fewer than three different ones.
    """
    labels = np.array(group_equal_networks(observed.features), dtype=np.intp)
    distinct = len(set(labels.tolist()))
    if distinct < MIN_CALIBRATION:
        raise InputError(f"a device needs {MIN_CALIBRATION} different measured networks", got=distinct)
    model, target = fit_pool(pool), observed.target

    def predicted(factors: Numbers) -> Numbers:
        logs: Numbers = np.log(_changed(model, factors).predict(features))
        return logs

    logs = np.log(target) - predicted(np.zeros(3))
    steps = _STEP * np.eye(3)
    slopes = np.column_stack([(predicted(step) - predicted(-step)) / (2 * _STEP) for step in steps])

    def left_out(name: str) -> Numbers:
        values = np.empty(len(logs))
        for label in range(distinct):  # all measurements of a network together
            own = labels == label
            values[own] = predicted(fit_factors(slopes[~own], logs[~own], model=name))[own]
        return np.exp(values)

    held_out = {name: left_out(name) for name in (ONE_FACTOR, THREE_FACTORS)}
    errors = {name: float(np.abs(values / target - 1).mean()) for name, values in held_out.items()}
    chosen = THREE_FACTORS if errors[THREE_FACTORS] < _CLEARLY * errors[ONE_FACTOR] else ONE_FACTOR
    factors = fit_factors(slopes, logs, model=chosen)
    residual = np.log(target / held_out[chosen])
    around = _intervals_of_devices(pool, model, num_networks=distinct)
    validation = Validation(target=target, by_model={name: row[None] for name, row in held_out.items()}, by_count={})
    compute, memory, launch = np.exp(factors)
    note = (
        f"{distinct} networks and a model of {described(pool)}: compute takes {compute:.2f}, memory {memory:.2f} and "
        f"launches {launch:.2f} times what the datasheet suggests"
    )
    sources = tuple(source for part in pool for source in part.sources)
    card = _card(observed, chosen, held_out[chosen], validation, num_networks=distinct, note=note, sources=sources)
    inside = _coverage(around, features, target, held_out[chosen], labels=labels)
    return Predictor(
        card=replace(card, coverage=inside),
        conditions=replace(conditions, batch=1),
        model=_changed(model, factors),
        intervals=_widened(around, residual),
        fitted_range=pool_range(pool),
        validation=validation,
    )


def fit_factors(slopes: Numbers, logs: Numbers, *, model: str) -> Numbers:
    """Return the logarithms of the factors of compute, memory and launches.

    Args:
        slopes: Derivatives of the logarithm of each prediction, one column per factor.
        logs: Logarithm of measured over predicted.
        model: `ONE_FACTOR`, which is the median ratio, or `THREE_FACTORS`.
    """
    if model == ONE_FACTOR:
        return np.full(3, float(np.median(logs)))
    # A robust Bayesian regression: a common factor with a wide prior, deviations from it with narrow ones.
    columns = slopes @ _BASIS.T
    penalty = np.diag(1 / np.square(_PRIORS))
    robust, weights = np.ones(len(logs)), np.zeros(3)
    for _ in range(8):
        weighted = columns * robust[:, None] / _RESIDUAL**2
        weights = np.linalg.solve(weighted.T @ columns + penalty, weighted.T @ logs)
        robust = 1 / (1 + ((logs - columns @ weights) / (2 * _RESIDUAL)) ** 2)
    factors: Numbers = weights @ _BASIS
    return factors


def _changed(model: Stack, factors: Numbers) -> Stack:
    """Return the model of a device that takes this much longer to compute, to move data and to launch.

    Corrections by trees are those of the networks on the other devices: where the factors are equal, the answers are
    those of the model times one ratio.
    """

    def scaled(mean: Analytic) -> Analytic:
        kinds = [2 if name == "runs" or name.startswith("calls.") else int(is_moving(name)) for name in mean.cost_names]
        return replace(mean, coefficients=mean.coefficients * np.exp(factors)[kinds])

    members: list[Fitted] = []
    for member in model.members:
        if isinstance(member, Boosted):
            members.append(replace(member, corrected=scaled(member.design.mean)))
        elif isinstance(member, Analytic):
            members.append(scaled(member))
    return replace(model, members=tuple(members))


def _intervals_of_devices(pool: Sequence[MeasuredDevice], model: Fitted, *, num_networks: int) -> Intervals:
    """Return intervals from the errors of left-out devices around their means.

    One device alone does not show how networks differ from it on another one, so the usual error stands for that.
    """
    predicted, spread = [model.predict(part.features) for part in pool], _RESIDUAL / num_networks**0.5
    if len({part.device.name for part in pool}) >= MIN_DEVICES:
        others = [[other for other in pool if other.device.name != part.device.name] for part in pool]
        predicted = [fit_pool(rest).predict(part.features) for rest, part in zip(others, pool, strict=True)]
    else:
        spread = float(np.hypot(spread, _RESIDUAL))
    intervals, _ = device_intervals(pool, predicted, unlike=False, spread=spread)
    return intervals


def _widened(intervals: Intervals, residual: Numbers) -> Intervals:
    """Return intervals that are at least as wide as the errors of measured networks suggest."""
    usual = max(float(np.median(np.abs(intervals.errors))), 1e-6)
    return replace(intervals, errors=intervals.errors * max(float(np.median(np.abs(residual))) / usual, 1.0))


def _coverage(
    intervals: Intervals, features: Features, target: Numbers, predicted: Numbers, *, labels: NDArray[np.intp]
) -> tuple[Coverage, ...]:
    """Return the share of measurements inside intervals that were widened by the errors of the other networks."""
    residual = np.log(target / predicted)
    inside: dict[float, list[bool]] = {confidence: [] for confidence in CONFIDENCES}
    for row in range(len(target)):
        others, own = _widened(intervals, residual[labels != labels[row]]), features.take([row])
        for confidence in CONFIDENCES:
            low, high = others.bounds(predicted[[row]], own, confidence=confidence)
            inside[confidence].append(bool(low[0] <= target[row] <= high[0]))
    return tuple(Coverage(confidence=key, share=float(np.mean(values))) for key, values in inside.items())


def _card(
    observed: Observations,
    chosen: str,
    predicted: Numbers,
    validation: Validation,
    *,
    num_networks: int,
    note: str,
    sources: tuple[str, ...],
) -> Card:
    metric, batches = observed.metric, observed.batches
    return Card(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=metric,
        space=observed.space,
        data=FittedData(
            sources=(*observed.sources, *sources),
            num_rows=len(predicted),
            num_networks=num_networks,
            is_mixed=True,
            kinds=observed.kinds,
            usual_batch=usual_batch(batches) if metric.deployment.fixed_batch is None else None,
        ),
        protocol=Protocol(num_folds=num_networks, repeats=1, held_out="networks"),
        model=chosen,
        ranking=validation.ranking(metric, batch=batches),
        coverage=(),
        noise_floor=observed.noise_floor,
        held_out=held_out_rows(np.asarray(observed.values), metric.from_target(predicted, batch=batches)),
        notes=(*observed.notes, note),
        environment=dict(observed.environment),
    )
