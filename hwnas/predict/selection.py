"""Selection of the best model by repeated cross-validation.

Every model answers for the same networks in the same folds. The stack's answers come from weights that were found on
the other folds' answers. The choice is by mean absolute relative error; a simpler model is taken where the better one
gains less than a hundredth of the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import Fold, group_equal_networks, make_folds
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import LEARNERS, Fitted, Learner, Stack, stack_weights

STACK = "stack"
MIN_NETWORKS = 8
"""Fewer distinct networks than this are not fitted: nothing could be said about the error."""
_GAIN = 0.01


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Protocol of the cross-validation."""

    num_folds: int = 5
    repeats: int = 2
    seed: int = 0
    held_out: str = "networks"
    """Unit of rows held out together: 'networks', or groups such as 'families'."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions of held-out networks: an array per model, one row per repeat."""

    target: Numbers
    protocol: Protocol
    by_model: Mapping[str, Numbers]
    folds: tuple[tuple[Fold, ...], ...]

    def scores(self, name: str) -> Scores:
        """The scores of one model over all repeats."""
        answers = self.by_model[name]
        return scores(answers.ravel(), np.tile(self.target, len(answers)))

    def ranking(self) -> dict[str, Scores]:
        """All models, the best first."""
        found = {name: self.scores(name) for name in self.by_model}
        return dict(sorted(found.items(), key=lambda item: item[1].mape))

    def choice(self) -> str:
        """The model to use: the first, in order of simplicity, that comes near enough to the best."""
        ranking = self.ranking()
        best = next(iter(ranking.values())).mape
        return next(name for name in self.by_model if ranking[name].mape <= best * (1 + _GAIN))


def cross_validate(
    features: Features,
    target: Numbers,
    *,
    protocol: Protocol,
    learners: Sequence[Learner] | None = None,
    weights: Numbers | None = None,
    groups: Sequence[str] | None = None,
) -> Answers:
    """Fit every model on all folds but one, again and again; `groups` are held out together."""
    learners = candidates(features) if learners is None else tuple(learners)
    _require_enough(features)
    labels = groups or group_equal_networks(features)
    folds = tuple(
        make_folds(len(target), num_folds=protocol.num_folds, seed=protocol.seed + repeat, groups=labels)
        for repeat in range(protocol.repeats)
    )
    by_model = {
        learner.name: np.stack(
            [_answers(learner, features, target, weights, repeat, protocol.seed) for repeat in folds]
        )
        for learner in learners
    }
    if len(learners) > 1:
        by_model[STACK] = np.stack(
            [_stacked(list(by_model.values()), target, repeat, number) for number, repeat in enumerate(folds)]
        )
    return Answers(target=target, protocol=protocol, by_model=by_model, folds=folds)


def refit(
    name: str,
    features: Features,
    target: Numbers,
    *,
    answers: Answers,
    learners: Sequence[Learner] | None = None,
    weights: Numbers | None = None,
) -> Fitted:
    """One model, fitted to all networks."""
    by_name = {learner.name: learner for learner in learners or candidates(features)}
    if name != STACK:
        return by_name[name].fit(features, target, weights=weights, seed=answers.protocol.seed)
    shares = _stack_weights([answers.by_model[member] for member in by_name], target)
    kept = [(member, share) for member, share in zip(by_name.values(), shares, strict=True) if share > 0.01]
    members = tuple(member.fit(features, target, weights=weights, seed=answers.protocol.seed) for member, _ in kept)
    total = sum(share for _, share in kept)
    return Stack(members=members, weights=np.array([share / total for _, share in kept]))


def candidates(features: Features) -> tuple[Learner, ...]:
    """The models that make sense for these features."""
    return tuple(learner for learner in LEARNERS.values() if learner.name != "blocks" or features.count_names)


def _require_enough(features: Features) -> None:
    distinct = len(set(group_equal_networks(features)))
    if distinct < MIN_NETWORKS:
        message = f"there must be at least {MIN_NETWORKS} distinct networks to fit a predictor"
        raise InputError(message, got=f"{len(features)} rows of {distinct}", hint="hwnas profile --samples 50")


def _answers(
    learner: Learner,
    features: Features,
    target: Numbers,
    weights: Numbers | None,
    folds: tuple[Fold, ...],
    seed: int,
) -> Numbers:
    answers = np.zeros(len(target))
    for fold in folds:
        part = None if weights is None else weights[fold.fit]
        fitted = learner.fit(features.take(fold.fit), target[fold.fit], weights=part, seed=seed)
        answers[fold.held_out] = fitted.predict(features.take(fold.held_out))
    return answers


def _stacked(answers: Sequence[Numbers], target: Numbers, folds: tuple[Fold, ...], number: int) -> Numbers:
    """The stack's answers in one repeat: the weights of a fold come from the other folds."""
    repeat = [values[number] for values in answers]
    stacked = np.zeros(len(target))
    for fold in folds:
        weights = stack_weights([values[fold.fit] for values in repeat], target[fold.fit])
        logs = np.stack([np.log(values[fold.held_out]) for values in repeat])
        stacked[fold.held_out] = np.exp(weights @ logs)
    return stacked


def _stack_weights(answers: Sequence[Numbers], target: Numbers) -> Numbers:
    return stack_weights([values.ravel() for values in answers], np.tile(target, len(answers[0])))
