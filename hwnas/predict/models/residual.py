"""An analytic mean, and a learned correction of its relative error.

The correction sees a network as the mean sees it: which share of the predicted time each cost has, with the shapes
and the predicted time itself.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.model import Plain, Standard, checked, names


class Correction(Protocol):
    """A fitted correction: the logarithm of the true time over the mean."""

    def correct(self, inputs: Numbers) -> Numbers:
        """The correction for each row of standardised inputs."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ...

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        ...


class Corrector(Protocol):
    """A way to learn a correction."""

    def learn(self, inputs: Numbers, residual: Numbers, *, weights: Numbers, seed: int) -> Correction:
        """Fit the correction to the logarithms of true time over mean."""
        ...


@dataclass(frozen=True, kw_only=True)
class Design:
    """Inputs of a correction."""

    mean: Analytic
    shape_names: tuple[str, ...]
    standard: Standard

    @classmethod
    def of(cls, mean: Analytic, features: Features) -> Self:
        """Fit to these networks."""
        raw = _raw(mean, features, features.shape_names)
        return cls(mean=mean, shape_names=features.shape_names, standard=Standard.of(raw))

    def inputs(self, features: Features) -> tuple[Numbers, Numbers]:
        """Standardised inputs, and the mean's own prediction."""
        predicted = self.mean.predict(features)
        return self.standard.apply(_raw(self.mean, features, self.shape_names, predicted=predicted)), predicted

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mean": self.mean.to_json(),
            "shape_names": list(self.shape_names),
            "standard": self.standard.to_json(),
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            mean=Analytic.from_json(data["mean"]),
            shape_names=names(data["shape_names"]),
            standard=Standard.from_json(data["standard"]),
        )


@dataclass(frozen=True, kw_only=True)
class _Corrected:
    """A mean times the exponential of a correction."""

    kind: ClassVar[str]
    correction_type: ClassVar[type[Correction]]
    design: Design
    correction: Correction
    shrinkage: float = 1.0

    def predict(self, features: Features) -> Numbers:
        """The corrected mean."""
        inputs, mean = self.design.inputs(features)
        predicted: Numbers = mean * np.exp(self.shrinkage * self.correction.correct(inputs))
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "design": self.design.to_json(),
            "correction": self.correction.to_json(),
            "shrinkage": self.shrinkage,
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            design=Design.from_json(data["design"]),
            correction=cls.correction_type.from_json(data["correction"]),
            shrinkage=float(data["shrinkage"]),
        )


def learn(
    corrector: Corrector,
    made: type[Any],
    features: Features,
    target: Numbers,
    *,
    weights: Numbers | None,
    seed: int,
    shrinkage: float = 1.0,
) -> Any:
    """Fit the mean, then the correction of what it leaves."""
    target, weights = checked(features, target, weights)
    design = Design.of(AnalyticLearner().fit(features, target, weights=weights), features)
    inputs, mean = design.inputs(features)
    correction = corrector.learn(inputs, np.log(target / mean), weights=weights, seed=seed)
    return made(design=design, correction=correction, shrinkage=shrinkage)


def _raw(
    mean: Analytic, features: Features, shape_names: tuple[str, ...], *, predicted: Numbers | None = None
) -> Numbers:
    total = mean.predict(features) if predicted is None else predicted
    shares = features.costs_by(mean.cost_names) / total[:, None]
    return np.column_stack([np.log(total), shares, features.shapes_by(shape_names)])
