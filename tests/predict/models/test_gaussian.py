import numpy as np
from sklearn.gaussian_process.kernels import Matern

from hwnas.predict.models.gaussian import GaussianLearner, _kernel


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
