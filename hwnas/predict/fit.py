"""Fit a predictor: evaluate all models on held-out networks, choose the best and write its card.

`transfer_predictor` also uses the predictors of other devices.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.metrics import Metric
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import CONFIDENCES, Card, Coverage, FamilyScores, FittedData, held_out_rows, usual_batch
from hwnas.predict.drift import without_drift
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.table import Features, require_finite, with_source_predictions
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import FamiliesOut, calibrate, calibrate_families, family_coverage, held_out_coverage
from hwnas.predict.learning_curve import COUNTS, learning_curve
from hwnas.predict.metrics import scores
from hwnas.predict.models import Learner, counted_blocks
from hwnas.predict.predictor import Predictor, Source, Validation
from hwnas.predict.selection import (
    STACK,
    HeldOutPredictions,
    Protocol,
    candidates,
    cross_validate,
    refit,
    with_stack_of,
)
from hwnas.predict.transfer import transfer

_log = logging.getLogger(__name__)

_SMALLEST_VALUE, _LARGEST_VALUE = 1e-9, 1e15
"""Bounds of measured values in the unit of their metric; the squares of ratios are far from overflow."""
_DRIFT_GAIN = 0.95
"""Drift is corrected only if that brings the error on held-out networks below this share of it."""
_SMALLEST_DRIFT = 1e-3
"""Smaller drifts are ignored: without noise, as in values of memory, rounding errors look like drift."""
MIN_FAMILIES = 3
"""Least number of families, or groups of those that share networks, of which some can be left out."""
_FLOOR_CORRECTED = "the values and the noise floor are corrected for it"
_FEWEST_PAIRS = 12
"""Least number of networks measured twice that tell a noise floor."""
_TRANSFER = "transfer"
"""Name of the mixture of models of other devices on a card."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Measured networks: features, values in the unit of the metric, and their origin."""

    metric: Metric
    conditions: Conditions
    features: Features
    values: Numbers
    weights: Numbers | None = None
    environments: Sequence[str] = ()
    """Environment id of each row, if known."""
    environment: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    noise_floor: float | None = None
    groups: Sequence[str] | None = None
    """Labels of rows that are held out together; None: rows of identical networks are."""
    times: Numbers | None = None
    """Time of each measurement in seconds, if known; used to detect drift."""
    undisturbed: NDArray[np.bool_] | None = None
    """Rows with enough runs on cores that were not slowed down, which drift is estimated from; None: all."""
    repeated: Sequence[tuple[int, int]] = ()
    """Rows of the first and second measurement of networks that were measured twice."""
    families: Sequence[str] = ()
    """Family of each row, where networks are of any kind: whole families are left out as well."""
    space: str | None = None
    """Space of all networks; None if they are of several kinds."""
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def target(self) -> Numbers:
        """Target of the models: the value of one run of a batch, to be minimised."""
        return self.metric.to_target(self.values, batch=self.batches)

    @property
    def batches(self) -> Numbers:
        """Batch size of each row."""
        return self.conditions.batch_of(np.arange(len(self.features)))


