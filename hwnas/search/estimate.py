"""Values of many networks that may be uncertain."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


class Estimate(NamedTuple):
    """One metric of a population, a value per row, and the ends of the interval that it lies in."""

    mean: Values
    lower: Values
    upper: Values

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Estimate":
        """Some of the rows."""
        return Estimate(self.mean[index], self.lower[index], self.upper[index])


Metrics = Mapping[str, Estimate]
"""Estimates by the text of their metric."""


def exact(values: ArrayLike) -> Estimate:
    """Values that are known as they are."""
    array = np.asarray(values, dtype=np.float64)
    return Estimate(array, array, array)


def rows_of(metrics: Metrics, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> dict[str, Estimate]:
    """Some of the rows of every metric."""
    return {name: estimate.rows(index) for name, estimate in metrics.items()}


def joined(parts: Sequence[Metrics]) -> dict[str, Estimate]:
    """The rows of several tables, one after the other, of the metrics that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: _concatenated([part[name] for part in parts]) for name in names}


def _concatenated(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(*(np.concatenate(ends) for ends in zip(*estimates, strict=True)))
