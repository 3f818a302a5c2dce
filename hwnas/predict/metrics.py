"""Scores of predictions of held-out networks."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hwnas.config import Between
from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import require_finite

RelativeError = Annotated[float, Between(0, 1e30)]
Share = Annotated[float, Between(0, 1)]
Correlation = Annotated[float, Between(-1, 1)]

_ROUNDING = 1e-12
_DRAWS = 64
_SIGMA_BY_MEAN = float(np.sqrt(np.pi / 2))
"""Standard deviation over mean absolute value of a normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Errors are shares: 0.01 is one percent."""

    count: int
    mape: RelativeError
    """Mean absolute relative error |predicted / measured - 1|."""
    rmspe: RelativeError
    """Root mean square of the relative error."""
    median_error: RelativeError
    within_5: Share
    """Share of networks within 5 %."""
    within_10: Share
    spearman: Correlation | None
    """Rank correlation; None if all measured or all predicted values are equal."""
    kendall: Correlation | None
    max_error: RelativeError


def scores(predicted: Numbers, measured: Numbers) -> Scores:
    """Return the scores of predictions; raise InputError unless all values are finite and measured ones above 0."""
    predicted, measured = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if predicted.shape != measured.shape or not predicted.size or predicted.ndim != 1:
        raise InputError("there must be one prediction per measurement", got=f"{predicted.shape}, {measured.shape}")
    require_finite(np.column_stack([predicted, measured]), names=["a prediction", "a measurement"])
    if (measured <= 0).any():
        raise InputError("measurements must be above 0", got=measured.min())
    error = np.abs(predicted / measured - 1)
    spearman, kendall = _ranks(predicted, measured)
    return Scores(
        count=len(error),
        mape=float(error.mean()),
        rmspe=float(np.sqrt((error**2).mean())),
        median_error=float(np.median(error)),
        within_5=float((error <= 0.05 + _ROUNDING).mean()),
        within_10=float((error <= 0.10 + _ROUNDING).mean()),
        spearman=spearman,
        kendall=kendall,
        max_error=float(error.max()),
    )


def best_spearman(values: Numbers, *, noise_floor: float) -> float | None:
    """Return the rank correlation of a perfect predictor with measurements of this noise; None if values are equal.

    The mean over draws of log-normal noise whose mean absolute relative error is the noise floor.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(values))) * noise_floor * _SIGMA_BY_MEAN
    return float(np.mean([spearmanr(values, values * np.exp(drawn)).statistic for drawn in noise]))


def coverage(lower: Numbers, upper: Numbers, measured: Numbers) -> float:
    """Return the share of measurements inside their intervals."""
    return float(((lower <= measured) & (measured <= upper)).mean())


def _ranks(predicted: Numbers, measured: Numbers) -> tuple[float | None, float | None]:
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None, None
    from scipy.stats import kendalltau, spearmanr

    return float(spearmanr(predicted, measured).statistic), float(kendalltau(predicted, measured).statistic)
