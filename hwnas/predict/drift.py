"""Drift of a device's speed during a campaign, estimated from the measured networks.

The factor of a row is a smooth function of its place in time: a Gaussian-weighted local mean of what a model without
drift leaves, over the rows that were given. Rows whose target is to be predicted must not be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import Fold
from hwnas.predict.models.model import Fitted, Learner

_WIDTHS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Candidates for how many rows a local mean reaches, in rows that are fitted."""


@dataclass(frozen=True, kw_only=True)
class Drift(ContiguousArrays):
    """The logarithm of how much slower the device was, known at some times."""

    times: Numbers
    """Growing."""
    logs: Numbers
    """Residuals of the model without drift, row by row."""
    width: float | None
    """Width of the local mean, in units of time; None: there is no drift."""

    @classmethod
    def none(cls) -> Self:
        """A device that does not drift."""
        return cls(times=np.zeros(0), logs=np.zeros(0), width=None)

    def factor(self, times: Numbers) -> Numbers:
        """Factor by which the device was slower than usual."""
        if self.width is None:
            return np.ones(len(times))
        return np.exp(_smooth(self.times, self.logs, np.asarray(times, dtype=np.float64), width=self.width))


def find_drift(times: Numbers, residual: Numbers) -> Drift:
    """The drift in what a model left (logarithms); none where the neighbours in time say nothing about a row."""
    order = np.argsort(times, kind="stable")
    times, residual = np.asarray(times, dtype=np.float64)[order], np.asarray(residual, dtype=np.float64)[order]
    limit = 4 * 1.4826 * float(np.median(abs(residual - np.median(residual)))) + 1e-9
    logs = np.clip(residual - np.median(residual), -limit, limit)
    step = float(np.ptp(times)) / max(len(times) - 1, 1)
    if step <= 0:
        return Drift.none()
    errors = {width: _left_out(times, logs, width=width * step) for width in _WIDTHS}
    width, error = min(errors.items(), key=lambda item: item[1])
    if error > 0.95 * float(np.abs(logs).mean()):
        return Drift.none()
    return Drift(times=times, logs=logs, width=width * step)


def fit_with_drift(
    learner: Learner, features: Features, target: Numbers, *, times: Numbers, rounds: int = 3, seed: int = 0
) -> tuple[Fitted, Drift]:
    """A model of the networks and the drift of the device, found in turns: each sees what the other leaves."""
    drift = Drift.none()
    fitted = learner.fit(features, target, seed=seed)
    for _ in range(rounds):
        drift = find_drift(times, np.log(target / fitted.predict(features)))
        if drift.width is None:
            break
        fitted = learner.fit(features, target / drift.factor(times), seed=seed)
    return fitted, drift


def without_drift(target: Numbers, answers: Numbers, *, times: Numbers, folds: Sequence[Fold]) -> Numbers | None:
    """The target as the device would have given it without drift; None where neighbours in time say nothing.

    `answers` are those of a model that had not seen the rows; the drift at a row is told by rows of other folds alone.
    """
    logs = np.log(target / answers)
    if find_drift(times, logs).width is None:
        return None
    factor = np.ones(len(target))
    for fold in folds:
        factor[fold.held_out] = find_drift(times[fold.fit], logs[fold.fit]).factor(times[fold.held_out])
    return target / factor


def _left_out(times: Numbers, logs: Numbers, *, width: float) -> float:
    """The mean absolute error of each row's local mean without the row itself."""
    weights = _weights(times, times, width=width)
    np.fill_diagonal(weights, 0)
    return float(np.abs(_mean(weights, logs) - logs).mean())


def _smooth(times: Numbers, logs: Numbers, at: Numbers, *, width: float) -> Numbers:
    return _mean(_weights(times, at, width=width), logs)


def _weights(times: Numbers, at: Numbers, *, width: float) -> Numbers:
    weights: Numbers = np.exp(-0.5 * ((at[:, None] - times) / width) ** 2)
    return weights


def _mean(weights: Numbers, logs: Numbers) -> Numbers:
    """A local mean, held back to 0 where there is hardly a row near."""
    mean: Numbers = (weights @ logs) / (weights.sum(axis=1) + 0.3)
    return mean
