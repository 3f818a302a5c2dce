import numpy as np

from hwnas.predict.drift import Drift, find_drift, without_drift
from hwnas.predict.folds import make_folds
from tests.predict.synthetic import Numbers, networks, true_times


def _drift(times: Numbers) -> Numbers:
    return 0.08 * np.sin(times / 25)


def test_a_slow_wave_is_found_from_the_rows_of_other_folds() -> None:
    features, times = networks(200), np.arange(200.0)
    truth = true_times(features)
    target = truth * np.exp(_drift(times) + 0.01 * np.random.default_rng(0).normal(size=200))
    steady = without_drift(target, truth, times=times, folds=make_folds(200, num_folds=5, seed=0))
    assert steady is not None
    assert np.abs(target / truth - 1).mean() > 0.04
    level = np.median(steady / truth)
    assert np.abs(steady / level / truth - 1).mean() < 0.01


def test_where_nothing_drifts_nothing_is_changed() -> None:
    features, times = networks(150), np.arange(150.0)
    truth = true_times(features)
    target = truth * np.exp(0.02 * np.random.default_rng(1).normal(size=150))
    assert without_drift(target, truth, times=times, folds=make_folds(150, num_folds=5, seed=0)) is None
    np.testing.assert_array_equal(Drift.none().factor(times), 1)


def test_outliers_are_no_drift() -> None:
    residual = 0.01 * np.random.default_rng(0).normal(size=100)
    residual[50] = 3.0
    assert np.abs(np.log(find_drift(np.arange(100.0), residual).factor(np.arange(100.0)))).max() < 0.03


def test_far_from_all_rows_there_is_no_drift() -> None:
    drift = Drift(times=np.arange(10.0), logs=np.full(10, 0.5), width=2.0)
    assert drift.factor(np.array([5.0]))[0] > 1.5
    assert drift.factor(np.array([500.0]))[0] == 1


def test_rows_on_slowed_cores_are_no_drift() -> None:
    features, times = networks(150), np.arange(150.0)
    truth, slowed = true_times(features), (times >= 40) & (times < 115)
    target = truth * np.exp(0.01 * np.random.default_rng(0).normal(size=150)) * np.where(slowed, 1.6, 1)
    folds = make_folds(150, num_folds=5, seed=0)
    steady = without_drift(target, truth, times=times, folds=folds)
    assert steady is not None
    assert np.abs(target / steady - 1).max() > 0.2
    assert without_drift(target, truth, times=times, folds=folds, undisturbed=~slowed) is None
    everywhere = without_drift(target, truth, times=times, folds=folds, undisturbed=np.zeros(150, dtype=np.bool_))
    np.testing.assert_array_equal(everywhere, steady)


def test_equal_times_tell_nothing() -> None:
    assert find_drift(np.zeros(9), np.linspace(0, 1, 9)).width is None
    assert find_drift(np.zeros(0), np.zeros(0)).width is None
