import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from hwnas.predict.models.gaussian import GaussianLearner, _kernel, _negative_log_likelihood, importances


def test_the_kernel_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    np.testing.assert_allclose(
        _kernel(first, second, (second**2).sum(axis=1)), Matern(nu=2.5)(first, second), rtol=1e-7
    )


def test_a_smooth_residual_is_learned_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(120, 4))
    smooth = 0.2 * np.sin(inputs[:, 0]) + 0.1 * inputs[:, 1]
    process = GaussianLearner().learn(inputs, smooth + 0.01 * rng.normal(size=120), weights=np.ones(120), seed=0)
    new = 0.8 * rng.normal(size=(50, 4))
    error = process.correct(new) - (0.2 * np.sin(new[:, 0]) + 0.1 * new[:, 1])
    assert np.abs(error).mean() < 0.01


def test_inputs_are_chosen_by_what_they_say() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 30))
    inputs[:, 20] = inputs[:, 4]
    columns = GaussianLearner(num_inputs=5)._columns(inputs, inputs[:, 4] + inputs[:, 9])
    assert 9 in columns
    assert len({4, 20} & set(columns)) == 1


def test_importances_are_those_of_scikit_learns_forest() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 8))
    residual = inputs[:, 3] + 0.2 * rng.normal(size=60)
    forest = ExtraTreesRegressor(100, max_depth=6, min_samples_leaf=3, random_state=0).fit(inputs, residual)
    found = importances(inputs, residual)
    np.testing.assert_allclose(found, forest.feature_importances_, rtol=1e-9)
    assert found.argmax() == 3


def test_the_likelihood_and_its_gradient_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 3))
    target = np.sin(inputs[:, 0]) + 0.1 * rng.normal(size=40)
    kernel = ConstantKernel(1.0) * Matern(np.full(3, 3.0), nu=2.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=None).fit(inputs, target)
    theta = np.array([0.3, 0.1, 1.2, -0.4, -2.5])
    expected, slopes = process.log_marginal_likelihood(theta, eval_gradient=True)
    value, gradient = _negative_log_likelihood(theta, inputs, target)
    np.testing.assert_allclose(-value, expected, rtol=1e-10)
    np.testing.assert_allclose(-gradient, slopes, rtol=1e-7)
