"""The error as a function of the number of measured networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import group_equal_networks, make_folds
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import Learner

COUNTS = (20, 50, 100, 200)
"""Networks that are fitted; all of them come last."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The scores on held-out networks with so many fitted."""

    count: int
    scores: Scores
    answers: Numbers
    """Predictions of each network by a model that was not fitted to it."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Points by growing count, and the error that no predictor can go below."""

    points: tuple[Point, ...]
    noise_floor: float | None = None
    """The mean absolute relative error of a perfect predictor: what measuring again gives."""

    def first_below(self, mape: float) -> int | None:
        """The least count whose error is at most this; None where none is."""
        return next((point.count for point in self.points if point.scores.mape <= mape), None)


def learning_curve(
    learner: Learner,
    features: Features,
    target: Numbers,
    *,
    counts: Sequence[int] = COUNTS,
    num_folds: int = 5,
    seed: int = 0,
    noise_floor: float | None = None,
    groups: Sequence[str] | None = None,
) -> LearningCurve:
    """Cross-validated scores with some and with all of the other folds' networks fitted."""
    if any(count < 3 for count in counts):
        raise InputError("a learning curve needs at least 3 networks a point", got=min(counts))
    folds = make_folds(len(target), num_folds=num_folds, seed=seed, groups=groups or group_equal_networks(features))
    most = min(len(fold.fit) for fold in folds)
    points = []
    for count in (*(count for count in sorted(counts) if count < most), most):
        answers = np.zeros(len(target))
        for number, fold in enumerate(folds):
            rows = np.random.default_rng([seed, number]).permutation(fold.fit)[:count]
            fitted = learner.fit(features.take(rows), target[rows], seed=seed)
            answers[fold.held_out] = fitted.predict(features.take(fold.held_out))
        points.append(Point(count=count, scores=scores(answers, target), answers=answers))
    return LearningCurve(points=tuple(points), noise_floor=noise_floor)
