"""Ridge regression on costs and shapes, optionally with squares and products of the columns.

The target is fitted as it is, with weights for relative errors, and as its logarithm; the one with the smaller
leave-one-out error is kept. Leave-one-out error chooses the penalty too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.model import Standardizer, check_fit_inputs
from hwnas.predict.stored import MAX_NUMBER, StoredTable

_ALPHAS = np.logspace(-6, 3, 19)
_MAX_SQUARED = 26
"""Largest number of columns to square and multiply; with more, their principal components are used."""
_COMPONENTS = 12
_BEYOND = 5.0
_SMALLEST_LEFT = 1e-10
"""Least share of a row's prediction that is left to the others, where a fit meets every row."""
_MAX_COLUMNS = 10_000
_SCALES: tuple[Literal["plain", "log"], ...] = ("plain", "log")


@dataclass(frozen=True, kw_only=True)
class Basis(ContiguousArrays):
    """Standardised columns, optionally their principal components, squares and products."""

    cost_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    standard: Standardizer
    rotation: Numbers | None
    squared: bool

    @classmethod
    def fit(cls, features: Features, *, squared: bool) -> Self:
        """Fit the basis to these networks."""
        raw = np.concatenate([features.costs, features.shapes], axis=1)
        standard = Standardizer.fit(raw)
        rotation = _components(standard.apply(raw)) if squared and raw.shape[1] > _MAX_SQUARED else None
        return cls(
            cost_names=features.cost_names,
            shape_names=features.shape_names,
            standard=standard,
            rotation=rotation,
            squared=squared,
        )

    def columns(self, features: Features) -> Numbers:
        """Return the columns of the regression."""
        raw = np.concatenate([features.costs_by(self.cost_names), features.shapes_by(self.shape_names)], axis=1)
        columns = self.standard.apply(raw)
        if self.rotation is not None:
            columns = columns @ self.rotation
        if self.squared:
            upper, lower = np.triu_indices(columns.shape[1])
            columns = np.concatenate([columns, columns[:, upper] * columns[:, lower]], axis=1)
        return columns

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "cost_names": list(self.cost_names),
            "shape_names": list(self.shape_names),
            "standard": self.standard.to_json(),
            "rotation": None if self.rotation is None else self.rotation.tolist(),
            "squared": self.squared,
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("cost_names", "shape_names", "standard", "rotation", "squared")
        cost_names, shape_names = data.names("cost_names"), data.names("shape_names")
        num_columns = len(cost_names) + len(shape_names)
        basis = cls(
            cost_names=cost_names,
            shape_names=shape_names,
            standard=Standardizer.from_json(data.table("standard"), num_columns=num_columns),
            rotation=data.array("rotation", num_columns, None) if "rotation" in data else None,
            squared=data.flag("squared"),
        )
        if basis.num_columns > _MAX_COLUMNS:
            raise InputError(f"{data.where} must have at most {_MAX_COLUMNS} columns", got=basis.num_columns)
        return basis

    @property
    def num_columns(self) -> int:
        """Number of columns of the regression."""
        plain = len(self.standard.mean) if self.rotation is None else self.rotation.shape[1]
        return plain + plain * (plain + 1) // 2 if self.squared else plain


@dataclass(frozen=True, kw_only=True)
class Ridge(ContiguousArrays):
    """A fitted weighted sum of columns, of the target or of its logarithm."""

    kind: ClassVar[str] = "ridge"
    basis: Basis
    coefficients: Numbers
    offset: float
    scale: Literal["plain", "log"]
    smallest: float
    largest: float
    """Predictions are clipped to this range, wider than the fitted one, because polynomials are unbounded."""

    def predict(self, features: Features) -> Numbers:
        """Return the weighted sum, within the range."""
        values = self.basis.columns(features) @ self.coefficients + self.offset
        if self.scale == "log":
            values = np.exp(np.minimum(values, np.log(self.largest)))
        return np.clip(values, self.smallest, self.largest)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "basis": self.basis.to_json(),
            "coefficients": self.coefficients.tolist(),
            "offset": self.offset,
            "scale": self.scale,
            "smallest": self.smallest,
            "largest": self.largest,
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("basis", "coefficients", "offset", "scale", "smallest", "largest")
        basis = Basis.from_json(data.table("basis"))
        smallest = data.number("smallest", low=1 / MAX_NUMBER)
        return cls(
            basis=basis,
            coefficients=data.array("coefficients", basis.num_columns),
            offset=data.number("offset"),
            scale="log" if data.text("scale", _SCALES) == "log" else "plain",
            smallest=smallest,
            largest=data.number("largest", low=smallest),
        )


