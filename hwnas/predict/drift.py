"""Drift of a device's speed during a campaign, estimated from the measured networks.

The factor of a row is a smooth function of time: a Gaussian-weighted local mean (Nadaraya-Watson) of the residuals of a
model without drift. Rows whose target is to be predicted must not be among those that the mean is taken of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.folds import Fold

_WIDTHS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Candidates for the width of the local mean, in average distances of rows."""


@dataclass(frozen=True, kw_only=True)
class Drift(ContiguousArrays):
    """Slowdown of a device over time, as logarithms at some times."""

    times: Numbers
    """In ascending order."""
    logs: Numbers
    """Residuals of the model without drift at these times."""
    width: float | None
    """Width of the local mean, in units of time; None: there is no drift."""

    @classmethod
    def none(cls) -> Self:
        """Return the drift of a device whose speed is constant."""
        return cls(times=np.zeros(0), logs=np.zeros(0), width=None)

    def factor(self, times: Numbers) -> Numbers:
        """Return the factor by which the device was slower than usual at these times."""
        if self.width is None:
            return np.ones(len(times))
        weights = _weights(self.times, np.asarray(times, dtype=np.float64), width=self.width)
        return np.exp(_mean(weights, self.logs))


def find_drift(times: Numbers, residual: Numbers) -> Drift:
    """Estimate the drift from the residuals of a model (logarithms of measured over predicted).

    The width is that of the least leave-one-out error. There is no drift if rows close in time do not predict a row.
    """
    if not len(times):
        return Drift.none()
    order = np.argsort(times, kind="stable")
    times, residual = np.asarray(times, dtype=np.float64)[order], np.asarray(residual, dtype=np.float64)[order]
    # Outliers are clipped at four robust standard deviations (1.4826 times the median absolute deviation).
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


def without_drift(
    target: Numbers,
    predicted: Numbers,
    *,
    times: Numbers,
    folds: Sequence[Fold],
    undisturbed: NDArray[np.bool_] | None = None,
) -> Numbers | None:
    """Return the target corrected for drift, or None if there is none.

    Args:
        target: Measured values.
        predicted: Held-out predictions of the rows by a model without drift.
        times: Time of each row.
        folds: The folds; the drift at a row is estimated from rows of other folds only.
        undisturbed: Rows that the drift is estimated from; None, or if there is none: all.
    """
    logs = np.log(target / predicted)
    counted = np.ones(len(target), dtype=np.bool_) if undisturbed is None or not undisturbed.any() else undisturbed
    if find_drift(times[counted], logs[counted]).width is None:
        return None
    factor = np.ones(len(target))
    for fold in folds:
        rows = fold.fit[counted[fold.fit]]
        factor[fold.held_out] = find_drift(times[rows], logs[rows]).factor(times[fold.held_out])
    return target / factor


def _left_out(times: Numbers, logs: Numbers, *, width: float) -> float:
    """Return the mean absolute error of the leave-one-out local means."""
    weights = _weights(times, times, width=width)
    np.fill_diagonal(weights, 0)
    return float(np.abs(_mean(weights, logs) - logs).mean())


def _weights(times: Numbers, at: Numbers, *, width: float) -> Numbers:
    weights: Numbers = np.exp(-0.5 * ((at[:, None] - times) / width) ** 2)
    return weights


def _mean(weights: Numbers, logs: Numbers) -> Numbers:
    # The constant shrinks the mean to 0 where there are few rows nearby.
    mean: Numbers = (weights @ logs) / (weights.sum(axis=1) + 0.3)
    return mean
