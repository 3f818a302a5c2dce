"""Which networks are on the front: feasible, evaluated, and beaten by none.

One network beats another if it is at least as good in every objective and better in one. Networks that are equal in
all objectives are all on the front. A NaN says that a value is not known: such a network is on no front and beats
none. Everything is minimised here.
"""

import moocore
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


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
