from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import features_of
from hwnas.predict.folds import make_folds
from hwnas.predict.intervals import (
    Intervals,
    calibrate,
    held_out_coverage,
    quantiles,
    require_confident,
    supported_confidence,
)
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import Numbers, networks, true_times


def _errors(distance: Numbers, *, seed: int) -> Numbers:
    """Errors that grow with how unusual a network is."""
    return 0.01 * distance**1.5 * np.random.default_rng(seed).standard_normal(len(distance))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9])
def test_new_networks_are_inside_as_often_as_it_says(confidence: float) -> None:
    features, target = networks(1000), true_times(networks(1000))
    distance = calibrate(features, target, target[None] * 1.01).components.distance(features)
    answers = target * np.exp(_errors(distance, seed=1))
    intervals = calibrate(features, target, answers[None])
    new, truth = networks(2000, seed=9), true_times(networks(2000, seed=9))
    predicted = truth * np.exp(_errors(intervals.components.distance(new), seed=2))
    lower, upper = intervals.bounds(predicted, new, confidence=confidence)
    assert ((lower <= truth) & (truth <= upper)).mean() == pytest.approx(confidence, abs=0.05)


def test_unusual_networks_have_wider_intervals_where_errors_grow() -> None:
    features, target = networks(300), true_times(networks(300))
    distance = calibrate(features, target, target[None] * 1.01).components.distance(features)
    growing = calibrate(features, target, (target * np.exp(_errors(distance, seed=1)))[None])
    level = calibrate(features, target, (target * np.exp(0.01 * np.random.default_rng(0).normal(size=300)))[None])
    assert growing.slope > 0.8
    assert level.slope < 0.5
    order = np.argsort(distance)
    assert growing.scale(features)[order[-1]] > 1.5 * growing.scale(features)[order[0]]


def test_quantiles_have_the_correction_for_few_errors() -> None:
    errors = np.arange(1.0, 20.0) - 10
    assert quantiles(errors, confidence=0.9) == (-9, 9)
    assert quantiles(errors, confidence=0.8) == (-8, 8)
    assert quantiles(errors[:5], confidence=0.9) == (-9, 0)


def test_coverage_is_measured_without_the_judged_networks() -> None:
    features, target = networks(200), true_times(networks(200))
    answers = target * np.exp(0.02 * np.random.default_rng(3).normal(size=200))
    folds = (make_folds(200, num_folds=5, seed=0),)
    shares = held_out_coverage(features, target, answers[None], folds, confidences=(0.5, 0.9))
    assert shares == {0.5: pytest.approx(0.5, abs=0.1), 0.9: pytest.approx(0.9, abs=0.05)}


def test_repeats_of_a_cross_validation_do_not_count_as_other_networks() -> None:
    errors = np.arange(1.0, 20.0) - 10
    for confidence in (0.5, 0.8, 0.9):
        once = quantiles(errors, confidence=confidence)
        assert quantiles(np.repeat(errors, 3), confidence=confidence, repeats=3) == once
    features, target = networks(30), true_times(networks(30))
    answers = target * np.exp(0.02 * np.random.default_rng(3).normal(size=30))
    single, again = (calibrate(features, target, np.tile(answers, (repeats, 1))) for repeats in (1, 4))
    low, high = (intervals.bounds(target, features, confidence=0.9) for intervals in (single, again))
    np.testing.assert_allclose(low, high)


def test_the_mean_is_between_the_bounds_of_honest_answers() -> None:
    features, target = networks(100), true_times(networks(100))
    intervals = calibrate(features, target, (target * np.exp(0.02 * np.random.default_rng(3).normal(size=100)))[None])
    lower, upper = intervals.bounds(target, features, confidence=0.9)
    assert (lower < target).all()
    assert (target < upper).all()


def test_json_gives_the_same_intervals_back() -> None:
    features, target = networks(50), true_times(networks(50))
    intervals = calibrate(features, target, (target * np.exp(0.02 * np.random.default_rng(3).normal(size=50)))[None])
    again = Intervals.from_json(StoredTable(intervals.to_json()))
    for mine, theirs in zip(
        again.bounds(target, features, confidence=0.8), intervals.bounds(target, features, confidence=0.8), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_constant_factor_widens_whatever_the_scale_and_the_quantiles() -> None:
    features, target = networks(50), true_times(networks(50))
    # All networks are slower than predicted, so that both quantiles are above 0.
    bare = calibrate(features, target, (target * np.exp(-0.1 * networks(50).costs[:, 0] / target))[None] * 0.9)
    wide = replace(bare, below=0.2, above=0.3)
    assert not {"below", "above"} & {*bare.to_json()}
    for intervals in (wide, Intervals.from_json(StoredTable(wide.to_json()))):
        for confidence in (0.05, 0.9):
            narrow = bare.bounds(target, features, confidence=confidence)
            lower, upper = intervals.bounds(target, features, confidence=confidence)
            assert (narrow[0] > target).all()
            np.testing.assert_allclose(lower, narrow[0] * np.exp(-0.2))
            np.testing.assert_allclose(upper, narrow[1] * np.exp(0.3))
    with pytest.raises(InputError, match="below must be a number from 0"):
        Intervals.from_json(StoredTable({**wide.to_json(), "below": -0.1}))


def test_columns_that_never_vary_are_harmless() -> None:
    features = features_of({"a": np.arange(1.0, 21), "runs": np.ones(20)}, {"constant": np.full(20, 3.0)})
    intervals = calibrate(features, features.costs[:, 0], (features.costs[:, 0] * 1.05)[None])
    assert np.isfinite(intervals.scale(features)).all()


def test_a_confidence_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        quantiles(np.zeros(50), confidence=1.0)


def test_a_confidence_that_so_few_networks_cannot_support_is_refused() -> None:
    require_confident(19, confidence=0.9)
    with pytest.raises(InputError, match="18 networks support no interval") as caught:
        require_confident(18, confidence=0.9)
    assert caught.value.hint == "--confidence 0.89, or measure more networks"


@pytest.mark.parametrize(("count", "most"), [(4, 0.6), (10, 0.81), (18, 0.89), (19, 0.9), (500, 0.9)])
def test_the_most_that_some_networks_support_is_indeed_supported(count: int, most: float) -> None:
    assert supported_confidence(count) == most
    require_confident(count, confidence=most)
    if most < 0.9:
        with pytest.raises(InputError):
            require_confident(count, confidence=most + 0.01)
