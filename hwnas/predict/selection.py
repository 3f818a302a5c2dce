"""Selection of the best model by repeated cross-validation.

Every model predicts the same held-out networks in the same folds. The weights of the stack are fitted to the
predictions of the other folds. The model with the least mean absolute relative error is chosen, or a simpler one whose
error is less than one percent larger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from hwnas.config import Between
from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import Fold, group_equal_networks, make_folds
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import LEARNERS, BoostedLearner, Fitted, GaussianLearner, Learner, Stack, stack_weights

STACK = "stack"
MIN_NETWORKS = 8
"""Least number of distinct networks to fit; with fewer the error cannot be estimated."""
_GAIN = 0.01


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Protocol of the cross-validation."""

    num_folds: Annotated[int, Between(2, 1_000_000_000)] = 5
    repeats: Annotated[int, Between(1, 1000)] = 2
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    held_out: str = "networks"
    """Unit of rows held out together: 'networks', or groups such as 'families'."""


@dataclass(frozen=True, kw_only=True)
class HeldOutPredictions:
    """Predictions of held-out networks: one array per model, one row per repeat."""

    target: Numbers
    protocol: Protocol
    by_model: Mapping[str, Numbers]
    folds: tuple[tuple[Fold, ...], ...]

    def scores(self, name: str) -> Scores:
        """Return the scores of one model over all repeats."""
        predicted = self.by_model[name]
        return scores(predicted.ravel(), np.tile(self.target, len(predicted)))

    def ranking(self) -> dict[str, Scores]:
        """Return the scores of all models, best first."""
        by_name = {name: self.scores(name) for name in self.by_model}
        return dict(sorted(by_name.items(), key=lambda item: item[1].mape))

    def choice(self, unlike: "HeldOutPredictions | None" = None) -> str:
        """Return the model to use: the simplest whose error is within one percent of the least.

        Args:
            unlike: Predictions with whole families left out; the geometric mean of both errors is compared then.
        """
        errors = {name: self.scores(name).mape for name in self.by_model}
        if unlike is not None:
            errors = {name: float(np.sqrt(error * unlike.scores(name).mape)) for name, error in errors.items()}
        best = min(errors.values())
        return next(name for name in self.by_model if errors[name] <= best * (1 + _GAIN))

    @property
    def chosen_scores(self) -> Scores:
        """Scores of the chosen model."""
        return self.scores(self.choice())


def cross_validate(
    features: Features,
    target: Numbers,
    *,
    protocol: Protocol,
    learners: Sequence[Learner] | None = None,
    weights: Numbers | None = None,
    groups: Sequence[str] | None = None,
) -> HeldOutPredictions:
    """Predict every network by models that were fitted to the other folds.

    Args:
        features: Features of the networks.
        target: Positive values to predict, one per network.
        protocol: Number of folds, repeats and seed.
        learners: Models to try; by default all that suit the features.
        weights: Weight of each network in the fits.
        groups: Labels of networks that are held out together; by default identical networks are.

    Raises:
        InputError: There are too few distinct networks or groups.
    """
    learners = candidates(features) if learners is None else tuple(learners)
    networks = group_equal_networks(features)
    if len(set(networks)) < MIN_NETWORKS:
        message = f"there must be at least {MIN_NETWORKS} distinct networks to fit a predictor"
        got = f"{len(features)} rows of {len(set(networks))}"
        raise InputError(message, got=got, hint="hwnas profile --samples 50")
    labels = groups or networks
    folds = tuple(
        make_folds(len(target), num_folds=protocol.num_folds, seed=protocol.seed + repeat, groups=labels)
        for repeat in range(protocol.repeats)
    )
    by_model = {
        learner.name: np.stack(
            [_held_out(learner, features, target, weights, repeat, protocol.seed) for repeat in folds]
        )
        for learner in learners
    }
    if len(learners) > 1:
        by_model[STACK] = np.stack(
            [_stacked(list(by_model.values()), target, repeat, number) for number, repeat in enumerate(folds)]
        )
    return HeldOutPredictions(target=target, protocol=protocol, by_model=by_model, folds=folds)


