"""The range of networks that a predictor was fitted to.

Few networks of a space show less of its range than there is, and the next ones of the same kind lie a little beyond
them: the margin is wider for them, in the way in which the greatest of so many draws falls short of the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import Unusual
from hwnas.predict.models.model import Plain, names, numbers

_MARGIN = 0.1
"""A column may leave the fitted range by this share of it."""
_FEW_MARGIN = 4.0
"""Divided by the number of networks it is added to that, where all are of one space."""
_FAR = 2.0
"""A network is outside from this multiple of the largest distance among the fitted ones."""
_FEW_FAR = 16.0
"""The same for this multiple."""
_HARMLESS = 0.005
"""A cost that makes less than this share of all costs puts no network outside."""


@dataclass(frozen=True, kw_only=True)
class FittedRange(ContiguousArrays):
    """The least and the greatest of each column, and the largest distance from the middle, of the fitted networks."""

    cost_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    low: Numbers
    high: Numbers
    unusual: Unusual
    largest_distance: float
    margin: float = _MARGIN
    far: float = _FAR

    @classmethod
    def of(cls, features: Features, *, one_space: bool = False) -> Self:
        """The range of the fitted networks, with the margin that so many of one space need."""
        columns = np.concatenate([features.costs, features.shapes], axis=1)
        unusual, count = Unusual.of(features), len(set(group_equal_networks(features)))
        return cls(
            cost_names=features.cost_names,
            shape_names=features.shape_names,
            low=columns.min(axis=0),
            high=columns.max(axis=0),
            unusual=unusual,
            largest_distance=float(unusual.distance(features).max()),
            margin=_MARGIN + (_FEW_MARGIN / count if one_space else 0.0),
            far=_FAR + (_FEW_FAR / count if one_space else 0.0),
        )

    def is_outside(self, features: Features) -> NDArray[np.bool_]:
        """Return a mask of networks outside the fitted range."""
        return self._beyond(features).any(axis=1) | self._far(features) | (self._unknown(features) > 0)

    def reasons(self, features: Features) -> tuple[str, ...]:
        """Return the reasons why the first of these networks is outside; empty if it is inside."""
        first = features.take(slice(0, 1))
        beyond = np.flatnonzero(self._beyond(first)[0])
        found = [self._reason(int(column), first) for column in beyond]
        if self._far(first)[0] and not found:
            found.append("its mix of operations is unlike that of every fitted network")
        if self._unknown(first)[0]:
            found.append(f"no fitted network has {', '.join(self._unknown_names(first))}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "cost_names": list(self.cost_names),
            "shape_names": list(self.shape_names),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "unusual": self.unusual.to_json(),
            "largest_distance": self.largest_distance,
            "margin": self.margin,
            "far": self.far,
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            cost_names=names(data["cost_names"]),
            shape_names=names(data["shape_names"]),
            low=numbers(data["low"]),
            high=numbers(data["high"]),
            unusual=Unusual.from_json(data["unusual"]),
            largest_distance=float(data["largest_distance"]),
            margin=float(data.get("margin", _MARGIN)),
            far=float(data.get("far", _FAR)),
        )

    def _columns(self, features: Features) -> Numbers:
        return np.concatenate([features.costs_by(self.cost_names), features.shapes_by(self.shape_names)], axis=1)

    def _beyond(self, features: Features) -> NDArray[np.bool_]:
        columns = self._columns(features)
        margin = self.margin * (self.high - self.low) + 1e-9 * (1 + abs(self.high))
        beyond: NDArray[np.bool_] = (columns < self.low - margin) | (columns > self.high + margin)
        costs = len(self.cost_names)
        total = features.total()[:, None]
        beyond[:, :costs] &= np.maximum(columns[:, :costs], self.low[:costs]) / total > _HARMLESS
        return beyond

    def _far(self, features: Features) -> NDArray[np.bool_]:
        far: NDArray[np.bool_] = self.unusual.distance(features) > self.far * self.largest_distance
        return far

    def _unknown(self, features: Features) -> Numbers:
        """The share of a network's costs that no fitted network has."""
        known = [name in self.cost_names for name in features.cost_names]
        share: Numbers = features.costs[:, ~np.array(known, dtype=np.bool_)].sum(axis=1) / features.total()
        return np.where(share > _HARMLESS, share, 0.0)

    def _unknown_names(self, features: Features) -> list[str]:
        pairs = zip(features.cost_names, features.costs[0], strict=True)
        return [name for name, cost in pairs if name not in self.cost_names and cost > 0]

    def _reason(self, column: int, features: Features) -> str:
        name = (*self.cost_names, *self.shape_names)[column]
        value = self._columns(features)[0, column]
        return f"{name} is {value:.4g}, and {self.low[column]:.4g} to {self.high[column]:.4g} were fitted"


def require_inside(fitted: FittedRange, features: Features, *, labels: Sequence[str] | None = None) -> None:
    """An error for the first network outside, saying in what."""
    outside = np.flatnonzero(fitted.is_outside(features))
    if not outside.size:
        return
    row = int(outside[0])
    label = f"row {row}" if labels is None else labels[row]
    reasons = fitted.reasons(features.take(slice(row, row + 1)))
    raise InputError(
        f"{label} lies outside what the predictor was fitted to",
        got="; ".join(reasons[:3]),
        hint="measure it, or networks like it, and fit again",
    )
