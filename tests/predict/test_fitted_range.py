from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import features_of
from hwnas.predict.fitted_range import FittedRange, require_inside
from hwnas.predict.intervals import calibrate
from hwnas.predict.models import AnalyticLearner
from hwnas.predict.selection import Protocol, cross_validate
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import measured_times, networks


def test_networks_of_the_same_space_are_inside() -> None:
    fitted = FittedRange.fit(networks(200))
    assert fitted.is_outside(networks(200)).sum() == 0
    assert fitted.is_outside(networks(500, seed=3)).mean() < 0.02


def test_a_network_beyond_the_range_is_outside_and_the_reason_is_given() -> None:
    fitted = FittedRange.fit(networks(200))
    large = replace(networks(1, seed=3), costs=3 * networks(1, seed=3).costs)
    assert fitted.is_outside(large).tolist() == [True]
    assert any(reason.startswith("linear.macs") and "the fitted range is" in reason for reason in fitted.reasons(large))


def test_an_operation_that_no_fitted_network_has_is_named() -> None:
    fitted = FittedRange.fit(features_of({"linear.bytes": np.arange(1.0, 9), "runs": np.ones(8)}))
    new = features_of({"linear.bytes": np.array([3.0]), "depthwise.bytes": np.array([2.0]), "runs": np.ones(1)})
    assert fitted.is_outside(new).tolist() == [True]
    with pytest.raises(InputError, match="row 0 is outside") as caught:
        require_inside(fitted, new)
    assert caught.value.got == "no fitted network has depthwise.bytes"


def test_a_cost_that_hardly_matters_puts_nothing_outside() -> None:
    fitted = FittedRange.fit(features_of({"a": np.arange(1.0, 9), "b": np.full(8, 1e-4)}))
    assert not fitted.is_outside(features_of({"a": np.array([3.0]), "b": np.array([2e-4])})).any()


def test_an_unusual_mix_inside_all_ranges_is_outside() -> None:
    rng = np.random.default_rng(0)
    wide = rng.uniform(1, 100, 300)
    pair = {"a": wide, "b": wide * np.exp(0.01 * rng.normal(size=300))}
    fitted = FittedRange.fit(features_of(pair))
    strange = features_of({"a": np.array([90.0]), "b": np.array([5.0])})
    assert fitted.is_outside(strange).tolist() == [True]
    assert fitted.reasons(strange) == ("its mix of operations is unlike that of all fitted networks",)


@pytest.mark.parametrize("count", [10, 24])
def test_few_networks_of_one_space_leave_few_of_its_others_outside(count: int) -> None:
    few, others = networks(count, space="resnas-tiny"), networks(300, space="resnas-tiny", seed=3)
    of_any, of_one = FittedRange.fit(few), FittedRange.fit(few, one_space=True)
    assert of_one.is_outside(others).mean() < 0.5 * of_any.is_outside(others).mean()
    assert of_one.is_outside(networks(20, space="vitas-deit-small-shifted")).all()
    large = replace(others, costs=3 * others.costs)
    assert of_one.is_outside(large).mean() > 0.9


def test_networks_that_the_margin_of_few_takes_in_are_predicted_as_the_others_are() -> None:
    inside, hits = np.zeros(2), np.zeros(2)
    for seed in range(6):
        few, others = networks(24, space="resnas-tiny", seed=seed), networks(300, space="resnas-tiny", seed=99)
        target, truth = measured_times(few, seed=seed), measured_times(others, seed=seed + 50)
        protocol = Protocol(repeats=1)
        held_out = cross_validate(few, target, protocol=protocol, learners=[AnalyticLearner()])
        fitted = AnalyticLearner().fit(few, target)
        intervals = calibrate(few, target, held_out.by_model["analytic"])
        lower, upper = intervals.bounds(fitted.predict(others), others, confidence=0.8)
        held = (lower <= truth) & (truth <= upper)
        taken = FittedRange.fit(few).is_outside(others) & ~FittedRange.fit(few, one_space=True).is_outside(others)
        for place, rows in enumerate((taken, ~FittedRange.fit(few).is_outside(others))):
            inside[place] += rows.sum()
            hits[place] += held[rows].sum()
    assert inside[0] > 50
    assert hits[0] / inside[0] > 0.72
    assert hits[0] / inside[0] > hits[1] / inside[1] - 0.08


def test_a_range_that_was_written_without_a_margin_has_the_narrow_one() -> None:
    data = FittedRange.fit(networks(12), one_space=True).to_json()
    del data["margin"], data["far"]
    assert FittedRange.from_json(StoredTable(data)).to_json() == FittedRange.fit(networks(12)).to_json()


def test_json_gives_the_same_range_back() -> None:
    fitted = FittedRange.fit(networks(50))
    again = FittedRange.from_json(StoredTable(fitted.to_json()))
    test = networks(80, seed=2)
    np.testing.assert_array_equal(again.is_outside(test), fitted.is_outside(test))
    require_inside(again, networks(50))
