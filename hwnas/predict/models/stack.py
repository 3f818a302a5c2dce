"""A stack: a weighted geometric mean of models, with weights fitted to held-out predictions (Wolpert 1992)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers, nonnegative_least_squares
from hwnas.predict.features.table import Features
from hwnas.predict.models.model import Fitted

_HOPELESS = 3.0
_ITERATIONS = 10


@dataclass(frozen=True, kw_only=True)
class Stack(ContiguousArrays):
    """Fitted models with weights that sum to 1."""

    kind: ClassVar[str] = "stack"
    members: tuple[Fitted, ...]
    weights: Numbers

    def predict(self, features: Features) -> Numbers:
        """Return the weighted geometric mean of the members."""
        logs = np.stack([np.log(member.predict(features)) for member in self.members])
        predicted: Numbers = np.exp(self.weights @ logs)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Return the members with their kinds, and the weights."""
        members = [{"kind": member.kind, **member.to_json()} for member in self.members]
        return {"members": members, "weights": self.weights.tolist()}


def stack_weights(predictions: Sequence[Numbers], target: Numbers) -> Numbers:
    """Return weights, not negative and of sum 1, for the mixture of least error.

    The absolute error of the logarithm is minimised, so that single outliers do not decide, with a small penalty
    towards equal weights. A model whose median error is more than three times the best one gets weight 0.

    Args:
        predictions: Held-out predictions of each model.
        target: Measured values.
    """
    errors = np.stack([np.log(prediction / target) for prediction in predictions], axis=1)
    medians = np.median(abs(errors), axis=0)
    eligible = np.flatnonzero(medians <= _HOPELESS * medians.min() + 1e-12)
    weights = np.zeros(errors.shape[1])
    weights[eligible] = _weights(errors[:, eligible])
    return weights


def _weights(errors: Numbers) -> Numbers:
    # Least absolute errors by iteratively reweighted non-negative least squares. Appended rows hold the penalty
    # towards equal weights and, with a large factor, the constraint that the weights sum to 1.
    rows, members = errors.shape
    weights, robust = np.full(members, 1 / members), np.ones(rows)
    for _ in range(_ITERATIONS):
        spread = max(float(np.median(abs(errors @ weights))), 1e-6)
        penalty = 0.3 * spread * np.eye(members)
        total = 1e3 * spread * np.sqrt(rows)
        matrix = np.concatenate([errors * np.sqrt(robust)[:, None], penalty, np.full((1, members), total)])
        response = np.concatenate([np.zeros(rows), np.diag(penalty) / members, [total]])
        weights = nonnegative_least_squares(matrix, response)
        weights = weights / weights.sum()
        robust = 1 / np.maximum(abs(errors @ weights), 0.3 * spread)
        robust = robust / robust.mean()
    result: Numbers = weights
    return result
