"""The error as a function of the number of measurements, of which a network may have two."""

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
"""Numbers of measurements to fit; a point with all measurements of the folds is added."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Scores on held-out networks of a model fitted to `count` measurements."""

    count: int
    scores: Scores
    predictions: Numbers
    """Predictions of each network by a model that was not fitted to it."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Points in ascending order of count, and the least possible error."""

    points: tuple[Point, ...]
    noise_floor: float | None = None
    """Mean absolute relative error of a perfect predictor, which is that of repeated measurements."""

    def first_below(self, mape: float) -> int | None:
        """Return the least count whose error is at most this; None if none is."""
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
    whole: Numbers | None = None,
) -> LearningCurve:
    """Cross-validate a model that is fitted to parts of the other folds, and to all of them.

    Args:
        learner: The model to fit.
        features: Features of the networks.
        target: Measured values.
        counts: Numbers of measurements to fit.
        num_folds: Number of folds.
        seed: Seed of the folds and of the parts.
        noise_floor: Noise floor of the measurements, to be kept with the curve.
        groups: Labels of networks that are held out together; by default identical networks are.
        whole: Predictions by models that were fitted to all networks of the other folds, if they were made before.

    Raises:
        InputError: A count is below 3, or there are fewer groups than folds.
    """
    if any(count < 3 for count in counts):
        raise InputError("a learning curve needs at least 3 measurements a point", got=min(counts))
    folds = make_folds(len(target), num_folds=num_folds, seed=seed, groups=groups or group_equal_networks(features))
    largest = min(len(fold.fit) for fold in folds)
    points = []
    for count in (*(count for count in sorted(counts) if count < largest), largest):
        predicted = np.zeros(len(target)) if count < largest or whole is None else whole
        for index, fold in enumerate(folds if predicted is not whole else ()):
            rows = np.random.default_rng([seed, index]).permutation(fold.fit)[:count]
            fitted = learner.fit(features.take(rows), target[rows], seed=seed)
            predicted[fold.held_out] = fitted.predict(features.take(fold.held_out))
        points.append(Point(count=count, scores=scores(predicted, target), predictions=predicted))
    return LearningCurve(points=tuple(points), noise_floor=noise_floor)
