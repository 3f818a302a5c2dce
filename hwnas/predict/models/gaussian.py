"""A Gaussian process with a length scale per input on the residuals of the analytic mean.

The prediction is the posterior mean k(x, X) (K + D)^-1 y with a Matern 5/2 kernel k and a diagonal noise D (Rasmussen
and Williams 2006, eq. 2.25). scikit-learn optimises the hyperparameters; inputs, weights and scales are stored as plain
numbers. With more than `points` networks a random subset is fitted.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers, as_contiguous
from hwnas.predict.features.table import Features
from hwnas.predict.models.residual import CorrectedModel, Correction, fit_corrected
from hwnas.predict.stored import MAX_ITEMS, StoredTable

_FEWEST_INPUTS = 12
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

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Gaussian:
        """Fit mean and process."""
        fitted = fit_corrected(self, Gaussian, features, target, weights=weights, seed=seed, shrinkage=self.shrinkage)
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
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(100, max_depth=6, min_samples_leaf=3, random_state=0, n_jobs=1)
        worth = forest.fit(inputs[:, varied], residual).feature_importances_
        chosen: list[int] = []
        for column in varied[np.argsort(-worth, kind="stable")]:
            alike = [abs(np.corrcoef(inputs[:, column], inputs[:, other])[0, 1]) for other in chosen]
            if not alike or max(alike) < 0.98:
                chosen.append(int(column))
            if len(chosen) == wanted:
                break
        return tuple(chosen)


def _process(inputs: Numbers, residual: Numbers, weights: Numbers, *, columns: tuple[int, ...]) -> Process:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    # The residuals are scaled to about 1, clipped and fitted; the bounds keep the search away from degenerate kernels.
    spread = max(float(residual.std()), 1e-6)
    kernel = ConstantKernel(1.0, (1e-3, 1e2)) * Matern(np.full(len(columns), 3.0), (0.3, 1e3), nu=2.5) + WhiteKernel(
        0.1, (1e-5, 3.0)
    )
    offset = float(np.median(residual))
    centred = np.clip((residual - offset) / spread, -5, 5)
    # A row of less weight has more noise: its variance is the inverse of its weight.
    relative = weights.mean() / np.maximum(weights, 1e-9 * weights.mean())
    with warnings.catch_warnings():
        # A length scale at its upper bound means that the input is irrelevant, which is not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=_optimise).fit(inputs, centred)
    amplitude, scales, noise = process.kernel_.k1.k1, process.kernel_.k1.k2.length_scale, process.kernel_.k2
    inverse = 1 / np.broadcast_to(scales, (len(columns),))
    points = inputs * inverse
    matrix = amplitude.constant_value * _kernel(points, points, (points**2).sum(axis=1))
    dual = np.linalg.solve(matrix + np.diag(noise.noise_level * relative + 1e-8), centred)
    return Process(
        columns=columns,
        points=points,
        inverse_scales=inverse,
        dual=dual * amplitude.constant_value * spread,
        offset=offset,
    )


def _optimise(objective: Any, initial: Numbers, bounds: Numbers) -> tuple[Numbers, float]:
    """Optimise for a few steps: more change the likelihood, but hardly the predictions."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    found = minimize(objective, initial, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 30})
    return found.x, float(found.fun)


def _kernel(inputs: Numbers, points: Numbers, norms: Numbers) -> Numbers:
    """Return the Matern 5/2 kernel (1 + s + s^2 / 3) exp(-s), s = sqrt(5) |x - p|, of scaled inputs and points."""
    # s^2 = 5 |x|^2 + 5 |p|^2 - 10 x.p needs one matrix product; all steps work in place, as memory is the bottleneck.
    values: Numbers = inputs @ points.T
    values *= -10
    values += 5 * norms
    values += 5 * (inputs**2).sum(axis=1)[:, None]
    np.maximum(values, 0, out=values)
    steps = np.sqrt(values)
    values /= 3
    values += steps
    values += 1
    values *= np.exp(np.negative(steps, out=steps), out=steps)
    return values
