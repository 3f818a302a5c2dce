import numpy as np
from numpy.typing import NDArray

from hwnas.search.hypervolume import HypervolumeBounds, hypervolume
from hwnas.search.infill import most_improving, nearest_to_front

UNIT = HypervolumeBounds(ideal=(0.0, 0.0, 0.0), reference=(1.0, 1.0, 1.0))


def greedy(promised: NDArray[np.float64], front: NDArray[np.float64], count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        gains = [hypervolume(np.concatenate([front, promised[[*chosen, row]]]), UNIT) for row in range(len(promised))]
        chosen.append(int(np.argmax(gains)))
    return chosen


def test_lazy_greedy_chooses_what_greedy_chooses() -> None:
    rng = np.random.default_rng(0)
    promised, front = rng.random((40, 3)) * 0.8, rng.random((10, 3))
    assert most_improving(promised, front, 6, UNIT) == greedy(promised, front, 6)


def test_neighbours_of_the_chosen_and_beaten_rows_wait() -> None:
    promised = np.array([[0.2, 0.2, 0.2], [0.21, 0.2, 0.2], [0.05, 0.9, 0.9], [0.9, 0.9, 0.9]])
    assert most_improving(promised, np.zeros((0, 3)), 4, UNIT) == [0, 2]
    assert most_improving(promised, np.array([[0.01, 0.01, 0.01]]), 4, UNIT) == []
    assert most_improving(promised[:0], promised, 4, UNIT) == []


def test_rows_come_front_by_front() -> None:
    values = np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0], [2.0, 3.0], [np.nan, 0.0]])
    assert nearest_to_front(values, 1).tolist() == [1, 2]
    assert nearest_to_front(values, 3).tolist() == [1, 2, 3]
    assert nearest_to_front(values, 9).tolist() == [1, 2, 3, 0]
    assert nearest_to_front(values[:0], 2).tolist() == []
