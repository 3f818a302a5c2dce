"""A Gaussian process with a length scale per input on the residuals of the analytic mean.

The prediction is the posterior mean k(x, X) (K + D)^-1 y with a Matern 5/2 kernel k and a diagonal noise D (Rasmussen
and Williams 2006, eq. 2.25). The hyperparameters have the greatest marginal likelihood within bounds; inputs, weights
and scales are stored as plain numbers. With more than `points` networks a random subset is fitted.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers, as_contiguous
from hwnas.predict.features.table import Features
from hwnas.predict.models.residual import CorrectedModel, Correction, fit_corrected
from hwnas.predict.stored import MAX_ITEMS, StoredTable

_FEWEST_INPUTS = 12
_JITTER = 1e-8
"""Variance that is added to the noise, so that equal networks make no singular matrix."""
_TREES = 100
_CHUNK = 256
"""Networks predicted at once, so that the distances stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class Process(ContiguousArrays):
    """The posterior mean of a Gaussian process with a Matern 5/2 kernel."""

    columns: tuple[int, ...]
    """Indices of the inputs that the process depends on."""
    points: Numbers
    """Inputs of the fitted networks, divided by the length scales."""
    inverse_scales: Numbers
    dual: Numbers
    """Weights (K + D)^-1 y of the kernel values, times the amplitude."""
    offset: float

    def correct(self, inputs: Numbers) -> Numbers:
        """Return the posterior mean."""
        scaled = as_contiguous(inputs[:, list(self.columns)]) * self.inverse_scales
        norms = (self.points**2).sum(axis=1)
        parts = [
            _kernel(scaled[start : start + _CHUNK], self.points, norms) @ self.dual
            for start in range(0, len(scaled), _CHUNK)
        ]
        values: Numbers = np.concatenate([np.zeros(0), *parts]) + self.offset
        return values

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {
            "columns": list(self.columns),
            "points": self.points.tolist(),
            "inverse_scales": self.inverse_scales.tolist(),
            "dual": self.dual.tolist(),
            "offset": self.offset,
        }

    @classmethod
    def from_json(cls, data: StoredTable, *, num_inputs: int) -> Self:
        """Make the process of so many inputs from what `to_json` returned."""
        data.require_keys("columns", "points", "inverse_scales", "dual", "offset")
        num_points = len(data.items("points", most=MAX_ITEMS))
        columns = tuple(data.whole_array("columns", None, low=0, high=num_inputs - 1).tolist())
        return cls(
            columns=columns,
            points=data.array("points", num_points, len(columns)),
            inverse_scales=data.array("inverse_scales", len(columns), low=0),
            dual=data.array("dual", num_points),
            offset=data.number("offset"),
        )


@dataclass(frozen=True, kw_only=True)
class Gaussian(CorrectedModel):
    """An analytic mean corrected by a Gaussian process."""

    kind: ClassVar[str] = "gaussian"
    correction_type: ClassVar[type[Correction]] = Process


