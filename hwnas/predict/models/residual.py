"""An analytic mean with a learned correction of its relative error.

The inputs of the correction are the share of each cost in the predicted time, the shapes, and the logarithm of the
predicted time.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.model import Standardizer, check_fit_inputs
from hwnas.predict.models.reach import Reach
from hwnas.predict.stored import StoredTable

_UNBOUNDED = 50.0
"""Bound of the logarithm of a correction that has no other one."""


class Correction(Protocol):
    """A fitted correction: the logarithm of the prediction over the mean."""

    def correct(self, inputs: Numbers) -> Numbers:
        """Return the correction for each row of standardised inputs."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        ...

    @classmethod
    def from_json(cls, data: StoredTable, *, num_inputs: int) -> Self:
        """Make the correction of so many inputs from what `to_json` returned."""
        ...


class Corrector(Protocol):
    """A learning method for corrections."""

    def learn(self, inputs: Numbers, residual: Numbers, *, weights: Numbers, seed: int) -> Correction:
        """Fit a correction to the logarithms of measured over mean."""
        ...


@dataclass(frozen=True, kw_only=True)
class Design:
    """The mean and the standardised inputs of a correction."""

    mean: Analytic
    shape_names: tuple[str, ...]
    standard: Standardizer

    @classmethod
    def fit(cls, mean: Analytic, features: Features) -> Self:
        """Fit the standardisation to these networks."""
        raw = _raw(mean, features, features.shape_names)
        return cls(mean=mean, shape_names=features.shape_names, standard=Standardizer.fit(raw))

    def inputs(self, features: Features) -> tuple[Numbers, Numbers]:
        """Return the standardised inputs and the prediction of the mean."""
        predicted = self.mean.predict(features)
        return self.standard.apply(_raw(self.mean, features, self.shape_names, predicted=predicted)), predicted

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "mean": self.mean.to_json(),
            "shape_names": list(self.shape_names),
            "standard": self.standard.to_json(),
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("mean", "shape_names", "standard")
        mean, shape_names = Analytic.from_json(data.table("mean")), data.names("shape_names")
        num_columns = 1 + len(mean.cost_names) + len(shape_names)
        standard = Standardizer.from_json(data.table("standard"), num_columns=num_columns)
        return cls(mean=mean, shape_names=shape_names, standard=standard)


@dataclass(frozen=True, kw_only=True)
class CorrectedModel:
    """A mean times the exponential of a correction."""

    kind: ClassVar[str]
    correction_type: ClassVar[type[Correction]]
    design: Design
    correction: Correction
    shrinkage: float = 1.0
    low: float = -_UNBOUNDED
    """Least correction: that which the fitted networks needed. Other networks must not be corrected by more."""
    high: float = _UNBOUNDED
    corrected: Analytic | None = None
    """The mean that is corrected, if another one than that of the inputs: the same network on another device."""
    reach: Reach | None = None
    """Reach of the correction beyond the fitted networks; None: it holds everywhere."""

    def predict(self, features: Features) -> Numbers:
        """Return the corrected mean."""
        inputs, mean = self.design.inputs(features)
        mean = mean if self.corrected is None else self.corrected.predict(features)
        correction = np.clip(self.shrinkage * self.correction.correct(inputs), self.low, self.high)
        correction = correction if self.reach is None else correction * self.reach.weights(inputs)
        predicted: Numbers = mean * np.exp(correction)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "design": self.design.to_json(),
            "correction": self.correction.to_json(),
            "shrinkage": self.shrinkage,
            "low": self.low,
            "high": self.high,
            **({} if self.corrected is None else {"corrected": self.corrected.to_json()}),
            **({} if self.reach is None else {"reach": self.reach.to_json()}),
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("design", "correction", "shrinkage", optional=("low", "high", "corrected", "reach"))
        design = Design.from_json(data.table("design"))
        num_inputs = len(design.standard.mean)
        return cls(
            design=design,
            correction=cls.correction_type.from_json(data.table("correction"), num_inputs=num_inputs),
            shrinkage=data.number("shrinkage", low=0, high=1),
            low=data.number("low", low=-_UNBOUNDED, high=_UNBOUNDED) if "low" in data else -_UNBOUNDED,
            high=data.number("high", low=-_UNBOUNDED, high=_UNBOUNDED) if "high" in data else _UNBOUNDED,
            corrected=Analytic.from_json(data.table("corrected")) if "corrected" in data else None,
            reach=Reach.from_json(data.table("reach"), num_inputs=num_inputs) if "reach" in data else None,
        )


def fit_corrected(
    corrector: Corrector,
    made: type[Any],
    features: Features,
    target: Numbers,
    *,
    weights: Numbers | None,
    seed: int,
    shrinkage: float = 1.0,
    fading: bool = False,
) -> Any:
    """Fit the mean, then a correction of its residuals, which may fade with the distance from the fitted networks."""
    target, weights = check_fit_inputs(features, target, weights)
    design = Design.fit(AnalyticLearner().fit(features, target, weights=weights), features)
    inputs, mean = design.inputs(features)
    residual = np.log(target / mean)
    correction = corrector.learn(inputs, residual, weights=weights, seed=seed)
    low, high = min(float(residual.min()), 0.0), max(float(residual.max()), 0.0)
    reach = Reach.fit(inputs) if fading else None
    return made(design=design, correction=correction, shrinkage=shrinkage, low=low, high=high, reach=reach)


def _raw(
    mean: Analytic, features: Features, shape_names: tuple[str, ...], *, predicted: Numbers | None = None
) -> Numbers:
    total = mean.predict(features) if predicted is None else predicted
    shares = features.costs_by(mean.cost_names) / total[:, None]
    return np.column_stack([np.log(total), shares, features.shapes_by(shape_names)])
