import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.learning_curve import learning_curve
from hwnas.predict.models import RidgeLearner
from tests.predict.synthetic import NOISE, measured_times, networks


def test_the_error_falls_towards_the_noise_floor() -> None:
    features = networks(150)
    curve = learning_curve(RidgeLearner(), features, measured_times(features), counts=(10, 50), noise_floor=0.8 * NOISE)
    assert [point.count for point in curve.points] == [10, 50, 120]
    errors = [point.scores.mape for point in curve.points]
    assert errors[0] > errors[1] > 0.9 * errors[2]
    assert errors[2] < 1.6 * 0.8 * NOISE
    assert curve.noise_floor == 0.8 * NOISE


def test_the_count_that_is_good_enough() -> None:
    features = networks(60)
    curve = learning_curve(RidgeLearner(), features, measured_times(features), counts=(10,))
    assert curve.first_below(1.0) == 10
    assert curve.first_below(0.0) is None


def test_counts_beyond_the_measured_ones_are_left_out() -> None:
    features = networks(30)
    curve = learning_curve(RidgeLearner(), features, measured_times(features), counts=(20, 500))
    assert [point.count for point in curve.points] == [20, 24]


def test_points_of_two_networks_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 measurements a point"):
        learning_curve(RidgeLearner(), networks(30), np.ones(30), counts=(2,))
