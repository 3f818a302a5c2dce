"""The analytic model: a sum of costs with coefficients that are not negative.

The coefficients minimise the squared relative error plus a penalty that pulls them towards those of a typical device,
so that a cost that hardly occurs in the fitted networks keeps its usual coefficient instead of 0. Outliers are
down-weighted by iteratively reweighted least squares with Cauchy weights 1 / (1 + (r / 2s)^2), where s is the scaled
median absolute residual.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import ContiguousArrays, Numbers, nonnegative_least_squares, nonnegative_minimum
from hwnas.predict.features.table import Features
from hwnas.predict.models.model import check_fit_inputs
from hwnas.predict.stored import StoredTable

_SMALLEST = 1e-12
_FEW = 15
_FOLDS = 5
_MOST_RECENT = 32
_SHARPNESS = 4
"""Exponent of the weights of freedoms: at twice the error the weight is a sixteenth."""


@dataclass(frozen=True, kw_only=True)
class Analytic(ContiguousArrays):
    """A fitted sum of costs."""

    kind: ClassVar[str] = "analytic"
    cost_names: tuple[str, ...]
    coefficients: Numbers

    def predict(self, features: Features) -> Numbers:
        """Return the sum of the costs times their coefficients."""
        return np.maximum(features.costs_by(self.cost_names) @ self.coefficients, _SMALLEST)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"cost_names": list(self.cost_names), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("cost_names", "coefficients")
        names = data.names("cost_names")
        return cls(cost_names=names, coefficients=data.array("coefficients", len(names), low=0))


_RECENT: dict[bytes, Analytic] = {}
"""Models that were fitted last, by a digest of what they were fitted to."""


@dataclass(frozen=True, kw_only=True)
class AnalyticLearner:
    """Fit the coefficients of the sum.

    `freedoms` are the prior standard deviations of the coefficients, as multiples of the usual ones. The fits of all
    freedoms are averaged, with more weight for a smaller cross-validated error.
    """

    name: str = "analytic"
    freedoms: tuple[float, ...] = (2.0, 10.0, 100.0)
    iterations: int = 8

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Analytic:
        """Fit the coefficients."""
        target, weights = check_fit_inputs(features, target, weights)
        # The corrections of this model need it for the same networks: it is kept for them.
        key = self._key(features, target, weights, seed)
        if key not in _RECENT:
            while len(_RECENT) >= _MOST_RECENT:
                _RECENT.pop(next(iter(_RECENT), b""), None)
            _RECENT[key] = self._fit(features, target, weights, seed)
        return _RECENT[key]

    def _key(self, features: Features, target: Numbers, weights: Numbers, seed: int) -> bytes:
        text = repr((features.cost_names, features.costs.shape, self.freedoms, self.iterations, seed))
        return blake2b(
            b"".join((text.encode(), *(part.tobytes() for part in (features.costs, target, weights))))
        ).digest()

    def _fit(self, features: Features, target: Numbers, weights: Numbers, seed: int) -> Analytic:
        usual = usual_coefficients(features, target)
        shares = features.costs * usual / target[:, None]
        weights = weights / weights.mean()
        averaging = self._weights(shares, weights, seed)
        factors = sum(
            share * self._factors(shares, weights, freedom=freedom)
            for share, freedom in zip(averaging, self.freedoms, strict=True)
            if share
        )
        return Analytic(cost_names=features.cost_names, coefficients=factors * usual)

    def _weights(self, shares: Numbers, weights: Numbers, seed: int) -> Numbers:
        """Return the weights of the freedoms, which sum to 1; with few networks only the first has weight."""
        if len(self.freedoms) == 1 or len(shares) < _FEW:
            return np.array([1.0, *(0.0 for _ in self.freedoms[1:])])
        # A small cross-validation; averaging fits is more stable than choosing one (Breiman 1996).
        owner = np.random.default_rng(seed).permutation(len(shares)) % _FOLDS
        errors = np.array([self._error(shares, weights, owner, freedom=freedom) for freedom in self.freedoms])
        errors = np.maximum(errors, _SMALLEST)
        raw = (errors.min() / errors) ** _SHARPNESS
        averaging: Numbers = raw / raw.sum()
        return averaging

    def _error(self, shares: Numbers, weights: Numbers, owner: NDArray[np.intp], *, freedom: float) -> float:
        """Return the mean absolute relative error on held-out rows."""
        errors = []
        for fold in range(_FOLDS):
            kept = owner != fold
            factors = self._factors(shares[kept], weights[kept], freedom=freedom)
            errors.append(abs(shares[~kept] @ factors - 1))
        return float(np.concatenate(errors).mean())

    def _factors(self, shares: Numbers, weights: Numbers, *, freedom: float) -> Numbers:
        # Rows are divided by their target, so residuals are relative errors; coefficients are factors of the usual
        # ones, so the penalty |factor - 1|^2 pulls towards these.
        robust, spread = np.ones(len(shares)), 0.1
        factors = np.ones(shares.shape[1])
        for _ in range(self.iterations):
            factors = _penalised(shares, weights * robust, strength=max(spread, 0.02) / freedom, start=factors)
            residual = shares @ factors - 1
            spread = max(1.4826 * float(np.median(abs(residual))), 1e-4)
            robust = 1 / (1 + (residual / (2 * spread)) ** 2)
        return factors


def _penalised(shares: Numbers, weights: Numbers, *, strength: float, start: Numbers) -> Numbers:
    """Return the factors, none negative, of the least weighted squared error plus squared distance from 1."""
    root = np.sqrt(weights)
    scaled = shares * root[:, None]
    curvature = scaled.T @ scaled
    curvature[np.diag_indices_from(curvature)] += strength**2
    found = nonnegative_minimum(curvature, scaled.T @ root + strength**2, start=start)
    if found is not None:
        return found
    # Squares of values that differ much lose what orthogonal transformations keep: rows of the penalty are appended.
    width = shares.shape[1]
    matrix = np.concatenate([scaled, strength * np.eye(width)])
    return nonnegative_least_squares(matrix, np.concatenate([root, np.full(width, strength)]))


def usual_coefficients(features: Features, target: Numbers) -> Numbers:
    """Return the coefficients of a typical device, scaled to these targets."""
    known = np.array([_usual(name) for name in features.cost_names])
    if np.isnan(known).any():
        mean = np.abs(features.costs / target[:, None]).mean(axis=0)
        shares: Numbers = 1 / (np.maximum(mean, _SMALLEST) * features.costs.shape[1])
        return shares
    # One factor for all costs: the median ratio of measured to predicted.
    sums = np.maximum(features.costs @ known, _SMALLEST)
    return known * float(np.exp(np.median(np.log(target / sums))))


_USUAL = {
    "linear": 1.5,
    "attention": 3.0,
    "convolution": 2.5,
    "depthwise": 8.0,
    "large_depthwise": 80.0,
    "grouped": 5.0,
}
_USUAL_SUFFIX = {"padding": 0.5, "waves": 0.5, "memory_bound": 0.5, "paged": 0.3, "bytes": 0.8, "params": 0.8}


def _usual(name: str) -> float:
    """Return the usual time for a millisecond at peak rates; NaN for a cost of unknown meaning."""
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
