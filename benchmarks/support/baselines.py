"""What people try first: gradient boosting, a Gaussian process and ridge regression on a few counters of a model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features

Baseline = Callable[[Features, Numbers, Features], Numbers]
"""Fitted features and targets, and the features to predict."""


def boosted(features: Features, target: Numbers, held_out: Features) -> Numbers:
    """XGBoost on the logarithms of the counters."""
    import xgboost

    model = xgboost.XGBRegressor(
        n_estimators=600, max_depth=5, learning_rate=0.05, subsample=0.8, n_jobs=1, random_state=0
    )
    model.fit(_logs(features), np.log(target))
    return np.exp(np.asarray(model.predict(_logs(held_out)), dtype=np.float64))


def process(features: Features, target: Numbers, held_out: Features) -> Numbers:
    """A Gaussian process (Matern 5/2, one length scale a counter) on what a ridge leaves."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    rows = np.random.default_rng(0).permutation(len(target))[:400]
    ridge = _ridge(_logs(features), np.log(target))
    width = features.costs.shape[1]
    kernel = ConstantKernel(0.1, (1e-4, 1e3)) * Matern(np.ones(width), (1e-2, 1e4), nu=2.5) + WhiteKernel(
        1e-2, (1e-6, 1)
    )
    scale = _logs(features).std(axis=0) + 1e-9
    model = GaussianProcessRegressor(kernel, normalize_y=True)
    model.fit(_logs(features)[rows] / scale, (np.log(target) - ridge.predict(_logs(features)))[rows])
    logs: Numbers = ridge.predict(_logs(held_out)) + model.predict(_logs(held_out) / scale)
    return np.exp(logs)


def ridge(features: Features, target: Numbers, held_out: Features) -> Numbers:
    """A ridge regression of the logarithm on the logarithms."""
    logs: Numbers = _ridge(_logs(features), np.log(target)).predict(_logs(held_out))
    return np.exp(logs)


def quadratic(features: Features, target: Numbers, held_out: Features) -> Numbers:
    """The same with squares and products."""
    upper, lower = np.triu_indices(features.costs.shape[1])
    mean, scale = _logs(features).mean(axis=0), _logs(features).std(axis=0) + 1e-9

    def squared(given: Features) -> Numbers:
        columns = (_logs(given) - mean) / scale
        return np.concatenate([columns, columns[:, upper] * columns[:, lower]], axis=1)

    logs: Numbers = _ridge(squared(features), np.log(target)).predict(squared(held_out))
    return np.exp(logs)


BASELINES: dict[str, Baseline] = {
    "ridge on counters": ridge,
    "quadratic ridge on counters": quadratic,
    "Gaussian process on counters": process,
    "XGBoost on counters": boosted,
}


def _ridge(columns: Numbers, logs: Numbers) -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(np.logspace(-6, 3, 19)).fit(columns, logs)


def _logs(features: Features) -> Numbers:
    return np.log(np.maximum(features.costs, 1e-9) if features.costs.min() > 0 else features.costs + 1)
