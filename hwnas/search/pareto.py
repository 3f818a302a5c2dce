"""Pareto fronts: which networks are on one, how good it is (hypervolume), and which networks would improve it.

A network beats another if it is at least as good in every objective and better in one. Networks that are equal in all
objectives are all on the front. A NaN is an unknown value: its network is on no front and beats none. All objectives
are minimised here.

The hypervolume is the share of the volume between an ideal and a reference point that a front dominates, between 0
and 1. Fronts can only be compared within the same bounds.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.objective import Metrics, Objective

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

_MARGIN = 1.1
"""How far the bounds lie beyond the best and worst known values."""


def on_front(objectives: Values, *, feasible: Mask | None = None) -> Mask:
    """Return which networks are on the front.

    Args:
        objectives: Minimised, of shape (networks, objectives).
        feasible: Networks that may be on the front; None: all.
    """
    candidates = known_rows(objectives)
    if feasible is not None:
        candidates &= feasible
    mask = np.zeros(len(objectives), dtype=np.bool_)
    values = objectives[candidates]
    if values.shape[1] == 1 and len(values):  # moocore needs at least two objectives
        mask[candidates] = values[:, 0] == values[:, 0].min()
    elif len(values):
        import moocore  # as pymoo in `hwnas.search.engine`

        mask[candidates] = moocore.is_nondominated(values, keep_weakly=True)
    return mask


def known_rows(values: Values) -> Mask:
    """Return the rows in which every value is finite."""
    known: Mask = np.logical_and.reduce(np.isfinite(values), axis=1)
    return known


def ranked_front(objectives: Values, front: Mask) -> NDArray[np.intp]:
    """Return the rows of a front, the best of the first objective first."""
    rows = np.flatnonzero(front)
    return rows[np.argsort(objectives[rows, 0], kind="stable")]


def knee(objectives: Values) -> int | None:
    """Return the row of a front that lies farthest from the plane through its extremes, on the better side.

    Objectives are scaled to the range of the front. A front without networks has no knee.
    """
    if not len(objectives):
        return None
    low, high = objectives.min(axis=0), objectives.max(axis=0)
    scaled = (objectives - low) / np.where(high > low, high - low, 1.0)
    # After scaling, the plane through the extremes is sum(x) = constant, so the least sum lies farthest from it.
    return int(np.argmin(scaled.sum(axis=1)))


def nearest_to_front(objectives: Values, count: int) -> NDArray[np.intp]:
    """Return at least `count` rows, if there are as many: those of the front, then of the next front, and so on."""
    remaining = objectives.copy()
    found: list[int] = []
    while len(found) < count and known_rows(remaining).any():
        front = np.flatnonzero(on_front(remaining))
        found.extend(front.tolist())
        remaining[front] = np.nan
    return np.array(found, dtype=np.intp)


@dataclass(frozen=True, kw_only=True)
class HypervolumeBounds:
    """Two points in minimised objectives: nothing is better than `ideal`, and nothing beyond `reference` counts."""

    ideal: tuple[float, ...]
    reference: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ideal) != len(self.reference) or not all(np.less(self.ideal, self.reference)):
            got = f"ideal {self.ideal}, reference {self.reference}"
            raise InputError("the ideal must be better than the reference in every objective", got=got)

    def scaled(self, objectives: Values) -> Values:
        """Scale objectives so that 0 is the ideal and 1 the reference."""
        low, high = np.asarray(self.ideal), np.asarray(self.reference)
        shares: Values = (objectives - low) / (high - low)
        return shares


def make_bounds(
    objectives: Sequence[Objective], metrics: Metrics, *, largest: Mapping[str, float] | None = None
) -> HypervolumeBounds:
    """Return bounds that hold a sample of networks, such as the smallest, the largest and random ones.

    The reference is 0 where more is better and 1.1 times the worst value where less is better. The ideal is the best
    possible value where there is one (accuracy 1, cost 0), else 1.1 times the best known value.

    Args:
        objectives: The objectives, in the order of the bounds.
        metrics: Values of the sample; an objective without values gets bounds of 0 and its largest value.
        largest: Largest values by metric, of those that are not bounded by themselves; else 1.
    """
    ends = [_ends(objective, metrics, largest or {}) for objective in objectives]
    return HypervolumeBounds(ideal=tuple(low for low, _ in ends), reference=tuple(high for _, high in ends))


def _ends(objective: Objective, metrics: Metrics, known: Mapping[str, float]) -> tuple[float, float]:
    values = metrics[str(objective)].mean if str(objective) in metrics else np.zeros(0)
    values = values[np.isfinite(values)]
    largest = known.get(objective.metric.name, objective.metric.quantity.largest)
    if objective.metric.maximised:
        best = largest if np.isfinite(largest) else _MARGIN * float(values.max(initial=0.0)) or 1.0
        return -best, 0.0
    return 0.0, _MARGIN * float(values.max(initial=0.0)) or (largest if np.isfinite(largest) else 1.0)


def hypervolume(objectives: Values, bounds: HypervolumeBounds, *, feasible: Mask | None = None) -> float:
    """Return the share of the bounded volume that networks dominate.

    Networks with unknown values or beyond the reference add nothing.
    """
    front = bounds.scaled(objectives[on_front(objectives, feasible=feasible)])
    inside = np.maximum(front[(front < 1).all(axis=1)], 0.0)
    if not len(inside):
        return 0.0
    import moocore

    return float(moocore.hypervolume(inside, ref=np.ones(inside.shape[1])))


def hypervolume_history(
    objectives: Values, generations: NDArray[np.intp], bounds: HypervolumeBounds, *, feasible: Mask
) -> list[tuple[int, float]]:
    """Return the number of networks and their hypervolume after each generation.

    Args:
        objectives: Minimised, of shape (networks, objectives), in the order of evaluation.
        generations: The generation of each network, ascending.
        bounds: Bounds of the hypervolume.
        feasible: Networks that meet all constraints.
    """
    counts = np.searchsorted(generations, np.unique(generations), side="right")
    front = np.zeros((0, objectives.shape[1]))
    points, start = [], 0
    for count in counts.tolist():
        front = np.concatenate([front, objectives[start:count][feasible[start:count]]])
        front = front[on_front(front)]
        points.append((count, hypervolume(front, bounds)))
        start = count
    return points


def most_improving(predicted: Values, front: Values, count: int, bounds: HypervolumeBounds) -> list[int]:
    """Choose the candidates that one after the other add most to the hypervolume of a front.

    A batch chosen this way is spread over the front, because a network next to a chosen one adds little.

    Args:
        predicted: Minimised objectives of the candidates, of shape (candidates, objectives).
        front: Objectives of the present front.
        count: The most candidates to choose; those that would add nothing are not chosen.
        bounds: Bounds of the hypervolume.

    Returns:
        Rows of `predicted`, the most improving first.
    """
    reached, base = front, hypervolume(front, bounds)
    heap = [(base - _hypervolume_with(reached, point, bounds), row) for row, point in enumerate(predicted)]
    heapq.heapify(heap)
    chosen: list[int] = []
    # Lazy greedy: what a candidate adds only falls while others are chosen (hypervolume is submodular), so an old gain
    # is an upper bound, and a gain is computed again only when its candidate comes to the top.
    while heap and len(chosen) < count:
        _, row = heapq.heappop(heap)
        gain = _hypervolume_with(reached, predicted[row], bounds) - base
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, row))
        elif gain > 0:
            chosen.append(row)
            reached = np.concatenate([reached, predicted[row : row + 1]])
            reached, base = reached[on_front(reached)], base + gain
        else:
            break
    return chosen


def _hypervolume_with(front: Values, point: Values, bounds: HypervolumeBounds) -> float:
    return hypervolume(np.concatenate([front, point[None]]), bounds)
