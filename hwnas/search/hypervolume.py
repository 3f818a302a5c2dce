"""How good a front is in one number: the share of a stated bounds of objectives that it dominates.

The bounds lies between an ideal and a reference point; scaled to it, the hypervolume is between 0 and 1. Two searches
are compared within one bounds only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.estimate import Metrics
from hwnas.search.front import Mask, on_front
from hwnas.search.objective import Objective

Values = NDArray[np.float64]
_MARGIN = 1.1


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
    return 0.0, _MARGIN * float(values.max(initial=0.0)) or 1.0
