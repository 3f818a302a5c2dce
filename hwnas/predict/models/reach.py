"""Reach of a learned correction beyond the fitted networks.

A correction is learned from the networks at hand. Of networks of another kind it is often wrong, where the analytic
mean alone is not, so it fades with the distance to the nearest fitted network.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.models.model import whitening
from hwnas.predict.nearness import nearest
from hwnas.predict.stored import StoredTable

_MOST_POINTS = 1024
_APART = 0.9
"""The correction is halved at the distance to their nearest neighbour that this share of the fitted networks has."""
_SHARPNESS = 4
_SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Reach(ContiguousArrays):
    """Fitted networks as points, and the distance from the nearest of them at which a correction is halved."""

    rotation: Numbers
    """From inputs to coordinates."""
    points: Numbers
    length: float

    @classmethod
    def fit(cls, inputs: Numbers) -> Self:
        """Take the points and the distance from the inputs of the fitted networks."""
        rotation = whitening(inputs)
        points = inputs @ rotation
        if len(points) > _MOST_POINTS:
            points = points[np.sort(np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS])]
        return cls(rotation=rotation, points=points, length=max(_usual_gap(points), _SMALLEST))

    def weights(self, inputs: Numbers) -> Numbers:
        """Return the share of the correction that holds for each row of inputs."""
        with np.errstate(all="ignore"):  # far away is far away, also where a power overflows
            share: Numbers = 1 / (1 + (nearest(inputs @ self.rotation, self.points) / self.length) ** _SHARPNESS)
        return share

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"rotation": self.rotation.tolist(), "points": self.points.tolist(), "length": self.length}

    @classmethod
    def from_json(cls, data: StoredTable, *, num_inputs: int) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("rotation", "points", "length")
        rotation = data.array("rotation", num_inputs, None)
        points = data.array("points", None, rotation.shape[1])
        return cls(rotation=rotation, points=points, length=data.number("length", low=_SMALLEST))


def _usual_gap(points: Numbers) -> float:
    """Return the distance to the nearest other point that most of the points have."""
    norms = (points**2).sum(axis=1)
    squared = norms[:, None] + norms - 2 * points @ points.T
    np.fill_diagonal(squared, np.inf)
    gaps = np.sqrt(np.maximum(squared.min(axis=1), 0) / points.shape[1])
    return float(np.quantile(gaps, _APART))
