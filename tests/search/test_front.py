import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwnas.search.front import knee, on_front


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