@dataclass(frozen=True, kw_only=True)
class RidgeLearner:
    """Fit a ridge regression; `squared` adds squares and products."""

    name: str = "ridge"
    squared: bool = False
    iterations: int = 3

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Ridge:
        """Fit on both scales and keep the better one."""
        del seed
        target, weights = check_fit_inputs(features, target, weights)
        basis = Basis.fit(features, squared=self.squared)
        columns = basis.columns(features)
        tried = [self._fitted(columns, target, weights, scale=scale) for scale in _SCALES]
        _, scale, coefficients, offset = min(tried, key=lambda fit: fit[0])
        return Ridge(
            basis=basis,
            coefficients=coefficients,
            offset=offset,
            scale=scale,
            smallest=float(target.min()) / _BEYOND,
            largest=float(target.max()) * _BEYOND,
        )

    def _fitted(
        self, columns: Numbers, target: Numbers, weights: Numbers, *, scale: Literal["plain", "log"]
    ) -> tuple[float, Literal["plain", "log"], Numbers, float]:
        response = target if scale == "plain" else np.log(target)
        # Weights 1 / target^2 make absolute errors relative; on the logarithm they are relative already.
        relative = weights / target**2 if scale == "plain" else weights
        robust = np.ones(len(target))
        for _ in range(self.iterations):
            total = relative * robust
            fit = fit_penalised(columns, response, weights=total / total.mean(), alphas=_ALPHAS)
            fitted = columns @ fit.coefficients + fit.offset
            residual = fitted / target - 1 if scale == "plain" else fitted - response
            spread = max(1.4826 * float(np.median(abs(residual))), 1e-5)
            robust = 1 / (1 + (residual / (3 * spread)) ** 2)
        # The mean absolute leave-one-out error, with the error of a row capped at 1.
        left_out = np.minimum(abs(residual) / np.maximum(1 - fit.leverage, 1e-3), 1.0)
        return float(left_out.mean()), scale, fit.coefficients, fit.offset


@dataclass(frozen=True, kw_only=True)
class Penalised:
    """A ridge regression with the penalty of the least leave-one-out error."""

    coefficients: Numbers
    offset: float
    alpha: float
    leverage: Numbers
    """Diagonal of the hat matrix: how much each row decides its own prediction."""


def fit_penalised(
    columns: Numbers, response: Numbers, *, weights: Numbers, alphas: Numbers, intercept: bool = True
) -> Penalised:
    """Fit a weighted ridge regression whose penalty has the least mean squared leave-one-out error.

    The offset is not penalised. The leave-one-out residual of a linear fit is r / (1 - h) with its leverage h, so one
    eigendecomposition serves all penalties; scikit-learn's RidgeCV multiplies matrices anew for each of them.
    """
    share = weights / weights.sum() if intercept else np.zeros(len(weights))
    centre, level = share @ columns, float(share @ response)
    root = np.sqrt(weights)
    rows, values = (columns - centre) * root[:, None], (response - level) * root
    by_row = len(rows) < rows.shape[1]
    # The smaller of the two matrices of products; its eigenvectors are combinations of rows or of columns.
    spectrum, vectors = np.linalg.eigh(rows @ rows.T if by_row else rows.T @ rows)
    spectrum = np.maximum(spectrum, 0.0)
    shrunk = 1 / (spectrum[:, None] + alphas)
    if by_row:
        left = alphas * shrunk
        if intercept:  # the direction of the offset has no penalty
            left[np.argmax(abs(root @ vectors))] = 0.0
        remaining, residual = vectors**2 @ left, vectors @ (left * (vectors.T @ values)[:, None])
    else:
        projected = rows @ vectors
        remaining = 1 - share[:, None] - projected**2 @ shrunk
        residual = values[:, None] - projected @ (shrunk * (projected.T @ values)[:, None])
    best = int(np.argmin(np.square(residual / np.maximum(remaining, _SMALLEST_LEFT)).mean(axis=0)))
    combined = vectors @ (shrunk[:, best] * (vectors.T @ (values if by_row else rows.T @ values)))
    coefficients = rows.T @ combined if by_row else combined
    return Penalised(
        coefficients=coefficients,
        offset=level - float(centre @ coefficients),
        alpha=float(alphas[best]),
        leverage=1 - remaining[:, best],
    )


def _components(columns: Numbers) -> Numbers:
    _, _, rotation = np.linalg.svd(columns, full_matrices=False)
    kept: Numbers = rotation[:_COMPONENTS].T
    # Scaled to a standard deviation of 1 each, so that their squares and products have comparable sizes.
    scaled: Numbers = kept / np.maximum((columns @ kept).std(axis=0), 1e-9)
    return scaled