def fit_predictor(
    observed: Observations,
    *,
    protocol: Protocol | None = None,
    learners: Sequence[Learner] | None = None,
    allow_mixed: bool = False,
    with_curve: bool = True,
) -> Predictor:
    """Fit the best predictor to measurements, and make its card.

    Args:
        observed: The measured networks.
        protocol: Protocol of the cross-validation.
        learners: Models to try; by default all that suit the features.
        allow_mixed: Accept measurements of several environments.
        with_curve: Compute the learning curve, which takes about as long as fitting one model ten times.

    Raises:
        InputError: There are too few networks, a value is not finite and positive, or environments are mixed.
    """
    protocol = protocol or Protocol(held_out="networks" if observed.groups is None else "groups")
    _check_observations(observed, allow_mixed=allow_mixed)
    if learners is None:
        learners = candidates(observed.features, any_kind=len(set(_joined_families(observed))) >= MIN_FAMILIES)
    observed, held_out = _validate(observed, protocol, learners)
    features, target = observed.features, observed.target
    left_out = _leave_families_out(observed, protocol, learners)
    left_out = None if left_out is None else with_stack_of(left_out, held_out)
    choice = held_out.choice() if left_out is None else held_out.choice(left_out)
    _log.info("%s: %s, error %.2f %% on held-out networks", observed.metric, choice, 100 * held_out.scores(choice).mape)
    model = refit(choice, features, target, held_out=held_out, learners=learners, weights=observed.weights)
    curve = _curve(observed, held_out, learners) if with_curve else {}
    families_out = (
        None if left_out is None else FamiliesOut(predicted=left_out.by_model[choice][0], folds=left_out.folds[0])
    )
    validation = Validation(
        target=target,
        by_model=held_out.by_model,
        by_count=curve,
        families_out=None if families_out is None else families_out.predicted,
    )
    return Predictor(
        card=_make_card(
            observed,
            held_out,
            choice,
            validation=validation,
            count_names=counted_blocks(model),
            families_out=families_out,
        ),
        conditions=replace(observed.conditions, batch=1),
        model=model,
        intervals=calibrate(features, target, held_out.by_model[choice])
        if families_out is None
        else calibrate_families(features, target, held_out.by_model[choice], held_out.folds, families_out=families_out),
        fitted_range=FittedRange.fit(features, one_space=observed.space is not None),
        validation=validation,
    )


def transfer_predictor(
    observed: Observations,
    *,
    sources: Mapping[str, Source],
    predictions: Mapping[str, Numbers],
    unlike: Collection[str] = (),
    allow_mixed: bool = False,
) -> Predictor | None:
    """Fit a predictor that uses source devices; return None if it is no better than the best model without them.

    All scores on its card are leave-one-out scores.

    Args:
        observed: The measured networks of the new device.
        sources: Models of the source devices.
        predictions: Predictions of the measured networks by each source.
        unlike: Sources of another runtime or kind of device.
        allow_mixed: Accept measurements of several environments.

    Raises:
        InputError: The measurements are not valid, or are of fewer than four networks.
    """
    _check_observations(observed, allow_mixed=allow_mixed)
    features, target = with_source_predictions(observed.features, predictions), observed.target
    mixture = transfer(features, target, sources=tuple(predictions), unlike=unlike)
    if not mixture.sources_help:
        return None
    validation = Validation(target=target, by_model={_TRANSFER: mixture.mixed, **mixture.by_method}, by_count={})
    held_out = HeldOutPredictions(
        target=target,
        protocol=Protocol(num_folds=len(mixture.folds), repeats=1, held_out="networks"),
        by_model={_TRANSFER: mixture.mixed[None]},
        folds=(mixture.folds,),
    )
    models = (mixture.fitted, *(source.model for source in sources.values()))
    card = _make_card(
        replace(observed, features=features),
        held_out,
        _TRANSFER,
        validation=validation,
        count_names=tuple(dict.fromkeys(name for model in models for name in counted_blocks(model))),
    )
    data = replace(card.data, num_networks=len(mixture.folds))
    used = ", ".join(f"{name} {share:.0%}" for name, share in mixture.shares.items())
    return Predictor(
        card=replace(card, data=data, notes=(*card.notes, f"mixture of: {used}")),
        conditions=replace(observed.conditions, batch=1),
        model=mixture.fitted,
        intervals=calibrate(features, target, mixture.mixed[None]),
        fitted_range=FittedRange.fit(features, one_space=observed.space is not None),
        sources=dict(sources),
        validation=validation,
    )


def _leave_families_out(
    observed: Observations, protocol: Protocol, learners: Sequence[Learner]
) -> HeldOutPredictions | None:
    """Cross-validate with whole families left out; None if there are too few."""
    families = _joined_families(observed)
    if len(set(families)) < MIN_FAMILIES:
        return None
    num_folds = min(protocol.num_folds, len(set(families)))
    return cross_validate(
        observed.features,
        observed.target,
        protocol=replace(protocol, num_folds=num_folds, repeats=1, held_out="families"),
        learners=learners,
        weights=observed.weights,
        groups=families,
    )


