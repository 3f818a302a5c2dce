from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import features_of
from hwnas.predict.fitted_range import FittedRange, require_inside
from tests.predict.synthetic import networks


def test_networks_of_the_same_space_are_inside() -> None:
    fitted = FittedRange.of(networks(200))
    assert fitted.is_outside(networks(200)).sum() == 0
    assert fitted.is_outside(networks(500, seed=3)).mean() < 0.02


def test_a_network_beyond_the_range_is_outside_and_the_reason_is_given() -> None:
    fitted = FittedRange.of(networks(200))
    large = replace(networks(1, seed=3), costs=3 * networks(1, seed=3).costs)
    assert fitted.is_outside(large).tolist() == [True]
    assert any(reason.startswith("linear.macs") and "were fitted" in reason for reason in fitted.reasons(large))


def test_an_operation_that_no_fitted_network_has_is_named() -> None:
    fitted = FittedRange.of(features_of({"linear.bytes": np.arange(1.0, 9), "runs": np.ones(8)}))
    new = features_of({"linear.bytes": np.array([3.0]), "depthwise.bytes": np.array([2.0]), "runs": np.ones(1)})
    assert fitted.is_outside(new).tolist() == [True]
    with pytest.raises(InputError, match="row 0 lies outside") as caught:
        require_inside(fitted, new)
    assert caught.value.got == "no fitted network has depthwise.bytes"


def test_a_cost_that_hardly_matters_puts_nothing_outside() -> None:
    fitted = FittedRange.of(features_of({"a": np.arange(1.0, 9), "b": np.full(8, 1e-4)}))
    assert not fitted.is_outside(features_of({"a": np.array([3.0]), "b": np.array([2e-4])})).any()


def test_an_unusual_mix_inside_all_ranges_is_outside() -> None:
    rng = np.random.default_rng(0)
    wide = rng.uniform(1, 100, 300)
    pair = {"a": wide, "b": wide * np.exp(0.01 * rng.normal(size=300))}
    fitted = FittedRange.of(features_of(pair))
    strange = features_of({"a": np.array([90.0]), "b": np.array([5.0])})
    assert fitted.is_outside(strange).tolist() == [True]
    assert fitted.reasons(strange) == ("its mix of operations is unlike that of every fitted network",)


def test_json_gives_the_same_range_back() -> None:
    fitted = FittedRange.of(networks(50))
    again = FittedRange.from_json(fitted.to_json())
    test = networks(80, seed=2)
    np.testing.assert_array_equal(again.is_outside(test), fitted.is_outside(test))
    require_inside(again, networks(50))
