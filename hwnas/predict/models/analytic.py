"""The analytic model: a latency is a sum of costs, each with a coefficient that is not negative.

Coefficients are those of a least-squares fit of the relative error, pulled towards what such devices do: a cost that
the fitted networks do not show keeps the device's usual share instead of becoming free. Outliers count less
(weights 1 / (1 + (r / 2s)²), s the median deviation: Cauchy's, by iteration).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.model import Plain, checked, names, numbers

_SMALLEST = 1e-12
_FEW = 15
_FOLDS = 5
_SHARPNESS = 4
"""Exponent of the weights of freedoms: twice the error, a sixteenth of the weight."""


@dataclass(frozen=True, kw_only=True)
class Analytic(ContiguousArrays):
    """A fitted sum of costs."""

    kind: ClassVar[str] = "analytic"
    cost_names: tuple[str, ...]
    coefficients: Numbers

    def predict(self, features: Features) -> Numbers:
        """The sum of the costs, each times its coefficient."""
        return np.maximum(features.costs_by(self.cost_names) @ self.coefficients, _SMALLEST)

    def to_json(self) -> dict[str, Any]:
        """Names and coefficients."""
        return {"cost_names": list(self.cost_names), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(cost_names=names(data["cost_names"]), coefficients=numbers(data["coefficients"]))


@dataclass(frozen=True, kw_only=True)
class AnalyticLearner:
    """Fits the sum; `freedoms` are how far a coefficient may be from the usual one, as multiples of it.

    The coefficients of several freedoms are averaged, those of less cross-validated error counting more.
    """

    name: str = "analytic"
    freedoms: tuple[float, ...] = (2.0, 10.0, 100.0)
    iterations: int = 8

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Analytic:
        """Fit the coefficients."""
        target, weights = checked(features, target, weights)
        usual = usual_coefficients(features, target)
        shares = features.costs * usual / target[:, None]
        weights = weights / weights.mean()
        counted = self._counted(shares, weights, seed)
        factors = sum(
            count * self._factors(shares, weights, freedom=freedom)
            for count, freedom in zip(counted, self.freedoms, strict=True)
            if count
        )
        return Analytic(cost_names=features.cost_names, coefficients=factors * usual)

    def _counted(self, shares: Numbers, weights: Numbers, seed: int) -> Numbers:
        """Weights of the freedoms, which sum to 1; with few networks the first one only."""
        if len(self.freedoms) == 1 or len(shares) < _FEW:
            return np.array([1.0, *(0.0 for _ in self.freedoms[1:])])
        owner = np.random.default_rng(seed).permutation(len(shares)) % _FOLDS
        errors = np.array([self._error(shares, weights, owner, freedom=tried) for tried in self.freedoms])
        errors = np.maximum(errors, _SMALLEST)
        counts = (errors.min() / errors) ** _SHARPNESS
        counted: Numbers = counts / counts.sum()
        return counted

    def _error(self, shares: Numbers, weights: Numbers, owner: NDArray[np.intp], *, freedom: float) -> float:
        """The mean absolute relative error on held-out rows."""
        errors = []
        for fold in range(_FOLDS):
            kept = owner != fold
            factors = self._factors(shares[kept], weights[kept], freedom=freedom)
            errors.append(abs(shares[~kept] @ factors - 1))
        return float(np.concatenate(errors).mean())

    def _factors(self, shares: Numbers, weights: Numbers, *, freedom: float) -> Numbers:
        from scipy.optimize import nnls  # type: ignore[import-untyped]  # a machine that only measures does not fit

        robust, spread = np.ones(len(shares)), 0.1
        pull = np.eye(shares.shape[1])
        for _ in range(self.iterations):
            root = np.sqrt(weights * robust)
            strength = max(spread, 0.02) / freedom
            matrix = np.concatenate([shares * root[:, None], strength * pull])
            factors, _ = nnls(matrix, np.concatenate([root, np.full(len(pull), strength)]), maxiter=100 * len(pull))
            residual = shares @ factors - 1
            spread = max(1.4826 * float(np.median(abs(residual))), 1e-4)
            robust = 1 / (1 + (residual / (2 * spread)) ** 2)
        result: Numbers = factors
        return result


def usual_coefficients(features: Features, target: Numbers) -> Numbers:
    """Coefficients of a typical device, scaled to these targets."""
    known = np.array([_usual(name) for name in features.cost_names])
    if np.isnan(known).any():
        return _equal_shares(features, target)
    sums = np.maximum(features.costs @ known, _SMALLEST)
    return known * float(np.exp(np.median(np.log(target / sums))))


_USUAL = {"linear": 1.5, "attention": 3.0, "convolution": 2.5, "depthwise": 8.0, "grouped": 5.0}
_USUAL_SUFFIX = {"padding": 0.5, "waves": 0.5, "memory_bound": 0.5, "paged": 0.3, "bytes": 0.8, "params": 0.8}


def _usual(name: str) -> float:
    """Milliseconds for a millisecond at peak rates; not a number for a cost of unknown meaning."""
    group, _, rest = name.partition(".")
    if name == "runs":
        return 0.05
    if group == "calls":
        return 0.004
    if rest.startswith("macs"):
        return _USUAL.get(group, 2.0)
    if group == "attention" and rest not in ("padding", "paged"):
        return 0.5
    return _USUAL_SUFFIX.get(rest.rpartition(".")[2].partition("<")[0].partition(">")[0], np.nan)


def _equal_shares(features: Features, target: Numbers) -> Numbers:
    mean = np.abs(features.costs / target[:, None]).mean(axis=0)
    shares: Numbers = 1 / (np.maximum(mean, _SMALLEST) * features.costs.shape[1])
    return shares