def _joined_families(observed: Observations) -> list[str]:
    """Return the family of each row, if families are known; those that share an identical network are one."""
    if not observed.families:
        return []
    name = {family: family for family in observed.families}
    first: dict[int, str] = {}
    for number, family in zip(group_equal_networks(observed.features), observed.families, strict=True):
        kept, other = name[first.setdefault(number, family)], name[family]
        name = {key: kept if value == other else value for key, value in name.items()}
    return [name[family] for family in observed.families]


def _validate(
    observed: Observations, protocol: Protocol, learners: Sequence[Learner]
) -> tuple[Observations, HeldOutPredictions]:
    """Cross-validate all models, with the drift of the device removed if that helps on held-out networks."""

    def cross_validated(given: Observations) -> HeldOutPredictions:
        return cross_validate(
            given.features,
            given.target,
            protocol=protocol,
            learners=learners,
            weights=given.weights,
            groups=given.groups,
        )

    held_out = cross_validated(observed)
    if observed.times is None:
        return observed, held_out
    first = held_out.by_model[held_out.choice()][0]
    steady = without_drift(
        observed.target,
        first,
        times=observed.times,
        folds=held_out.folds[0],
        undisturbed=observed.undisturbed,
    )
    largest = 0.0 if steady is None else float(np.abs(observed.target / steady - 1).max())
    if steady is None or largest < _SMALLEST_DRIFT:
        return observed, held_out
    if scores(first, steady).mape >= scores(first, observed.target).mape:
        return observed, held_out  # without a gain for the models at hand, others are not worth the time
    values = observed.metric.from_target(steady, batch=observed.batches)
    drifted = f"the device drifted by up to {largest:.1%} during the measurements"
    corrected = _with_corrected_floor(replace(observed, values=values), drifted=drifted)
    corrected_held_out = cross_validated(corrected)
    _log.debug("%s: %s", observed.metric, drifted)
    if corrected_held_out.chosen_scores.mape > _DRIFT_GAIN * held_out.chosen_scores.mape:
        return observed, held_out
    return corrected, corrected_held_out


def _with_corrected_floor(observed: Observations, *, drifted: str) -> Observations:
    """Return the observations with the noise floor of the corrected values, where it is known."""
    pairs = np.array(observed.repeated, dtype=np.intp).reshape(-1, 2)
    if len(pairs) < _FEWEST_PAIRS or observed.noise_floor is None:
        note = f"{drifted}; the values are corrected for it, the noise floor is not"
        return replace(observed, notes=(*observed.notes, note))
    logs = np.log(observed.values[pairs[:, 1]] / observed.values[pairs[:, 0]])
    floor = float(np.mean(np.abs(logs - np.median(logs))) / np.sqrt(2))
    note = f"{drifted}; {_FLOOR_CORRECTED}"
    return replace(observed, noise_floor=floor, notes=(*observed.notes, note))


def as_throughput(predictor: Predictor, *, batches: Numbers, noise_floor: float | None = None) -> Predictor:
    """Return a predictor of latency that was just fitted as a predictor of images per second.

    The models of both metrics fit the time of one run of a batch, so the model is the same; the scores on the card are
    those of images per second.

    Args:
        predictor: The predictor of latency.
        batches: Batch size of each row that it was fitted to.
        noise_floor: Noise floor of the measured throughput.
    """
    card, validation = predictor.card, predictor.validation
    if validation is None:
        raise ValueError("a loaded predictor has no held-out predictions of the other models")
    metric = replace(card.metric, name="throughput")
    predicted = np.array([row.predicted for row in card.held_out])
    # Where the device drifted, the floor of the corrected times is that of the corrected rates as well.
    corrected = any(note.endswith(_FLOOR_CORRECTED) for note in card.notes)
    throughput = replace(
        card,
        metric=metric,
        noise_floor=card.noise_floor if corrected else noise_floor,
        unlike=None if card.unlike is None else replace(card.unlike, scores=validation.unlike(metric, batch=batches)),
        ranking=validation.ranking(metric, batch=batches),
        learning_curve=validation.learning_curve(metric, batch=batches),
        held_out=held_out_rows(
            metric.from_target(validation.target, batch=batches), metric.from_target(predicted, batch=batches)
        ),
    )
    return replace(predictor, card=throughput)


