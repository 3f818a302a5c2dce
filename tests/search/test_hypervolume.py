import numpy as np
import pytest
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.estimate import exact
from hwnas.search.hypervolume import HypervolumeBounds, history, hypervolume, make_bounds
from hwnas.search.objective import make_objectives

UNIT = HypervolumeBounds(ideal=(0.0, 0.0), reference=(1.0, 1.0))


def monte_carlo(points: NDArray[np.float64], bounds: HypervolumeBounds) -> float:
    darts = np.random.default_rng(0).random((200_000, points.shape[1]))
    scaled = bounds.scaled(points)
    hits = np.logical_and.reduce(darts[:, None] >= scaled[None], axis=2)
    return float(np.logical_or.reduce(hits, axis=1).mean())


def test_known_hypervolumes() -> None:
    assert hypervolume(np.array([[0.5, 0.5]]), UNIT) == pytest.approx(0.25)
    assert hypervolume(np.array([[0.25, 0.5], [0.5, 0.25]]), UNIT) == pytest.approx(0.5 * 0.75 + 0.25 * 0.5)
    assert hypervolume(np.array([[0.3]]), HypervolumeBounds(ideal=(0.0,), reference=(1.0,))) == pytest.approx(0.7)


def test_it_is_the_share_of_the_box_that_darts_hit() -> None:
    points = np.random.default_rng(1).random((6, 3)) * [2.0, 10.0, 5.0] - [1.0, 0.0, 0.0]
    bounds = HypervolumeBounds(ideal=(-1.0, 0.0, 0.0), reference=(1.0, 10.0, 5.0))
    assert hypervolume(points, bounds) == pytest.approx(monte_carlo(points, bounds), abs=0.005)


def test_what_lies_outside_or_is_not_known_adds_nothing() -> None:
    assert hypervolume(np.array([[1.0, 0.2], [0.2, 3.0], [np.nan, 0.1]]), UNIT) == 0.0
    assert hypervolume(np.zeros((0, 2)), UNIT) == 0.0
    assert hypervolume(np.array([[-5.0, 0.5]]), UNIT) == pytest.approx(0.5)
    assert hypervolume(np.array([[0.5, 0.5]]), UNIT, feasible=np.array([False])) == 0.0


def test_history_is_the_hypervolume_of_everything_so_far() -> None:
    rng = np.random.default_rng(3)
    objectives, feasible = rng.random((40, 2)), rng.random(40) < 0.7
    generations = np.repeat([0, 1, 2, 3], 10)
    points = history(objectives, generations, UNIT, feasible=feasible)
    assert [count for count, _ in points] == [10, 20, 30, 40]
    for count, value in points:
        assert value == pytest.approx(hypervolume(objectives[:count], UNIT, feasible=feasible[:count]))


def test_the_box_of_known_networks() -> None:
    objectives = make_objectives(["throughput"])
    bounds = make_bounds(objectives, {"macs": exact([1e9, 2e9]), "throughput": exact([100.0, 300.0])})
    assert bounds.ideal == pytest.approx((-1.0, 0.0, -330.0))
    assert bounds.reference == pytest.approx((0.0, 2.2e9, 0.0))


def test_a_box_has_an_inside() -> None:
    with pytest.raises(InputError, match="the ideal must be better than the reference"):
        HypervolumeBounds(ideal=(0.0, 1.0), reference=(1.0, 1.0))
