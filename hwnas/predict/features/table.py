"""The table of features that all models read: named columns, one row per network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers

_COUNTED = ("calls.", "runs")


@dataclass(frozen=True, kw_only=True)
class Features(ContiguousArrays):
    """Costs, which add up over operations and are not negative, and shapes, which describe mean sizes.

    `counts` is the number of occurrences of each distinct block in each network; it may have no columns.
    """

    cost_names: tuple[str, ...]
    costs: Numbers
    shape_names: tuple[str, ...] = ()
    shapes: Numbers
    count_names: tuple[str, ...] = ()
    counts: Numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("cost", "shape", "count"):
            names, values = getattr(self, f"{what}_names"), getattr(self, f"{what}s")
            if values.shape != (len(self.costs), len(names)):
                raise InputError(f"{what}s must have a row per network and a column per name", got=values.shape)
            require_finite(values, names=names)

    def __len__(self) -> int:
        return len(self.costs)

    def take(self, rows: object) -> "Features":
        """Return the features of some networks, selected by rows or a mask."""
        return Features(
            cost_names=self.cost_names,
            costs=self.costs[rows],  # type: ignore[call-overload]
            shape_names=self.shape_names,
            shapes=self.shapes[rows],  # type: ignore[call-overload]
            count_names=self.count_names,
            counts=self.counts[rows],  # type: ignore[call-overload]
        )

    def total(self, names: Sequence[str] | None = None) -> Numbers:
        """Return the sum of the costs that are times, above 0; calls and runs are counts and not included."""
        wanted = self.cost_names if names is None else tuple(names)
        timed = {name for name in wanted if not name.startswith(_COUNTED)} or {*wanted}
        total: Numbers = np.maximum(self.costs @ np.array([float(name in timed) for name in self.cost_names]), 1e-12)
        return total

    def costs_by(self, names: Sequence[str]) -> Numbers:
        """Return the columns of these costs; one that the networks lack is 0."""
        return _aligned(self.cost_names, self.costs, names)

    def shapes_by(self, names: Sequence[str]) -> Numbers:
        """Return the columns of these shapes; one that the networks lack is 0."""
        return _aligned(self.shape_names, self.shapes, names)

    def counts_by(self, names: Sequence[str]) -> Numbers:
        """Return the columns of these block counts; one that the networks lack is 0."""
        return _aligned(self.count_names, self.counts, names)


def features_of(
    costs: Mapping[str, Numbers], shapes: Mapping[str, Numbers] | None = None, *, rows: int | None = None
) -> Features:
    """Make features from columns by name."""
    shapes = shapes or {}
    length = rows if rows is not None else len(next(iter(costs.values())))
    return Features(
        cost_names=tuple(costs),
        costs=_columns(costs, length),
        shape_names=tuple(shapes),
        shapes=_columns(shapes, length),
        counts=np.zeros((length, 0)),
    )


def with_source_predictions(features: Features, predictions: Mapping[str, Numbers]) -> Features:
    """Return the features with the logarithms of other devices' predictions among the shapes."""
    if not predictions:
        return features
    with np.errstate(all="ignore"):  # what is no finite number is found by the features below
        columns = {source_column(source): np.log(values) for source, values in predictions.items()}
    return _with_shapes(features, columns)


def with_outside(features: Features, outside: Mapping[str, NDArray[np.bool_]]) -> Features:
    """Return the features with, for each of these sources, 1 for networks outside its range among the shapes."""
    columns = {outside_column(source): mask.astype(np.float64) for source, mask in outside.items()}
    return _with_shapes(features, columns)


def source_column(source: str) -> str:
    """Return the name of the column with the predictions of a source."""
    return f"source.{source}"


def outside_column(source: str) -> str:
    """Return the name of the column that is 1 for networks outside the fitted range of a source."""
    return f"outside.{source}"


def joined(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several groups of networks; a column that a group lacks is 0."""
    names = {
        what: tuple(dict.fromkeys(name for part in parts for name in getattr(part, f"{what}_names")))
        for what in ("cost", "shape", "count")
    }
    return Features(
        cost_names=names["cost"],
        costs=np.concatenate([part.costs_by(names["cost"]) for part in parts]),
        shape_names=names["shape"],
        shapes=np.concatenate([part.shapes_by(names["shape"]) for part in parts]),
        count_names=names["count"],
        counts=np.concatenate([part.counts_by(names["count"]) for part in parts]),
    )


def require_finite(values: Numbers, *, names: Sequence[str]) -> None:
    """Raise InputError for the first value that is not a finite number."""
    if np.isfinite(values).all():
        return
    row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(values)))
    raise InputError(f"{names[column]} must be a finite number", got=f"{values[row, column]} in row {row}")


def _with_shapes(features: Features, columns: Mapping[str, Numbers]) -> Features:
    if not columns:
        return features
    return replace(
        features,
        shape_names=(*features.shape_names, *columns),
        shapes=np.concatenate([features.shapes, _columns(columns, len(features))], axis=1),
    )


def _columns(columns: Mapping[str, Numbers], length: int) -> Numbers:
    if not columns:
        return np.zeros((length, 0))
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])


def _aligned(have: Sequence[str], values: Numbers, want: Sequence[str]) -> Numbers:
    if tuple(want) == tuple(have):
        return values
    indices = {name: index for index, name in enumerate(have)}
    known = [(column, indices[name]) for column, name in enumerate(want) if name in indices]
    aligned = np.zeros((len(values), len(want)))
    if known:
        to, source = zip(*known, strict=True)
        aligned[:, list(to)] = values[:, list(source)]
    return aligned
