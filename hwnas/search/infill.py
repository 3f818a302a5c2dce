"""Which of many promising networks to evaluate truly next."""

import heapq

import numpy as np
from numpy.typing import NDArray

from hwnas.search.front import known_rows, on_front
from hwnas.search.hypervolume import HypervolumeBounds, hypervolume

Values = NDArray[np.float64]
Indices = NDArray[np.intp]


def most_improving(promised: Values, front: Values, count: int, bounds: HypervolumeBounds) -> list[int]:
    """Rows that one after the other add most to the hypervolume of a front, if they keep what they promise.

    A batch so chosen is spread over the front, because a network beside a chosen one adds little. What a network adds
    only falls while others are chosen, so a gain is computed again only when it comes to the top (lazy greedy).
    Rows that would add nothing are not chosen.
    """
    reached, base = front, hypervolume(front, bounds)
    heap = [(base - _with(reached, point, bounds), row) for row, point in enumerate(promised)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, row = heapq.heappop(heap)
        gain = _with(reached, promised[row], bounds) - base
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, row))
        elif gain > 0:
            chosen.append(row)
            reached = np.concatenate([reached, promised[row : row + 1]])
            reached, base = reached[on_front(reached)], base + gain
        else:
            break
    return chosen


def nearest_to_front(objectives: Values, count: int) -> Indices:
    """At least `count` rows, if there are so many: those of the front, then of the next one, and so on."""
    left = objectives.copy()
    found: list[int] = []
    while len(found) < count and known_rows(left).any():
        front = np.flatnonzero(on_front(left))
        found.extend(front.tolist())
        left[front] = np.nan
    return np.array(found, dtype=np.intp)


def _with(front: Values, point: Values, bounds: HypervolumeBounds) -> float:
    return hypervolume(np.concatenate([front, point[None]]), bounds)