def with_stack_of(left_out: HeldOutPredictions, held_out: HeldOutPredictions) -> HeldOutPredictions:
    """Return predictions with families left out, and the stack with the weights that the predictor has.

    Those are the ones that suit networks left out at random. Weights that suit families left out would state an error
    that the predictor does not have.

    Args:
        left_out: Predictions with whole families left out.
        held_out: Predictions of the same networks and models, from which the predictor's stack is made.
    """
    if STACK not in held_out.by_model:
        return left_out
    members = [name for name in held_out.by_model if name != STACK]
    stacked = np.zeros(left_out.by_model[STACK].shape)
    for number, folds in enumerate(left_out.folds):
        for fold in folds:
            weights = _stack_weights(
                [held_out.by_model[name][:, fold.fit] for name in members], left_out.target[fold.fit]
            )
            logs = np.stack([np.log(left_out.by_model[name][number, fold.held_out]) for name in members])
            stacked[number, fold.held_out] = np.exp(weights @ logs)
    return replace(left_out, by_model={**left_out.by_model, STACK: stacked})


def refit(
    name: str,
    features: Features,
    target: Numbers,
    *,
    held_out: HeldOutPredictions,
    learners: Sequence[Learner] | None = None,
    weights: Numbers | None = None,
) -> Fitted:
    """Fit one model to all networks; `held_out` gives the weights of a stack."""
    by_name = {learner.name: learner for learner in learners or candidates(features)}
    if name != STACK:
        return by_name[name].fit(features, target, weights=weights, seed=held_out.protocol.seed)
    shares = _stack_weights([held_out.by_model[member] for member in by_name], target)
    kept = [(member, share) for member, share in zip(by_name.values(), shares, strict=True) if share > 0.01]
    members = tuple(member.fit(features, target, weights=weights, seed=held_out.protocol.seed) for member, _ in kept)
    total = sum(share for _, share in kept)
    return Stack(members=members, weights=np.array([share / total for _, share in kept]))


def candidates(features: Features, *, any_kind: bool = False) -> tuple[Learner, ...]:
    """Return the models that suit these features; a correction per block needs block counts.

    Args:
        features: The features of the networks to fit.
        any_kind: The predictor is for networks of any kind: learned corrections fade with the distance from these.
    """
    suited = (learner for learner in LEARNERS.values() if learner.name != "blocks" or features.count_names)
    return tuple(
        replace(learner, fading=True) if any_kind and isinstance(learner, GaussianLearner | BoostedLearner) else learner
        for learner in suited
    )


def _held_out(
    learner: Learner,
    features: Features,
    target: Numbers,
    weights: Numbers | None,
    folds: tuple[Fold, ...],
    seed: int,
) -> Numbers:
    predicted = np.zeros(len(target))
    for fold in folds:
        part = None if weights is None else weights[fold.fit]
        fitted = learner.fit(features.take(fold.fit), target[fold.fit], weights=part, seed=seed)
        predicted[fold.held_out] = fitted.predict(features.take(fold.held_out))
    return predicted


def _stacked(by_model: Sequence[Numbers], target: Numbers, folds: tuple[Fold, ...], repeat_index: int) -> Numbers:
    """Return the predictions of the stack in one repeat; the weights of a fold are fitted to the other folds."""
    repeat = [predicted[repeat_index] for predicted in by_model]
    stacked = np.zeros(len(target))
    for fold in folds:
        weights = stack_weights([values[fold.fit] for values in repeat], target[fold.fit])
        logs = np.stack([np.log(values[fold.held_out]) for values in repeat])
        stacked[fold.held_out] = np.exp(weights @ logs)
    return stacked


def _stack_weights(by_model: Sequence[Numbers], target: Numbers) -> Numbers:
    return stack_weights([predicted.ravel() for predicted in by_model], np.tile(target, len(by_model[0])))
