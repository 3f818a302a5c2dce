import numpy as np

from hwnas.predict.drift import Drift, find_drift, fit_with_drift
from hwnas.predict.models import AnalyticLearner
from tests.predict.synthetic import Numbers, networks, true_times


def _drift(times: Numbers) -> Numbers:
    return 0.08 * np.sin(times / 25)


def test_a_slow_wave_is_found_from_the_fitted_rows_alone() -> None:
    features, times = networks(200), np.arange(200.0)
    target = true_times(features) * np.exp(_drift(times) + 0.01 * np.random.default_rng(0).normal(size=200))
    fit = np.arange(200) % 5 != 0
    fitted, drift = fit_with_drift(AnalyticLearner(), features.take(fit), target[fit], times=times[fit])
    held_out = ~fit
    without = AnalyticLearner().fit(features.take(fit), target[fit]).predict(features.take(held_out))
    predicted = fitted.predict(features.take(held_out)) * drift.factor(times[held_out])
    assert np.abs(without / target[held_out] - 1).mean() > 0.04
    assert np.abs(predicted / target[held_out] - 1).mean() < 0.016


def test_where_nothing_drifts_nothing_is_changed() -> None:
    features, times = networks(150), np.arange(150.0)
    target = true_times(features) * np.exp(0.02 * np.random.default_rng(1).normal(size=150))
    _, drift = fit_with_drift(AnalyticLearner(), features, target, times=times)
    assert drift.width is None
    np.testing.assert_array_equal(drift.factor(times), 1)


def test_outliers_are_no_drift() -> None:
    residual = 0.01 * np.random.default_rng(0).normal(size=100)
    residual[50] = 3.0
    assert np.abs(np.log(find_drift(np.arange(100.0), residual).factor(np.arange(100.0)))).max() < 0.03


def test_far_from_all_rows_there_is_no_drift() -> None:
    drift = Drift(times=np.arange(10.0), logs=np.full(10, 0.5), width=2.0)
    assert drift.factor(np.array([5.0]))[0] > 1.5
    assert drift.factor(np.array([500.0]))[0] == 1


def test_equal_times_tell_nothing() -> None:
    assert find_drift(np.zeros(9), np.linspace(0, 1, 9)).width is None
