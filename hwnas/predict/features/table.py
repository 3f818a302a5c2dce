"""Features of networks as columns with names: what every model of this package reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import ContiguousArrays, Numbers

_COUNTED = ("calls.", "runs")


@dataclass(frozen=True, kw_only=True)
class Features(ContiguousArrays):
    """Costs, which are not negative and add up to a latency, and shapes, which say what the network is like.

    `counts` is how often each distinct block stands in each network; it may have no columns.
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
        """The features of some of the networks, by their numbers or a mask."""
        return Features(
            cost_names=self.cost_names,
            costs=self.costs[rows],  # type: ignore[call-overload]
            shape_names=self.shape_names,
            shapes=self.shapes[rows],  # type: ignore[call-overload]
            count_names=self.count_names,
            counts=self.counts[rows],  # type: ignore[call-overload]
        )

    def total(self, names: Sequence[str] | None = None) -> Numbers:
        """The sum of the costs that are times, above 0; calls and runs are counts."""
        wanted = self.cost_names if names is None else tuple(names)
        timed = [name for name in wanted if not name.startswith(_COUNTED)] or list(wanted)
        total: Numbers = np.maximum(self.costs_by(timed).sum(axis=1), 1e-12)
        return total

    def costs_by(self, names: Sequence[str]) -> Numbers:
        """The costs in another order of names; one that these networks lack is 0."""
        return _aligned(self.cost_names, self.costs, names)

    def shapes_by(self, names: Sequence[str]) -> Numbers:
        """The shapes in another order of names; one that these networks lack is 0."""
        return _aligned(self.shape_names, self.shapes, names)

    def counts_by(self, names: Sequence[str]) -> Numbers:
        """The counts in another order of names; a block that these networks lack is 0."""
        return _aligned(self.count_names, self.counts, names)


def features_of(
    costs: Mapping[str, Numbers], shapes: Mapping[str, Numbers] | None = None, *, rows: int | None = None
) -> Features:
    """Features from columns by name."""
    shapes = shapes or {}
    length = rows if rows is not None else len(next(iter(costs.values())))
    return Features(
        cost_names=tuple(costs),
        costs=_columns(costs, length),
        shape_names=tuple(shapes),
        shapes=_columns(shapes, length),
        counts=np.zeros((length, 0)),
    )


def with_answers(features: Features, answers: Mapping[str, Numbers]) -> Features:
    """The features with what other devices' models say of these networks: the logarithms, among the shapes."""
    if not answers:
        return features
    columns = np.column_stack([np.log(values) for values in answers.values()])
    return replace(
        features,
        shape_names=(*features.shape_names, *map(answer_name, answers)),
        shapes=np.concatenate([features.shapes, columns], axis=1),
    )


def answer_name(source: str) -> str:
    """The column of a source's answers."""
    return f"source.{source}"


def joined(parts: Sequence[Features]) -> Features:
    """The features of several groups of networks below each other; a column that a group lacks is 0."""
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
    """Every figure must be a number; the first that is not is named."""
    if np.isfinite(values).all():
        return
    row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(values)))
    raise InputError(f"{names[column]} must be a finite number", got=f"{values[row, column]} in row {row}")


def _columns(columns: Mapping[str, Numbers], length: int) -> Numbers:
    if not columns:
        return np.zeros((length, 0))
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])


def _aligned(have: Sequence[str], values: Numbers, want: Sequence[str]) -> Numbers:
    if tuple(want) == tuple(have):
        return values
    place = {name: index for index, name in enumerate(have)}
    known = [(column, place[name]) for column, name in enumerate(want) if name in place]
    aligned = np.zeros((len(values), len(want)))
    if known:
        to, source = zip(*known, strict=True)
        aligned[:, list(to)] = values[:, list(source)]
    return aligned