@dataclass(frozen=True, kw_only=True)
class GaussianLearner:
    """Fit the mean, then a process to its residuals on the most important inputs."""

    name: str = "gaussian"
    num_inputs: int = 20
    """Largest number of inputs; at most a tenth of the number of networks, but at least 12."""
    points: int = 400
    shrinkage: float = 1.0
    fading: bool = False
    """The correction fades with the distance from the fitted networks, as for networks of any kind."""

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Gaussian:
        """Fit mean and process."""
        fitted = fit_corrected(
            self,
            Gaussian,
            features,
            target,
            weights=weights,
            seed=seed,
            shrinkage=self.shrinkage,
            fading=self.fading,
        )
        assert isinstance(fitted, Gaussian)
        return fitted

    def learn(self, inputs: Numbers, residual: Numbers, *, weights: Numbers, seed: int) -> Process:
        """Fit the process."""
        rows = np.arange(len(inputs))
        if len(rows) > self.points:
            rows = np.random.default_rng(seed).permutation(rows)[: self.points]
        columns = self._columns(inputs[rows], residual[rows])
        return _process(inputs[rows][:, list(columns)], residual[rows], weights[rows], columns=columns)

    def _columns(self, inputs: Numbers, residual: Numbers) -> tuple[int, ...]:
        """Return the most important inputs of a forest of shallow trees, without strongly correlated ones."""
        varied = np.flatnonzero(inputs.std(axis=0) > 0)
        wanted = min(self.num_inputs, max(_FEWEST_INPUTS, len(residual) // 10))
        if len(varied) <= wanted:
            return tuple(int(column) for column in varied) or (0,)
        worth = importances(inputs[:, varied], residual)
        chosen: list[int] = []
        for column in varied[np.argsort(-worth, kind="stable")]:
            alike = [abs(np.corrcoef(inputs[:, column], inputs[:, other])[0, 1]) for other in chosen]
            if not alike or max(alike) < 0.98:
                chosen.append(int(column))
            if len(chosen) == wanted:
                break
        return tuple(chosen)


def importances(inputs: Numbers, residual: Numbers) -> Numbers:
    """Return the importance of each input in a forest of shallow, extremely randomised trees (Geurts et al. 2006).

    The trees are those of scikit-learn's `ExtraTreesRegressor`, which takes half as long again to copy and check each.
    """
    import sklearn
    from sklearn.tree import ExtraTreeRegressor

    rows, target = np.ascontiguousarray(inputs, dtype=np.float32), residual[:, None]
    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=_TREES)
    total = np.zeros(inputs.shape[1])
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for seed in seeds.tolist():
            tree = ExtraTreeRegressor(max_depth=6, min_samples_leaf=3, max_features=1.0, random_state=seed)
            total += tree.fit(rows, target, check_input=False).feature_importances_
    return total / max(float(total.sum()), 1e-300)


def _process(inputs: Numbers, residual: Numbers, weights: Numbers, *, columns: tuple[int, ...]) -> Process:
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # a machine that only measures does not fit

    # The residuals are scaled to about 1, clipped and fitted; the bounds keep the search away from degenerate kernels.
    spread = max(float(residual.std()), 1e-6)
    offset = float(np.median(residual))
    centred = np.clip((residual - offset) / spread, -5, 5)
    initial = np.log([1.0, *(3.0 for _ in columns), 0.1])
    bounds = np.log([(1e-3, 1e2), *((0.3, 1e3) for _ in columns), (1e-5, 3.0)])
    # A few steps only: more change the likelihood, but hardly the predictions.
    options = {"maxiter": 30}
    found = minimize(
        _negative_log_likelihood, initial, (inputs, centred), "L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    amplitude, *scales, noise = np.exp(found.x)
    # A row of less weight has more noise: its variance is the inverse of its weight.
    relative = weights.mean() / np.maximum(weights, 1e-9 * weights.mean())
    inverse = 1 / np.array(scales)
    points = inputs * inverse
    matrix = amplitude * _kernel(points, points, (points**2).sum(axis=1))
    dual = np.linalg.solve(matrix + np.diag(noise * relative + _JITTER), centred)
    return Process(
        columns=columns, points=points, inverse_scales=inverse, dual=dual * amplitude * spread, offset=offset
    )


def _negative_log_likelihood(theta: Numbers, inputs: Numbers, target: Numbers) -> tuple[float, Numbers]:
    """Return the negative logarithm of the marginal likelihood, and its gradient.

    The parameters are the logarithms of the amplitude, of the length scales and of the noise (Rasmussen and Williams
    2006, eq. 5.9). scikit-learn's gradient needs a matrix of all pairs for each length scale; here it is one product.
    """
    from scipy.linalg import lapack  # type: ignore[import-untyped]

    amplitude, noise = np.exp(theta[0]), np.exp(theta[-1])
    scaled = inputs * np.exp(-theta[1:-1])
    norms = (scaled**2).sum(axis=1)
    squared = scaled @ scaled.T
    squared *= -10
    squared += 5 * norms
    squared += 5 * norms[:, None]
    np.maximum(squared, 0, out=squared)
    steps = np.sqrt(squared)
    decay = np.exp(-steps)
    steps += 1
    # The slope of the kernel times the squared distance of one input is its derivative by the logarithm of that scale.
    slope = steps * decay
    kernel = squared * decay
    kernel *= 1 / 3
    kernel += slope
    matrix = amplitude * kernel
    matrix[np.diag_indices_from(matrix)] += noise + _JITTER
    # LAPACK factors in place and overwrites one triangle with that of the inverse.
    factor, failed = lapack.dpotrf(matrix.T, lower=True, clean=False, overwrite_a=True)
    if failed:
        return np.inf, np.zeros_like(theta)
    dual, _ = lapack.dpotrs(factor, target, lower=True)
    value = 0.5 * target @ dual + np.log(np.diag(factor)).sum() + 0.5 * len(target) * np.log(2 * np.pi)
    inverse, _ = lapack.dpotri(factor, lower=True, overwrite_c=True)
    # The derivative by a parameter is half the sum of (dual dual' - inverse) times that of the matrix.
    inner = np.tril(inverse)
    inner += np.tril(inverse, -1).T
    np.subtract(np.outer(dual, dual), inner, out=inner)
    gradient = np.empty_like(theta)
    gradient[0] = 0.5 * amplitude * np.vdot(inner, kernel)
    gradient[-1] = 0.5 * noise * np.trace(inner)
    inner *= slope
    inner *= 5 / 3 * amplitude
    gradient[1:-1] = inner.sum(axis=1) @ scaled**2 - (scaled * (inner @ scaled)).sum(axis=0)
    return float(value), -gradient


def _kernel(inputs: Numbers, points: Numbers, norms: Numbers) -> Numbers:
    """Return the Matern 5/2 kernel (1 + s + s^2 / 3) exp(-s), s = sqrt(5) |x - p|, of scaled inputs and points."""
    # s^2 = 5 |x|^2 + 5 |p|^2 - 10 x.p needs one matrix product; all steps work in place, as memory is the bottleneck.
    values: Numbers = inputs @ points.T
    values *= -10
    values += 5 * norms
    values += 5 * np.einsum("ij,ij->i", inputs, inputs)[:, None]
    np.maximum(values, 0, out=values)
    steps = np.sqrt(values)
    values /= 3
    values += steps
    values += 1
    values *= np.exp(np.negative(steps, out=steps), out=steps)
    return values
