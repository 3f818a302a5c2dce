"""Fitting a predictor: judge all models on held-out networks, take the best, and say on a card how good it is."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from hwnas.errors import InputError
from hwnas.metrics import Metric
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import CONFIDENCES, Card, Coverage, FittedData, HeldOut
from hwnas.predict.drift import without_drift
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.table import Features, require_finite
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import calibrate, held_out_coverage
from hwnas.predict.learning_curve import COUNTS, learning_curve
from hwnas.predict.models import Learner, counted_blocks
from hwnas.predict.predictor import Predictor, Trial
from hwnas.predict.selection import Answers, Protocol, cross_validate, refit

_log = logging.getLogger(__name__)

_DRIFT_GAIN = 0.95
"""Drift is taken out only where that brings the error on held-out networks below this share."""
_SMALLEST_DRIFT = 1e-3
"""Smaller drifts are ignored: without noise, as in figures of memory, rounding errors look like drift."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Measured networks: features, figures in the metric's unit, and where they are from."""

    metric: Metric
    conditions: Conditions
    features: Features
    figures: Numbers
    weights: Numbers | None = None
    environments: Sequence[str] = ()
    """The environment id of each row, where it is known."""
    environment: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    noise_floor: float | None = None
    groups: Sequence[str] | None = None
    """Labels of rows that are held out together; None: identical networks."""
    times: Numbers | None = None
    """Time of each measurement in seconds, if known; used to detect drift."""
    space: str | None = None
    """The space of all networks; None where they are of several kinds."""
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def target(self) -> Numbers:
        """The target of models: the value of one run of a batch, to be minimised."""
        return self.metric.to_target(self.figures, batch=self.batches)

    @property
    def batches(self) -> Numbers:
        """The batch of each row."""
        return self.conditions.batch_of(np.arange(len(self.features)))


def fit_predictor(
    observed: Observations,
    *,
    protocol: Protocol | None = None,
    learners: Sequence[Learner] | None = None,
    allow_mixed: bool = False,
    with_curve: bool = True,
) -> Predictor:
    """The best predictor for these measurements, with its card."""
    protocol = protocol or Protocol(held_out="networks" if observed.groups is None else "groups")
    check_observations(observed, allow_mixed=allow_mixed)
    observed, answers = _judged(observed, protocol, learners)
    features, target = observed.features, observed.target
    choice = answers.choice()
    _log.info("%s: %s, error %.2f %% on held-out networks", observed.metric, choice, 100 * answers.scores(choice).mape)
    model = refit(choice, features, target, answers=answers, learners=learners, weights=observed.weights)
    curve = _curve(observed, answers, learners) if with_curve else {}
    trial = Trial(target=target, by_model=answers.by_model, by_count=curve)
    return Predictor(
        card=make_card(observed, answers, choice, trial=trial, count_names=counted_blocks(model)),
        conditions=replace(observed.conditions, batch=1),
        model=model,
        intervals=calibrate(features, target, answers.by_model[choice]),
        fitted_range=FittedRange.of(features, one_space=observed.space is not None),
        trial=trial,
    )


def _judged(
    observed: Observations, protocol: Protocol, learners: Sequence[Learner] | None
) -> tuple[Observations, Answers]:
    """The models' answers; where the device drifted, and it shows in networks held out, those to figures without it."""

    def judge(given: Observations) -> Answers:
        return cross_validate(
            given.features,
            given.target,
            protocol=protocol,
            learners=learners,
            weights=given.weights,
            groups=given.groups,
        )

    answers = judge(observed)
    if observed.times is None:
        return observed, answers
    first = answers.by_model[answers.choice()][0]
    steady = without_drift(observed.target, first, times=observed.times, folds=answers.folds[0])
    most = 0.0 if steady is None else float(np.abs(observed.target / steady - 1).max())
    if steady is None or most < _SMALLEST_DRIFT:
        return observed, answers
    figures = observed.metric.from_target(steady, batch=observed.batches)
    drifted = f"the device drifted by up to {most:.1%} while it was measured"
    note = f"{drifted}; the figures are those without it, the noise floor is with it"
    corrected = replace(observed, figures=figures, notes=(*observed.notes, note))
    again = judge(corrected)
    _log.debug("%s: %s", observed.metric, drifted)
    if again.scores(again.choice()).mape > _DRIFT_GAIN * answers.scores(answers.choice()).mape:
        return observed, answers
    return corrected, again


