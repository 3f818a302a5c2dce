import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import features_of, joined

FEATURES = features_of({"a": np.array([1.0, 2.0]), "runs": np.ones(2)}, {"s": np.array([3.0, 4.0])})


def test_columns_are_found_by_name_and_missing_ones_are_zero() -> None:
    np.testing.assert_array_equal(FEATURES.costs_by(["runs", "new", "a"]), [[1, 0, 1], [1, 0, 2]])


def test_some_rows() -> None:
    assert FEATURES.take([1]).costs.tolist() == [[2.0, 1.0]]
    assert FEATURES.take(np.array([True, False])).shapes.tolist() == [[3.0]]


def test_groups_of_networks_below_each_other() -> None:
    both = joined([FEATURES, features_of({"b": np.array([5.0])})])
    assert both.cost_names == ("a", "runs", "b")
    np.testing.assert_array_equal(both.costs, [[1, 1, 0], [2, 1, 0], [0, 0, 5]])
    np.testing.assert_array_equal(both.shapes, [[3], [4], [0]])


def test_the_total_leaves_out_what_is_no_time() -> None:
    np.testing.assert_array_equal(FEATURES.total(), [1, 2])


def test_a_figure_that_is_no_number_is_named() -> None:
    with pytest.raises(InputError, match=r"a must be a finite number\n  got     nan in row 1"):
        features_of({"a": np.array([1.0, np.nan])})


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="shapes must have a row per network"):
        features_of({"a": np.ones(2)}, {"s": np.ones(3)})
