"""Interfaces of models: a learner is fitted to features and a target, which gives a fitted model.

Targets are positive: milliseconds of one run of a batch, megabytes, joules. Errors are relative.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers, as_contiguous
from hwnas.predict.features.table import Features, require_finite
from hwnas.predict.stored import StoredTable


class Fitted(Protocol):
    """A fitted model, which is stored as plain numbers and names."""

    kind: ClassVar[str]

    def predict(self, features: Features) -> Numbers:
        """Predict the target of each network, above 0."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the model as plain values."""
        ...


class Learner(Protocol):
    """A learning method; equal inputs and seeds give equal models."""

    @property
    def name(self) -> str:
        """Name of the model on a card."""
        ...

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Fitted:
        """Fit a model to a positive target, with optional weights of the rows."""
        ...


@dataclass(frozen=True)
class Standardizer(ContiguousArrays):
    """Scaling of columns to mean 0 and standard deviation 1; a constant column becomes 0."""

    mean: Numbers
    scale: Numbers

    @classmethod
    def fit(cls, values: Numbers) -> Self:
        """Fit the scaling to these values."""
        scale = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(scale > 1e-9 * (1 + abs(values.mean(axis=0))), scale, np.inf))

    def apply(self, values: Numbers) -> Numbers:
        """Return the scaled values."""
        scaled: Numbers = (values - self.mean) / self.scale
        return scaled

    def to_json(self) -> dict[str, Any]:
        """Return plain lists; a constant column has scale 0."""
        return {"mean": self.mean.tolist(), "scale": np.where(np.isinf(self.scale), 0, self.scale).tolist()}

    @classmethod
    def from_json(cls, data: StoredTable, *, num_columns: int) -> Self:
        """Make the scaling of so many columns from what `to_json` returned."""
        data.require_keys("mean", "scale")
        scale = data.array("scale", num_columns, low=0)
        return cls(data.array("mean", num_columns), np.where(scale == 0, np.inf, scale))


def whitening(columns: Numbers, *, most: int = 10) -> Numbers:
    """Return the matrix that turns standardised columns into at most so many main components of variance 1."""
    _, spread, directions = np.linalg.svd(columns, full_matrices=False)
    # Components with little variance are mostly rounding errors, which whitening would blow up.
    kept = np.flatnonzero(spread > 0.05 * max(float(spread[0]), 1e-12))[:most]
    matrix: Numbers = directions[kept].T / (spread[kept] / np.sqrt(len(columns)))
    return matrix


def check_fit_inputs(features: Features, target: Numbers, weights: Numbers | None) -> tuple[Numbers, Numbers]:
    """Return target and weights as arrays; raise InputError unless they are finite, in range and one per network."""
    target = as_contiguous(target)
    weights = np.ones(len(target)) if weights is None else as_contiguous(weights)
    for what, values in (("targets", target), ("weights", weights)):
        if values.shape != (len(features),):
            raise InputError(f"{what} must have one value per network", got=f"{values.shape} for {len(features)}")
    require_finite(target[:, None], names=["the target"])
    require_finite(weights[:, None], names=["the weight"])
    if len(target) < 3:
        raise InputError("a model needs at least 3 networks", got=len(target))
    if (target <= 0).any():
        raise InputError("targets must be above 0", got=f"{target.min()} in row {int(target.argmin())}")
    if (weights < 0).any() or not weights.any():
        raise InputError("weights must not be negative, and not all 0", got=weights.min())
    return target, weights
