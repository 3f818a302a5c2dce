"""Conformal intervals: how far the truth was from predictions of networks that were held out.

An error counts relative to a scale that depends on the network: how unusual it is among the fitted ones. The interval
of a network at a confidence is its prediction times exp(± quantile · scale), the quantile that of the held-out errors
in units of their scales (normalised conformal prediction with cross-validation's errors: Barber et al. 2021, "CV+",
with one refitted model). Lower and upper quantiles are taken apart, because slow outliers are commoner than fast ones.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import Fold
from hwnas.predict.models.model import Plain, Standard, names, numbers

USUAL_CONFIDENCE = 0.9
"""Of intervals where nobody asked for another one and the networks support it."""

_MAX_COMPONENTS = 10
_RIDGE = 3.0
_SCALE_RANGE = 4.0
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Unusual(ContiguousArrays):
    """Distance of networks from the centre of the fitted ones, along their principal components."""

    cost_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    standard: Standard
    rotation: Numbers

    @classmethod
    def of(cls, features: Features) -> Self:
        """As the fitted networks have it."""
        raw = _shares(features, features.cost_names, features.shape_names)
        standard = Standard.of(raw)
        columns = standard.apply(raw)
        _, spread, directions = np.linalg.svd(columns, full_matrices=False)
        kept = np.flatnonzero(spread > 0.05 * max(float(spread[0]), 1e-12))[:_MAX_COMPONENTS]
        deviation = spread[kept] / np.sqrt(len(features))
        return cls(
            cost_names=features.cost_names,
            shape_names=features.shape_names,
            standard=standard,
            rotation=directions[kept].T / deviation,
        )

    def distance(self, features: Features) -> Numbers:
        """About 1 for a usual network."""
        distance: Numbers = np.sqrt((self.coordinates(features) ** 2).mean(axis=1))
        return distance

    def coordinates(self, features: Features) -> Numbers:
        """Coordinates along the principal components; the fitted networks have mean 0 and standard deviation 1."""
        raw = _shares(features, self.cost_names, self.shape_names)
        coordinates: Numbers = self.standard.apply(raw) @ self.rotation
        return coordinates

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "cost_names": list(self.cost_names),
            "shape_names": list(self.shape_names),
            "standard": self.standard.to_json(),
            "rotation": self.rotation.tolist(),
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            cost_names=names(data["cost_names"]),
            shape_names=names(data["shape_names"]),
            standard=Standard.from_json(data["standard"]),
            rotation=numbers(data["rotation"]),
        )


@dataclass(frozen=True, kw_only=True)
class Intervals(ContiguousArrays):
    """The held-out errors in units of their scales, sorted, and what gives the scale of a network."""

    unusual: Unusual
    slope: float
    """The scale is the distance to this power, within bounds."""
    errors: Numbers
    """log(measured / predicted) / scale, growing."""

    def scale(self, features: Features) -> Numbers:
        """Factor by which the interval of a network is wider than a typical one."""
        return _scale(self.unusual.distance(features), self.slope)

    def bounds(self, mean: Numbers, features: Features, *, confidence: float) -> tuple[Numbers, Numbers]:
        """Lower and upper bound of each prediction."""
        low, high = quantiles(self.errors, confidence=confidence)
        scale = self.scale(features)
        return mean * np.exp(low * scale), mean * np.exp(high * scale)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"unusual": self.unusual.to_json(), "slope": self.slope, "errors": self.errors.tolist()}

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            unusual=Unusual.from_json(data["unusual"]), slope=float(data["slope"]), errors=numbers(data["errors"])
        )


def calibrate(features: Features, target: Numbers, answers: Numbers) -> Intervals:
    """Intervals from held-out answers, one row a repeat of cross-validation."""
    unusual = Unusual.of(features)
    distance = unusual.distance(features)
    logs = np.log(target / answers)
    slope = _slope(distance, logs)
    return Intervals(unusual=unusual, slope=slope, errors=np.sort((logs / _scale(distance, slope)).ravel()))


def held_out_coverage(
    features: Features, target: Numbers, answers: Numbers, folds: tuple[tuple[Fold, ...], ...], *, confidence: float
) -> float:
    """The share of networks inside intervals that were calibrated without them."""
    inside = []
    for repeat, parts in zip(answers, folds, strict=True):
        for fold in parts:
            intervals = calibrate(features.take(fold.fit), target[fold.fit], repeat[None, fold.fit])
            held = fold.held_out
            lower, upper = intervals.bounds(repeat[held], features.take(held), confidence=confidence)
            inside.append((lower <= target[held]) & (target[held] <= upper))
    return float(np.concatenate(inside).mean())


def quantiles(errors: Numbers, *, confidence: float) -> tuple[float, float]:
    """The two quantiles that hold a share `confidence` of new errors, with the correction for a finite number."""
    if not 0 < confidence < 1:
        raise InputError("a confidence must be between 0 and 1", got=confidence, hint="--confidence 0.9")
    tail = (1 - confidence) / 2
    count = len(errors)
    place = int(np.floor(tail * (count + 1) + _ROUNDING))
    if place < 1:
        return min(float(errors[0]), 0.0), max(float(errors[-1]), 0.0)
    return float(errors[place - 1]), float(errors[count - place])


def require_confident(count: int, *, confidence: float) -> None:
    """A confidence that so few networks cannot support is an error, not a wider guess."""
    if (1 - confidence) / 2 * (count + 1) < 1 - _ROUNDING:
        message = f"{count} networks support no interval at this confidence"
        best = supported_confidence(count, wanted=confidence)
        raise InputError(message, got=confidence, hint=f"--confidence {best:.2f}, or measure more networks")


def supported_confidence(count: int, *, wanted: float = USUAL_CONFIDENCE) -> float:
    """The confidence that so many networks support: what is wanted, or the most that there is in whole hundredths."""
    if (1 - wanted) / 2 * (count + 1) >= 1 - _ROUNDING:
        return wanted
    return max(math.floor(100 * (1 - 2 / (count + 1)) + _ROUNDING) / 100, 0.01)


def _slope(distance: Numbers, logs: Numbers) -> float:
    """Exponent of the growth of errors with distance: a regularised regression of log |error|, never negative."""
    size = np.log(np.abs(logs) + 1e-4).mean(axis=0)
    away = np.log(np.maximum(distance, 0.1))
    centred = away - away.mean()
    return float(max(centred @ (size - size.mean()) / (centred @ centred + _RIDGE), 0.0))


def _scale(distance: Numbers, slope: float) -> Numbers:
    scale: Numbers = np.clip(np.maximum(distance, 0.1) ** slope, 1 / _SCALE_RANGE, _SCALE_RANGE)
    return scale


def _shares(features: Features, cost_names: tuple[str, ...], shape_names: tuple[str, ...]) -> Numbers:
    """Costs as shares of their sum, with the sum and the shapes."""
    costs = features.costs_by(cost_names)
    total = features.total(cost_names)
    return np.column_stack([np.log(total), costs / total[:, None], features.shapes_by(shape_names)])
