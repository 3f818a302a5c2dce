import numpy as np

from hwnas.predict.models import stack_weights


def test_independent_errors_are_averaged() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 9, 400)
    predictions = [target * np.exp(0.02 * rng.normal(size=400)) for _ in range(2)]
    weights = stack_weights(predictions, target)
    np.testing.assert_allclose(weights, 0.5, atol=0.08)


def test_a_better_model_has_the_greater_weight_and_a_hopeless_one_none() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 9, 400)
    predictions = [target * np.exp(spread * rng.normal(size=400)) for spread in (0.01, 0.02, 0.5)]
    weights = stack_weights(predictions, target)
    assert weights[0] > weights[1] > 0
    assert weights[2] == 0
    assert abs(weights.sum() - 1) < 1e-12


def test_outliers_do_not_choose() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 9, 200)
    good = target * np.exp(0.01 * rng.normal(size=200))
    good[:2] *= 1.5
    fair = target * np.exp(0.025 * rng.normal(size=200))
    assert stack_weights([good, fair], target)[0] > 0.5
