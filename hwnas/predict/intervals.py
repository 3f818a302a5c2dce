"""Conformal prediction intervals from the errors of held-out networks.

The interval of a network is its prediction times exp(quantile * scale), and wider by a constant factor where the
predictor allows for more than the errors of held-out networks, as for a batch that was interpolated. The scale grows
with the distance of the network from the fitted ones; the quantiles are those of the held-out errors
log(measured / predicted) / scale. This is normalised conformal prediction with the errors of cross-validation (CV+,
Barber et al. 2021, "Predictive inference with the jackknife+") and one refitted model. Lower and upper quantiles are
separate, because slow outliers are more frequent than fast ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import Fold
from hwnas.predict.models.model import Standardizer, whitening
from hwnas.predict.nearness import HeldOutErrors, Nearness, fit_nearness, held_out_errors, reference_points
from hwnas.predict.stored import StoredTable

DEFAULT_CONFIDENCE = 0.9
"""Default confidence of intervals, if there are enough networks."""

_RIDGE = 3.0
_SCALE_RANGE = 4.0
_ROUNDING = 1e-9
_PARTS = 5
_OPTIONAL = ("repeats", "nearness", "like_errors", "below", "above")


@dataclass(frozen=True, kw_only=True)
class WhitenedComponents(ContiguousArrays):
    """Main principal components of the fitted networks' features, scaled to unit variance.

    The distance from the origin is the Mahalanobis distance from the centre of the fitted networks.
    """

    cost_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    standard: Standardizer
    rotation: Numbers

    @classmethod
    def fit(cls, features: Features) -> Self:
        """Fit the components to the features of the fitted networks."""
        raw = _shares(features, features.cost_names, features.shape_names)
        standard = Standardizer.fit(raw)
        return cls(
            cost_names=features.cost_names,
            shape_names=features.shape_names,
            standard=standard,
            rotation=whitening(standard.apply(raw)),
        )

    def distance(self, features: Features) -> Numbers:
        """Return the root mean square coordinate of each network, about 1 for a typical one."""
        with np.errstate(all="ignore"):
            distance: Numbers = np.sqrt((self.coordinates(features) ** 2).mean(axis=1))
        return distance

    def coordinates(self, features: Features) -> Numbers:
        """Return coordinates along the components; those of the fitted networks have mean 0 and variance 1."""
        raw = _shares(features, self.cost_names, self.shape_names)
        with np.errstate(all="ignore"):  # far away is far away, also where a square overflows
            coordinates: Numbers = self.standard.apply(raw) @ self.rotation
        return coordinates

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "cost_names": list(self.cost_names),
            "shape_names": list(self.shape_names),
            "standard": self.standard.to_json(),
            "rotation": self.rotation.tolist(),
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("cost_names", "shape_names", "standard", "rotation")
        cost_names, shape_names = data.names("cost_names"), data.names("shape_names")
        num_columns = 1 + len(cost_names) + len(shape_names)
        rotation = data.array("rotation", num_columns, None)
        if not rotation.shape[1]:
            raise InputError(f"{data.where}.rotation must have at least one column", got="none")
        standard = Standardizer.from_json(data.table("standard"), num_columns=num_columns)
        return cls(cost_names=cost_names, shape_names=shape_names, standard=standard, rotation=rotation)


@dataclass(frozen=True, kw_only=True)
class Intervals(ContiguousArrays):
    """Held-out errors in units of their scales, and the parameters of the scale."""

    components: WhitenedComponents
    slope: float
    """The scale is the distance to this power, within bounds."""
    errors: Numbers
    """log(measured / predicted) / scale in ascending order."""
    nearness: Nearness | None = None
    """Size of errors by the distance to the nearest fitted network; None for predictors of one family."""
    like_errors: Numbers | None = None
    """The errors of networks of known families alone: an interval covers both these and all errors."""
    repeats: int = 1
    """Number of errors of each network, which are not independent."""
    below: float = 0.0
    """By how much lower the lower bound is than errors alone make it, as a logarithm: no multiple of the scale."""
    above: float = 0.0
    """By how much higher the upper bound is, likewise."""

    def scale(self, features: Features) -> Numbers:
        """Return the factor by which the interval of each network is wider than a typical one."""
        if self.nearness is not None:
            return self.nearness.scale(self.components.coordinates(features))
        return _scale(self.components.distance(features), self.slope)

    def bounds(self, mean: Numbers, features: Features, *, confidence: float) -> tuple[Numbers, Numbers]:
        """Return the lower and upper bound of each prediction."""
        low, high = quantiles(self.errors, confidence=confidence, repeats=self.repeats)
        if self.like_errors is not None:
            low, high = _wider(self.errors, self.like_errors, confidence=confidence)
        scale = self.scale(features)
        return mean * np.exp(low * scale - self.below), mean * np.exp(high * scale + self.above)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        near = {} if self.nearness is None else {"nearness": self.nearness.to_json()}
        if self.like_errors is not None:
            near["like_errors"] = self.like_errors.tolist()
        wider = {name: value for name, value in (("below", self.below), ("above", self.above)) if value}
        own = {"slope": self.slope, "errors": self.errors.tolist(), "repeats": self.repeats}
        return {"unusual": self.components.to_json(), **own, **near, **wider}

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("unusual", "slope", "errors", optional=_OPTIONAL)
        errors = _ascending(data, "errors")
        components = WhitenedComponents.from_json(data.table("unusual"))
        near = Nearness.from_json(data.table("nearness"), components.rotation.shape[1]) if "nearness" in data else None
        return cls(
            components=components,
            slope=data.number("slope", low=0),
            errors=errors,
            nearness=near,
            like_errors=_ascending(data, "like_errors") if "like_errors" in data else None,
            repeats=data.whole_number("repeats", low=1, high=1000) if "repeats" in data else 1,
            below=data.number("below", low=0) if "below" in data else 0.0,
            above=data.number("above", low=0) if "above" in data else 0.0,
        )


def calibrate(features: Features, target: Numbers, predicted: Numbers) -> Intervals:
    """Calibrate intervals with held-out predictions, one row per repeat of the cross-validation."""
    components = WhitenedComponents.fit(features)
    distance = components.distance(features)
    logs = np.log(target / predicted)
    # An error is not divided by a scale that it helped to find: the slope for each part is that of the others.
    owner = np.random.default_rng(0).permutation(len(target)) % min(_PARTS, len(target))
    scale = np.ones(len(target))
    for part in np.unique(owner):
        own = owner == part
        scale[own] = _scale(distance[own], _slope(distance[~own], logs[:, ~own]) if len(target) > 1 else 0.0)
    errors = np.sort((logs / scale).ravel())
    return Intervals(components=components, slope=_slope(distance, logs), errors=errors, repeats=len(predicted))


def held_out_coverage(
    features: Features,
    target: Numbers,
    predicted: Numbers,
    folds: tuple[tuple[Fold, ...], ...],
    *,
    confidences: Sequence[float],
) -> dict[float, float]:
    """Return the share of networks inside intervals that were calibrated without them, by confidence."""
    inside: dict[float, list[NDArray[np.bool_]]] = {confidence: [] for confidence in confidences}
    for number, parts in enumerate(folds):
        for fold in parts:
            intervals = calibrate(features.take(fold.fit), target[fold.fit], predicted[:, fold.fit])
            held = features.take(fold.held_out)
            for confidence in confidences:
                lower, upper = intervals.bounds(predicted[number, fold.held_out], held, confidence=confidence)
                inside[confidence].append((lower <= target[fold.held_out]) & (target[fold.held_out] <= upper))
    return {confidence: float(np.concatenate(shares).mean()) for confidence, shares in inside.items()}


@dataclass(frozen=True, kw_only=True)
class FamiliesOut:
    """Predictions of networks whose whole family was left out."""

    predicted: Numbers
    folds: tuple[Fold, ...]


def calibrate_families(
    features: Features,
    target: Numbers,
    predicted: Numbers,
    folds: tuple[tuple[Fold, ...], ...],
    *,
    families_out: FamiliesOut,
) -> Intervals:
    """Calibrate intervals that grow with the distance from the fitted networks, by leaving families out as well."""
    components, networks, families = _errors(features, target, predicted, folds, families_out)
    nearness, errors, own = fit_nearness(reference_points(components.coordinates(features)), networks, families)
    return Intervals(components=components, slope=0.0, errors=errors, nearness=nearness, like_errors=own)


def family_coverage(
    features: Features,
    target: Numbers,
    predicted: Numbers,
    folds: tuple[tuple[Fold, ...], ...],
    *,
    families_out: FamiliesOut,
    confidences: Sequence[float],
) -> tuple[dict[float, float], dict[float, float]]:
    """Return the coverage of left-out networks and of left-out families, by intervals calibrated without them."""
    components, *errors_of = _errors(features, target, predicted, folds, families_out)
    points, shares = reference_points(components.coordinates(features)), []
    for own_errors, parts in zip(errors_of, (folds[0], families_out.folds), strict=True):
        inside: dict[float, list[NDArray[np.bool_]]] = {confidence: [] for confidence in confidences}
        for fold in parts:
            nearness, errors, own = fit_nearness(points, *(one.take(fold.fit) for one in errors_of))
            held = own_errors.take(fold.held_out)
            normal = held.logs / nearness.scale_at(held.distance)
            for confidence in confidences:
                low, high = _wider(errors, own, confidence=confidence)
                inside[confidence].append((low <= normal) & (normal <= high))
        shares.append({confidence: float(np.concatenate(found).mean()) for confidence, found in inside.items()})
    return shares[0], shares[1]


def _errors(
    features: Features,
    target: Numbers,
    predicted: Numbers,
    folds: tuple[tuple[Fold, ...], ...],
    families_out: FamiliesOut,
) -> tuple[WhitenedComponents, HeldOutErrors, HeldOutErrors]:
    components = WhitenedComponents.fit(features)
    coordinates = components.coordinates(features)
    networks = held_out_errors(coordinates, np.log(target / predicted[0]), folds[0])
    families = held_out_errors(coordinates, np.log(target / families_out.predicted), families_out.folds)
    return components, networks, families


def quantiles(errors: Numbers, *, confidence: float, repeats: int = 1) -> tuple[float, float]:
    """Return the lower and upper quantile between which a new error lies with this confidence.

    Args:
        errors: Errors in ascending order.
        confidence: Share of new errors between the quantiles.
        repeats: Number of errors of each network: those of one network count as one.
    """
    if not 0 < confidence < 1:
        raise InputError("a confidence must be between 0 and 1", got=confidence, hint="--confidence 0.9")
    # With n exchangeable errors a new one is below the k-th smallest with probability k / (n + 1).
    tail = (1 - confidence) / 2
    count = len(errors)
    rank = int(np.floor(tail * (count / repeats + 1) + _ROUNDING))
    rank = repeats * (rank - 1) + 1
    if rank < 1:
        return min(float(errors[0]), 0.0), max(float(errors[-1]), 0.0)
    return float(errors[rank - 1]), float(errors[count - rank])


def require_confident(count: int, *, confidence: float) -> None:
    """Raise InputError if this number of networks does not support intervals of this confidence."""
    if (1 - confidence) / 2 * (count + 1) < 1 - _ROUNDING:
        message = f"{count} networks support no interval at this confidence"
        best = supported_confidence(count, wanted=confidence)
        raise InputError(message, got=confidence, hint=f"--confidence {best:.2f}, or measure more networks")


def supported_confidence(count: int, *, wanted: float = DEFAULT_CONFIDENCE) -> float:
    """Return the wanted confidence, or the highest in whole hundredths that this number of networks supports."""
    if (1 - wanted) / 2 * (count + 1) >= 1 - _ROUNDING:
        return wanted
    # The lower tail must hold at least one of count + 1 equally likely ranks: (1 - c) / 2 >= 1 / (count + 1).
    return max(math.floor(100 * (1 - 2 / (count + 1)) + _ROUNDING) / 100, 0.01)


def _wider(errors: Numbers, like: Numbers, *, confidence: float) -> tuple[float, float]:
    """Return the quantiles between which both kinds of errors lie."""
    lows, highs = zip(*(quantiles(own, confidence=confidence) for own in (errors, like)), strict=True)
    return min(lows), max(highs)


def _ascending(data: StoredTable, name: str) -> Numbers:
    errors = data.array(name, None)
    if not len(errors) or (np.diff(errors) < 0).any():
        raise InputError(f"{data.where}.{name} must be numbers in ascending order")
    return errors


def _slope(distance: Numbers, logs: Numbers) -> float:
    """Return the exponent of the growth of errors with distance, at least 0."""
    # A ridge regression of log |error| on log distance with one coefficient.
    size = np.log(np.abs(logs) + 1e-4).mean(axis=0)
    away = np.log(np.maximum(distance, 0.1))
    centred = away - away.mean()
    return float(max(centred @ (size - size.mean()) / (centred @ centred + _RIDGE), 0.0))


def _scale(distance: Numbers, slope: float) -> Numbers:
    # Bounded, so that a network far away has a wide interval and not an infinite one.
    scale: Numbers = np.clip(np.maximum(distance, 0.1) ** slope, 1 / _SCALE_RANGE, _SCALE_RANGE)
    return scale


def _shares(features: Features, cost_names: tuple[str, ...], shape_names: tuple[str, ...]) -> Numbers:
    """Return the logarithm of the total cost, the costs as shares of it, and the shapes."""
    costs = features.costs_by(cost_names)
    total = features.total(cost_names)
    return np.column_stack([np.log(total), costs / total[:, None], features.shapes_by(shape_names)])
