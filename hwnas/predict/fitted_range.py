"""The range of networks that a predictor was fitted to.

A small sample of a space does not reach the ends of its range: the expected gap between the maximum of n uniform draws
and the end of their range is proportional to 1 / n. The margin is wider by as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features, outside_column
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.intervals import WhitenedComponents
from hwnas.predict.stored import StoredTable

_MARGIN = 0.1
"""Share of the fitted range by which a column may leave it."""
_FEW_MARGIN = 4.0
"""Divided by the number of networks, this is added to the margin if all are of one space."""
_FAR = 2.0
"""A network is outside beyond this multiple of the largest distance among the fitted ones."""
_FEW_FAR = 16.0
"""Divided by the number of networks, this is added to that multiple if all are of one space."""
_HARMLESS = 0.005
"""Costs below this share of all costs are ignored."""


@dataclass(frozen=True, kw_only=True)
class FittedRange(ContiguousArrays):
    """Minimum and maximum of each column, and largest distance from the centre, of the fitted networks."""

    cost_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    low: Numbers
    high: Numbers
    components: WhitenedComponents
    largest_distance: float
    margin: float = _MARGIN
    far: float = _FAR

    @classmethod
    def fit(cls, features: Features, *, one_space: bool = False) -> Self:
        """Fit the range to networks; `one_space` adds the margin of a sample of one space."""
        columns = np.concatenate([features.costs, features.shapes], axis=1)
        components, count = WhitenedComponents.fit(features), len(set(group_equal_networks(features)))
        return cls(
            cost_names=features.cost_names,
            shape_names=features.shape_names,
            low=columns.min(axis=0),
            high=columns.max(axis=0),
            components=components,
            largest_distance=float(components.distance(features).max()),
            margin=_MARGIN + (_FEW_MARGIN / count if one_space else 0.0),
            far=_FAR + (_FEW_FAR / count if one_space else 0.0),
        )

    def with_range_of(self, source: str) -> Self:
        """Return the range that networks outside the fitted range of a source are outside as well."""
        return replace(
            self,
            shape_names=(*self.shape_names, outside_column(source)),
            low=np.append(self.low, 0.0),
            high=np.append(self.high, 0.0),
        )

    def is_outside(self, features: Features) -> NDArray[np.bool_]:
        """Return a mask of networks outside the fitted range."""
        return self._beyond(features).any(axis=1) | self._far(features) | (self._unknown(features) > 0)

    def reasons(self, features: Features) -> tuple[str, ...]:
        """Return the reasons for which the first of these networks is outside; empty if it is inside."""
        first = features.take(slice(0, 1))
        beyond = np.flatnonzero(self._beyond(first)[0])
        reasons = [self._reason(int(column), first) for column in beyond]
        if self._far(first)[0] and not reasons:
            reasons.append("its mix of operations is unlike that of all fitted networks")
        if self._unknown(first)[0]:
            costs = zip(first.cost_names, first.costs[0], strict=True)
            unknown_names = [name for name, cost in costs if name not in self.cost_names and cost > 0]
            reasons.append(f"no fitted network has {', '.join(unknown_names)}")
        return tuple(reasons)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "cost_names": list(self.cost_names),
            "shape_names": list(self.shape_names),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "unusual": self.components.to_json(),
            "largest_distance": self.largest_distance,
            "margin": self.margin,
            "far": self.far,
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        required = ("cost_names", "shape_names", "low", "high", "unusual", "largest_distance")
        data.require_keys(*required, optional=("margin", "far"))
        cost_names, shape_names = data.names("cost_names"), data.names("shape_names")
        num_columns = len(cost_names) + len(shape_names)
        low, high = data.array("low", num_columns), data.array("high", num_columns)
        if (low > high).any():
            raise InputError(
                f"{data.where}.low must not be above high", got=(cost_names + shape_names)[np.argmax(low > high)]
            )
        return cls(
            cost_names=cost_names,
            shape_names=shape_names,
            low=low,
            high=high,
            components=WhitenedComponents.from_json(data.table("unusual")),
            largest_distance=data.number("largest_distance", low=0),
            margin=data.number("margin", low=0) if "margin" in data else _MARGIN,
            far=data.number("far", low=0) if "far" in data else _FAR,
        )

    def _columns(self, features: Features) -> Numbers:
        return np.concatenate([features.costs_by(self.cost_names), features.shapes_by(self.shape_names)], axis=1)

    def _beyond(self, features: Features) -> NDArray[np.bool_]:
        columns = self._columns(features)
        # The second term covers rounding errors of columns that are constant in the fitted networks.
        margin = self.margin * (self.high - self.low) + 1e-9 * (1 + abs(self.high))
        beyond: NDArray[np.bool_] = (columns < self.low - margin) | (columns > self.high + margin)
        costs = len(self.cost_names)
        total = features.total()[:, None]
        beyond[:, :costs] &= np.maximum(columns[:, :costs], self.low[:costs]) / total > _HARMLESS
        return beyond

    def _far(self, features: Features) -> NDArray[np.bool_]:
        far: NDArray[np.bool_] = self.components.distance(features) > self.far * self.largest_distance
        return far

    def _unknown(self, features: Features) -> Numbers:
        """Return the share of each network's costs that no fitted network has."""
        known = [name in self.cost_names for name in features.cost_names]
        share: Numbers = features.costs[:, ~np.array(known, dtype=np.bool_)].sum(axis=1) / features.total()
        return np.where(share > _HARMLESS, share, 0.0)

    def _reason(self, column: int, features: Features) -> str:
        name = (*self.cost_names, *self.shape_names)[column]
        if name.startswith(outside_column("")):
            return f"it is outside the fitted range of {name.removeprefix(outside_column(''))}"
        value = self._columns(features)[0, column]
        return f"{name} is {value:.4g}, and the fitted range is {self.low[column]:.4g} to {self.high[column]:.4g}"


def require_inside(fitted: FittedRange, features: Features, *, labels: Sequence[str] | None = None) -> None:
    """Raise InputError for the first network outside, with the reasons."""
    outside = np.flatnonzero(fitted.is_outside(features))
    if not outside.size:
        return
    row = int(outside[0])
    label = f"row {row}" if labels is None else labels[row]
    reasons = fitted.reasons(features.take(slice(row, row + 1)))
    raise InputError(
        f"{label} is outside the fitted range",
        got="; ".join(reasons[:3]),
        hint="measure similar networks, and fit again",
    )