def as_throughput(predictor: Predictor, *, batches: Numbers, noise_floor: float | None = None) -> Predictor:
    """A predictor of latency, just fitted, as one of images a second: models fit the time of one run of the batch.

    The model stays the one that was chosen by the time; all scores on the card are those of images a second. `batches`
    are those of the rows that it was fitted to.
    """
    card, trial = predictor.card, predictor.trial
    if trial is None:
        raise ValueError("a predictor that was read from a file has not kept what the other models answered")
    metric = replace(card.metric, name="throughput")
    answers = np.array([row.predicted for row in card.held_out])
    throughput = replace(
        card,
        metric=metric,
        noise_floor=noise_floor,
        ranking=trial.ranking(metric, batch=batches),
        learning_curve=trial.learning_curve(metric, batch=batches),
        held_out=_held_out(metric.from_target(trial.target, batch=batches), metric.from_target(answers, batch=batches)),
    )
    return replace(predictor, card=throughput)


def _held_out(measured: Numbers, predicted: Numbers) -> tuple[HeldOut, ...]:
    pairs = zip(measured.tolist(), predicted.tolist(), strict=True)
    return tuple(HeldOut(measured=one, predicted=other) for one, other in pairs)


def check_observations(observed: Observations, *, allow_mixed: bool) -> None:
    """Measurements must be finite, above 0, one for each network, and of one environment."""
    figures = np.asarray(observed.figures)
    if figures.shape != (len(observed.features),):
        raise InputError("there must be one figure per network", got=f"{figures.shape} for {len(observed.features)}")
    require_finite(figures[:, None], names=[observed.metric.name])
    if (figures <= 0).any():
        row = int(figures.argmin())
        raise InputError(f"{observed.metric.name} must be above 0", got=f"{figures[row]} in row {row}")
    environments = sorted(set(observed.environments))
    if len(environments) > 1 and not allow_mixed:
        raise InputError(
            "measurements must be of one environment",
            got=", ".join(environments),
            hint="fit each profile by itself, or say that they may be mixed",
        )


def make_card(
    observed: Observations, answers: Answers, choice: str, *, trial: Trial, count_names: tuple[str, ...] = ()
) -> Card:
    """Make the card of a model from its held-out predictions; `count_names` are the blocks that it counts."""
    by_model, target, features = answers.by_model[choice], answers.target, observed.features
    metric, batches = observed.metric, observed.batches
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
            usual_batch=_usual_batch(observed),
            count_names=count_names,
        ),
        protocol=answers.protocol,
        model=choice,
        ranking=trial.ranking(metric, batch=batches),
        coverage=tuple(
            Coverage(
                confidence=confidence,
                share=held_out_coverage(features, target, by_model, answers.folds, confidence=confidence),
            )
            for confidence in CONFIDENCES
        ),
        noise_floor=observed.noise_floor,
        learning_curve=trial.learning_curve(metric, batch=batches),
        held_out=_held_out(
            np.asarray(observed.figures),
            metric.from_target(np.exp(np.log(by_model).mean(axis=0)), batch=batches),
        ),
        environment=dict(observed.environment),
        notes=observed.notes,
    )


def _usual_batch(observed: Observations) -> int | None:
    """The commonest batch, the greatest of several; None where there is only one anyway."""
    if observed.metric.deployment.fixed_batch is not None:
        return None
    values, counts = np.unique(observed.batches, return_counts=True)
    return int(values[counts == counts.max()][-1])


def _curve(observed: Observations, answers: Answers, learners: Sequence[Learner] | None) -> dict[int, Numbers]:
    """The learning curve of the best single model: a stack at every point would take many times longer."""
    from hwnas.predict.selection import STACK, candidates

    by_name = {learner.name: learner for learner in learners or candidates(observed.features)}
    best = next(name for name in answers.ranking() if name != STACK)
    curve = learning_curve(
        by_name[best],
        observed.features,
        observed.target,
        counts=[count for count in COUNTS if count < len(observed.features)],
        seed=answers.protocol.seed,
        groups=observed.groups,
    )
    return {point.count: point.answers for point in curve.points}
