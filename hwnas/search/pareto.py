"""How good a front is in one number: the share of a stated bounds of objectives that it dominates.

The bounds lies between an ideal and a reference point; scaled to it, the hypervolume is between 0 and 1. Two searches
are compared within one bounds only.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Metrics, Objective

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

_MARGIN = 1.1


def on_front(objectives: Values, *, feasible: Mask | None = None) -> Mask:
    """Which rows are on the front, of an array of shape (networks, objectives)."""
    able = known_rows(objectives)
    if feasible is not None:
        able &= feasible
    mask = np.zeros(len(objectives), dtype=np.bool_)
    mask[able] = _undominated(objectives[able])
    return mask


def known_rows(values: Values) -> Mask:
    """Rows of which every value is finite."""
    known: Mask = np.logical_and.reduce(np.isfinite(values), axis=1)
    return known


def knee(objectives: Values) -> int | None:
    """The row of a front that lies farthest from the plane through its extremes, towards the better side.

    Objectives are scaled to the range of the front; with one network it is that one, with none there is no knee.
    """
    if not len(objectives):
        return None
    low, high = objectives.min(axis=0), objectives.max(axis=0)
    scaled = (objectives - low) / np.where(high > low, high - low, 1.0)
    # In the scaled box the plane through the extremes is sum(x) = constant, so the least sum lies farthest from it.
    return int(np.argmin(scaled.sum(axis=1)))


def _undominated(objectives: Values) -> Mask:
    if not len(objectives):
        return np.zeros(0, dtype=np.bool_)
    if objectives.shape[1] == 1:
        least: Mask = objectives[:, 0] == objectives[:, 0].min()
        return least
    mask: Mask = moocore.is_nondominated(objectives, keep_weakly=True)
    return mask


@dataclass(frozen=True, kw_only=True)
class HypervolumeBounds:
    """Two points in minimised objectives: nothing is better than `ideal`, nothing beyond `reference` counts."""

    ideal: tuple[float, ...]
    reference: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ideal) != len(self.reference) or not all(np.less(self.ideal, self.reference)):
            got = f"ideal {self.ideal}, reference {self.reference}"
            raise InputError("the ideal must be better than the reference in every objective", got=got)

    def scaled(self, objectives: Values) -> Values:
        """Objectives as shares of the bounds: 0 at the ideal, 1 at the reference."""
        low, high = np.asarray(self.ideal), np.asarray(self.reference)
        shares: Values = (objectives - low) / (high - low)
        return shares


def make_bounds(objectives: Sequence[Objective], metrics: Metrics) -> HypervolumeBounds:
    """The bounds that holds known networks: the largest, the smallest and a sample, say.

    The reference is 0 where more is better and 1.1 times the worst value where less is better; the ideal is the best
    possible value where there is one (accuracy 1, cost 0), else 1.1 times the best of the known ones.
    """
    ends = [_ends(objective, metrics) for objective in objectives]
    return HypervolumeBounds(ideal=tuple(low for low, _ in ends), reference=tuple(high for _, high in ends))


def hypervolume(objectives: Values, bounds: HypervolumeBounds, *, feasible: Mask | None = None) -> float:
    """The share of the bounds that the networks dominate; those with NaN or beyond the reference add nothing."""
    front = objectives[on_front(objectives, feasible=feasible)]
    inside = bounds.scaled(front)
    inside = np.maximum(inside[(inside < 1).all(axis=1)], 0.0)
    if not len(inside):
        return 0.0
    return float(moocore.hypervolume(inside, ref=np.ones(inside.shape[1])))


def history(
    objectives: Values, generations: NDArray[np.intp], bounds: HypervolumeBounds, *, feasible: Mask
) -> list[tuple[int, float]]:
    """After each generation, the number of networks so far and their hypervolume."""
    counts = np.searchsorted(generations, np.unique(generations), side="right")
    front = np.zeros((0, objectives.shape[1]))
    points, start = [], 0
    for count in counts.tolist():
        front = np.concatenate([front, objectives[start:count][feasible[start:count]]])
        front = front[on_front(front)]
        points.append((count, hypervolume(front, bounds)))
        start = count
    return points


def _ends(objective: Objective, metrics: Metrics) -> tuple[float, float]:
    values = metrics[str(objective)].mean if str(objective) in metrics else np.zeros(0)
    values = values[np.isfinite(values)]
    most = objective.metric.quantity.most
    if objective.metric.maximised:
        best = most if np.isfinite(most) else _MARGIN * float(values.max(initial=0.0)) or 1.0
        return -best, 0.0
    return 0.0, _MARGIN * float(values.max(initial=0.0)) or (most if np.isfinite(most) else 1.0)


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


def nearest_to_front(objectives: Values, count: int) -> NDArray[np.intp]:
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