def _check_observations(observed: Observations, *, allow_mixed: bool) -> None:
    """Require finite positive measurements, one per network, of one environment unless mixed ones are allowed."""
    values = np.asarray(observed.values)
    if values.shape != (len(observed.features),):
        raise InputError("there must be one value per network", got=f"{values.shape} for {len(observed.features)}")
    require_finite(values[:, None], names=[observed.metric.name])
    wrong = np.flatnonzero((values < _SMALLEST_VALUE) | (values > _LARGEST_VALUE))
    if wrong.size:
        message = f"{observed.metric.name} must be between {_SMALLEST_VALUE:g} and {_LARGEST_VALUE:g}"
        raise InputError(message, got=f"{values[wrong[0]]} in row {wrong[0]}")
    environments = sorted(set(observed.environments))
    if len(environments) > 1 and not allow_mixed:
        raise InputError(
            "measurements must be of one environment",
            got=", ".join(environments),
            hint="fit each profile separately, or pass --mixed",
        )


def _make_card(
    observed: Observations,
    held_out: HeldOutPredictions,
    choice: str,
    *,
    validation: Validation,
    count_names: tuple[str, ...] = (),
    families_out: FamiliesOut | None = None,
) -> Card:
    """Make the card of a model from its held-out predictions; `count_names` are the blocks that it counts."""
    predicted, target, features = held_out.by_model[choice], held_out.target, observed.features
    metric, batches = observed.metric, observed.batches
    given = (features, target, predicted, held_out.folds)
    if families_out is None:
        like, unlike = held_out_coverage(*given, confidences=CONFIDENCES), None
    else:
        like, of_families = family_coverage(*given, families_out=families_out, confidences=CONFIDENCES)
        unlike = FamilyScores(
            num_families=len(set(_joined_families(observed))),
            scores=validation.unlike(metric, batch=batches),
            coverage=_coverage(of_families),
        )
    return Card(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=observed.metric,
        space=observed.space,
        data=FittedData(
            sources=observed.sources,
            num_rows=len(features),
            num_networks=len(set(group_equal_networks(features))),
            is_mixed=len(set(observed.environments)) > 1,
            kinds=observed.kinds,
            usual_batch=usual_batch(batches) if metric.deployment.fixed_batch is None else None,
            count_names=count_names,
        ),
        protocol=held_out.protocol,
        model=choice,
        ranking=validation.ranking(metric, batch=batches),
        coverage=_coverage(like),
        unlike=unlike,
        noise_floor=observed.noise_floor,
        learning_curve=validation.learning_curve(metric, batch=batches),
        held_out=held_out_rows(
            np.asarray(observed.values),
            metric.from_target(np.exp(np.log(predicted).mean(axis=0)), batch=batches),
        ),
        environment=dict(observed.environment),
        notes=observed.notes,
    )


def _coverage(shares: Mapping[float, float]) -> tuple[Coverage, ...]:
    return tuple(Coverage(confidence=confidence, share=share) for confidence, share in shares.items())


def _curve(observed: Observations, held_out: HeldOutPredictions, learners: Sequence[Learner]) -> dict[int, Numbers]:
    """Return the learning curve of the best single model; a stack at every point would take many times longer."""
    by_name = {learner.name: learner for learner in learners}
    best = next(name for name in held_out.ranking() if name != STACK)
    curve = learning_curve(
        by_name[best],
        observed.features,
        observed.target,
        counts=[count for count in COUNTS if count < len(observed.features)],
        num_folds=held_out.protocol.num_folds,
        seed=held_out.protocol.seed,
        groups=observed.groups,
        whole=held_out.by_model[best][0],
    )
    return {point.count: point.predictions for point in curve.points}
