import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import exact, make_objectives
from hwnas.search.pareto import (
    HypervolumeBounds,
    hypervolume,
    hypervolume_history,
    knee,
    make_bounds,
    most_improving,
    nearest_to_front,
    on_front,
)

SQUARE = HypervolumeBounds(ideal=(0.0, 0.0), reference=(1.0, 1.0))
CUBE = HypervolumeBounds(ideal=(0.0, 0.0, 0.0), reference=(1.0, 1.0, 1.0))


def monte_carlo(points: NDArray[np.float64], bounds: HypervolumeBounds) -> float:
    darts = np.random.default_rng(0).random((200_000, points.shape[1]))
    scaled = bounds.scaled(points)
    hits = np.logical_and.reduce(darts[:, None] >= scaled[None], axis=2)
    return float(np.logical_or.reduce(hits, axis=1).mean())


def test_known_hypervolumes() -> None:
    assert hypervolume(np.array([[0.5, 0.5]]), SQUARE) == pytest.approx(0.25)
    assert hypervolume(np.array([[0.25, 0.5], [0.5, 0.25]]), SQUARE) == pytest.approx(0.5 * 0.75 + 0.25 * 0.5)
    assert hypervolume(np.array([[0.3]]), HypervolumeBounds(ideal=(0.0,), reference=(1.0,))) == pytest.approx(0.7)


def test_it_is_the_share_of_the_box_that_darts_hit() -> None:
    points = np.random.default_rng(1).random((6, 3)) * [2.0, 10.0, 5.0] - [1.0, 0.0, 0.0]
    bounds = HypervolumeBounds(ideal=(-1.0, 0.0, 0.0), reference=(1.0, 10.0, 5.0))
    assert hypervolume(points, bounds) == pytest.approx(monte_carlo(points, bounds), abs=0.005)


def test_what_lies_outside_or_is_not_known_adds_nothing() -> None:
    assert hypervolume(np.array([[1.0, 0.2], [0.2, 3.0], [np.nan, 0.1]]), SQUARE) == 0.0
    assert hypervolume(np.zeros((0, 2)), SQUARE) == 0.0
    assert hypervolume(np.array([[-5.0, 0.5]]), SQUARE) == pytest.approx(0.5)
    assert hypervolume(np.array([[0.5, 0.5]]), SQUARE, feasible=np.array([False])) == 0.0


def test_history_is_the_hypervolume_of_everything_so_far() -> None:
    rng = np.random.default_rng(3)
    objectives, feasible = rng.random((40, 2)), rng.random(40) < 0.7
    generations = np.repeat([0, 1, 2, 3], 10)
    points = hypervolume_history(objectives, generations, SQUARE, feasible=feasible)
    assert [count for count, _ in points] == [10, 20, 30, 40]
    for count, value in points:
        assert value == pytest.approx(hypervolume(objectives[:count], SQUARE, feasible=feasible[:count]))


def test_the_box_of_known_networks() -> None:
    objectives = make_objectives(["throughput"])
    bounds = make_bounds(objectives, {"macs": exact([1e9, 2e9]), "throughput": exact([100.0, 300.0])})
    assert bounds.ideal == pytest.approx((-1.0, 0.0, -330.0))
    assert bounds.reference == pytest.approx((0.0, 2.2e9, 0.0))


def test_a_box_has_an_inside() -> None:
    with pytest.raises(InputError, match="the ideal must be better than the reference"):
        HypervolumeBounds(ideal=(0.0, 1.0), reference=(1.0, 1.0))


def brute(objectives: NDArray[np.float64]) -> list[bool]:
    able = [bool(np.isfinite(values).all()) for values in objectives]

    def beaten(row: int) -> bool:
        return any(
            able[other] and all(objectives[other] <= objectives[row]) and any(objectives[other] < objectives[row])
            for other in range(len(objectives))
        )

    return [able[row] and not beaten(row) for row in range(len(objectives))]


@given(
    num_objectives=st.integers(1, 5),
    rows=st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), max_size=12),
    holes=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), max_size=3),
)
def test_the_front_is_that_of_the_definition(
    num_objectives: int, rows: list[list[int]], holes: list[tuple[int, int]]
) -> None:
    objectives = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
    for row, column in holes:
        if row < len(objectives):
            objectives[row, column] = np.nan
    objectives = objectives[:, :num_objectives]
    assert on_front(objectives).tolist() == brute(objectives)


def test_equal_networks_are_all_on_the_front() -> None:
    assert on_front(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [True, True, False]
    assert on_front(np.array([[3.0], [3.0], [4.0]])).tolist() == [True, True, False]


def test_infeasible_networks_are_not_on_the_front_and_beat_none() -> None:
    objectives = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert on_front(objectives, feasible=np.array([False, True, True])).tolist() == [False, True, False]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_an_empty_front_is_empty(width: int) -> None:
    assert on_front(np.zeros((0, width))).tolist() == []
    assert on_front(np.full((2, width), np.nan)).tolist() == [False, False]


def test_the_knee_lies_farthest_from_the_line_through_the_extremes() -> None:
    front = np.array([[0.0, 100.0], [1.0, 20.0], [5.0, 15.0], [10.0, 0.0]])
    assert knee(front) == 1
    assert knee(front[:1]) == 0
    assert knee(front[:0]) is None
    assert knee(np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])) == 0


def greedy(promised: NDArray[np.float64], front: NDArray[np.float64], count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        gains = [hypervolume(np.concatenate([front, promised[[*chosen, row]]]), CUBE) for row in range(len(promised))]
        chosen.append(int(np.argmax(gains)))
    return chosen


def test_lazy_greedy_chooses_what_greedy_chooses() -> None:
    rng = np.random.default_rng(0)
    promised, front = rng.random((40, 3)) * 0.8, rng.random((10, 3))
    assert most_improving(promised, front, 6, CUBE) == greedy(promised, front, 6)


def test_neighbours_of_the_chosen_and_beaten_rows_wait() -> None:
    promised = np.array([[0.2, 0.2, 0.2], [0.21, 0.2, 0.2], [0.05, 0.9, 0.9], [0.9, 0.9, 0.9]])
    assert most_improving(promised, np.zeros((0, 3)), 4, CUBE) == [0, 2]
    assert most_improving(promised, np.array([[0.01, 0.01, 0.01]]), 4, CUBE) == []
    assert most_improving(promised[:0], promised, 4, CUBE) == []


def test_rows_come_front_by_front() -> None:
    values = np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0], [2.0, 3.0], [np.nan, 0.0]])
    assert nearest_to_front(values, 1).tolist() == [1, 2]
    assert nearest_to_front(values, 3).tolist() == [1, 2, 3]
    assert nearest_to_front(values, 9).tolist() == [1, 2, 3, 0]
    assert nearest_to_front(values[:0], 2).tolist() == []
