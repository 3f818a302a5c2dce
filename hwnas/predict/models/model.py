"""The interface of models: a learner, which is fitted to features and a target, and the fitted model.

A target is positive: milliseconds of one run of the batch, megabytes, joules. Errors count relative to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers, as_contiguous
from hwnas.predict.features.table import Features, require_finite

Plain = Mapping[str, Any]


class Fitted(Protocol):
    """A fitted model: plain numbers, and nothing that code could hide in."""

    kind: ClassVar[str]

    def predict(self, features: Features) -> Numbers:
        """The target of each network, above 0."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The model as plain values."""
        ...

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """The model that `to_json` wrote."""
        ...


class Learner(Protocol):
    """A way to fit a model; equal inputs and seed give an equal model."""

    @property
    def name(self) -> str:
        """Name on a card."""
        ...

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Fitted:
        """Fit to a positive target; `weights` say how much a row counts."""
        ...


@dataclass(frozen=True)
class Standard(ContiguousArrays):
    """Columns brought to mean 0 and spread 1; a column that never varies becomes 0."""

    mean: Numbers
    scale: Numbers

    @classmethod
    def of(cls, values: Numbers) -> Self:
        """Fit to these values."""
        scale = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(scale > 1e-9 * (1 + abs(values.mean(axis=0))), scale, np.inf))

    def apply(self, values: Numbers) -> Numbers:
        """Other values on the same footing."""
        scaled: Numbers = (values - self.mean) / self.scale
        return scaled

    def to_json(self) -> dict[str, Any]:
        """Plain lists; a column that never varied has scale 0."""
        return {"mean": self.mean.tolist(), "scale": np.where(np.isinf(self.scale), 0, self.scale).tolist()}

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        scale = numbers(data["scale"])
        return cls(numbers(data["mean"]), np.where(scale == 0, np.inf, scale))


def numbers(values: Any) -> Numbers:
    """Plain lists as an array of finite numbers."""
    array = as_contiguous(values)
    if not np.isfinite(array).all():
        raise ValueError("a figure of a model is not a finite number")
    return array


def names(values: Sequence[Any]) -> tuple[str, ...]:
    """Plain lists as names."""
    return tuple(str(value) for value in values)


def checked(features: Features, target: Numbers, weights: Numbers | None) -> tuple[Numbers, Numbers]:
    """Target and weights, one per network, finite and in range."""
    target = as_contiguous(target)
    weights = np.ones(len(target)) if weights is None else as_contiguous(weights)
    for what, values in (("targets", target), ("weights", weights)):
        if values.shape != (len(features),):
            raise InputError(f"there must be as many {what} as networks", got=f"{values.shape} for {len(features)}")
    require_finite(target[:, None], names=["the target"])
    require_finite(weights[:, None], names=["the weight"])
    if len(target) < 3:
        raise InputError("a model needs at least 3 networks", got=len(target))
    if (target <= 0).any():
        raise InputError("every target must be above 0", got=f"{target.min()} in row {int(target.argmin())}")
    if (weights < 0).any() or not weights.any():
        raise InputError("weights must not be negative, and not all 0", got=weights.min())
    return target, weights
