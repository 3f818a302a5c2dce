"""Size of errors by the distance to the nearest fitted network.

Networks are left out in folds, and so are whole families, which are further from the fitted ones. Both give errors at
the distances at which they were predicted; the size of errors is a rising function of the distance.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.folds import Fold
from hwnas.predict.stored import StoredTable

_MOST_POINTS = 512
_MOST_BINS = 8
_FEWEST_ERRORS = 40
"""Least number of errors from which the size at a distance is found."""
_CHUNK = 512
_SIZE_QUANTILE = 0.9
"""The size of errors at a distance is this quantile of them: intervals are mostly asked for that share."""
_FAMILY_WEIGHT = 2
"""A network whose family was left out counts this often: among the near ones most were left out alone."""
_SMALLEST = 1e-4


@dataclass(frozen=True, kw_only=True)
class HeldOutErrors(ContiguousArrays):
    """Errors of held-out networks with the distances at which they were predicted."""

    logs: Numbers
    """log(measured / predicted)."""
    distance: Numbers
    """Distance to the nearest network that was fitted when this one was held out."""

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return the errors of some networks."""
        return type(self)(logs=self.logs[rows], distance=self.distance[rows])


@dataclass(frozen=True, kw_only=True)
class Nearness(ContiguousArrays):
    """Some fitted networks, and the size of errors at some distances from the nearest of them."""

    points: Numbers
    """Coordinates of fitted networks."""
    distances: Numbers
    """In ascending order."""
    sizes: Numbers
    """Usual size of errors at these distances, never falling."""

    def scale(self, coordinates: Numbers) -> Numbers:
        """Return the usual size of errors of networks."""
        return self.scale_at(nearest(coordinates, self.points))

    def scale_at(self, distance: Numbers) -> Numbers:
        """Return the usual size of errors at distances; beyond the largest known one it grows with it."""
        scale = np.interp(distance, self.distances, self.sizes)
        beyond = distance / max(float(self.distances[-1]), _SMALLEST)
        grown: Numbers = scale * np.clip(beyond, 1.0, 3.0)
        return grown

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name).tolist() for name in ("points", "distances", "sizes")}

    @classmethod
    def from_json(cls, data: StoredTable, num_coordinates: int) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("points", "distances", "sizes")
        points, distances = data.array("points", None, num_coordinates), data.array("distances", None, low=0)
        if not len(points) or not len(distances) or (np.diff(distances) < 0).any():
            raise InputError(f"{data.where} must have points, and distances in ascending order")
        return cls(points=points, distances=distances, sizes=data.array("sizes", len(distances), low=0))


def held_out_errors(coordinates: Numbers, logs: Numbers, folds: tuple[Fold, ...]) -> HeldOutErrors:
    """Return errors with the distance of each network from those that were fitted without it."""
    distance = np.zeros(len(logs))
    for fold in folds:
        distance[fold.held_out] = nearest(coordinates[fold.held_out], reference_points(coordinates[fold.fit]))
    return HeldOutErrors(logs=logs, distance=distance)


def fit_nearness(
    points: Numbers, networks: HeldOutErrors, families: HeldOutErrors
) -> tuple[Nearness, Numbers, Numbers]:
    """Return the size of errors by distance, and errors in units of it, ascending.

    The first are those of all, the second those of networks of known families.
    """
    logs = np.concatenate([networks.logs, *[families.logs] * _FAMILY_WEIGHT])
    distance = np.concatenate([networks.distance, *[families.distance] * _FAMILY_WEIGHT])
    order = np.argsort(distance, kind="stable")
    bins = np.array_split(order, min(_MOST_BINS, max(1, len(order) // _FEWEST_ERRORS)))
    sizes = np.array([float(np.quantile(np.abs(logs[own]), _SIZE_QUANTILE)) for own in bins])
    nearness = Nearness(
        points=points,
        distances=np.array([float(np.median(distance[own])) for own in bins]),
        sizes=np.maximum(np.maximum.accumulate(sizes), _SMALLEST),
    )
    normal = logs / nearness.scale_at(distance)
    return nearness, np.sort(normal), np.sort(normal[: len(networks.logs)])


def reference_points(coordinates: Numbers) -> Numbers:
    """Return some of the networks if there are many, always the same ones."""
    if len(coordinates) <= _MOST_POINTS:
        return coordinates
    rows = np.sort(np.random.default_rng(0).permutation(len(coordinates))[:_MOST_POINTS])
    return coordinates[rows]


def nearest(coordinates: Numbers, points: Numbers) -> Numbers:
    """Return the root mean square distance of each network to the nearest of the points."""
    norms, found = (points**2).sum(axis=1), np.zeros(len(coordinates))
    with np.errstate(all="ignore"):  # far away is far away, also where a square overflows
        for start in range(0, len(coordinates), _CHUNK):
            part = coordinates[start : start + _CHUNK]
            least = (norms - 2 * part @ points.T).min(axis=1) + np.einsum("ij,ij->i", part, part)
            found[start : start + _CHUNK] = np.sqrt(np.maximum(least, 0) / points.shape[1])
    return np.nan_to_num(found, nan=1e100, posinf=1e100)
