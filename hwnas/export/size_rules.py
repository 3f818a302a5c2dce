"""From the sizes of a module to the numbers in its graph, inferred from instances of which both are known.

A number in the graph may be a constant, or an affine function of one size, or of a product, ratio, sum or difference of
two. Whatever of these agrees with all instances so far is kept; a new instance is answered only if all that is kept
says the same for it. So an answer is right as long as the true rule is one of these, however few instances there are,
and a new instance that is not answered makes the next ones easier.

Numbers of the graph that are no integers (the scale of attention) are taken for a power of a simple multiple of such an
expression, and compared no closer than their number format allows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Number = int | float
Array = NDArray[np.float64]

_EXPONENTS = (1.0, -1.0, 0.5, -0.5, 0.25, -0.25)
_MULTIPLES = (1.0, 2.0, 3.0, 4.0, 1 / 2, 1 / 3, 1 / 4)
_NEAR = 1e-6


@dataclass(frozen=True)
class _Fit:
    """All functions `(slope * expression + intercept) ** exponent` that give one number of the graph."""

    expressions: NDArray[np.intp]
    slopes: Array
    intercepts: Array
    exponent: float = 1.0

    def values(self, expressions: Array) -> Array:
        """What they say for a new instance; what cannot be is left out."""
        found = self.slopes * expressions[self.expressions] + self.intercepts
        if self.exponent != 1:
            found = found[found > 0] ** self.exponent
        return np.asarray(found)


class Rules:
    """What is known of one form of graph: sizes by name and numbers in order, of at least one instance."""

    def __init__(
        self,
        sizes: Sequence[Mapping[str, Number]],
        numbers: Sequence[Sequence[Number]],
        *,
        tolerances: Sequence[float],
    ) -> None:
        self._names = list(sizes[0])
        rows = np.array([[row[name] for name in self._names] for row in sizes], dtype=np.float64)
        self._first = rows[0]
        varying = (rows != rows[0]).any(axis=0)
        self._constant = np.flatnonzero(~varying)
        self._bases, self._members = _proportional(rows, np.flatnonzero(varying))
        expressions = np.stack([_expressions(row[self._bases]) for row in rows])
        fixed = np.isclose(expressions, expressions[0], rtol=1e-9, atol=0).all(axis=0)
        self._fixed = np.flatnonzero(fixed)
        self._expected = expressions[0, self._fixed]
        self._numbers = list(numbers[0])
        columns = {
            index: (column, tolerance)
            for index, (column, tolerance) in enumerate(zip(zip(*numbers, strict=True), tolerances, strict=True))
            if len(set(column)) > 1
        }
        usable = np.flatnonzero(~fixed)
        fits = {column: _fits(column[0], expressions, usable, tolerance=column[1]) for column in set(columns.values())}
        self._fits = {index: (fits[column], column[1]) for index, column in columns.items()}

    def answer(self, sizes: Mapping[str, Number]) -> list[Number] | None:
        """The numbers for a new instance; None if what is known leaves a choice."""
        row = np.array([sizes[name] for name in self._names], dtype=np.float64)
        expressions = self._checked(row)
        if expressions is None:
            return None
        numbers = list(self._numbers)
        known: dict[int, Number | None] = {}
        for index, (fits, tolerance) in self._fits.items():
            if id(fits) not in known:
                known[id(fits)] = _agreed(fits, expressions, tolerance, whole=isinstance(numbers[index], int))
            number = known[id(fits)]
            if number is None:
                return None
            numbers[index] = number
        return numbers

    def _checked(self, row: Array) -> Array | None:
        """The expressions for new sizes, unless something changes now that never did: nobody knows what it does."""
        if (row[self._constant] != self._first[self._constant]).any():
            return None
        for member, base in self._members:
            if not np.isclose(row[member] * self._first[base], row[base] * self._first[member], rtol=1e-9, atol=0):
                return None
        expressions = _expressions(row[self._bases])
        same = np.isclose(expressions[self._fixed], self._expected, rtol=1e-9, atol=0)
        return expressions if same.all() else None


def _proportional(rows: Array, varying: NDArray[np.intp]) -> tuple[list[int], list[tuple[int, int]]]:
    """One size of each group that were always proportional; and all others of a group, each with that one."""
    bases: list[int] = []
    members: list[tuple[int, int]] = []
    for column in varying.tolist():
        base = next((base for base in bases if _are_proportional(rows[:, column], rows[:, base])), None)
        if base is None:
            bases.append(column)
        else:
            members.append((column, base))
    return bases, members


def _are_proportional(one: Array, other: Array) -> bool:
    return bool(np.isclose(one * other[0], other * one[0], rtol=1e-9, atol=0).all() and one[0] and other[0])


def _expressions(bases: Array) -> Array:
    """Sizes, and their products, ratios, sums and differences; a ratio to 0 is 0."""
    one, other = np.triu_indices(len(bases), k=1)
    left, right = bases[one], bases[other]
    parts = (bases, bases**2, left * right, _ratio(left, right), _ratio(right, left), left + right, left - right)
    return np.concatenate(parts)


def _ratio(left: Array, right: Array) -> Array:
    return np.divide(left, right, out=np.zeros_like(left), where=right != 0)


def _fits(column: Sequence[Number], expressions: Array, usable: NDArray[np.intp], *, tolerance: float) -> list[_Fit]:
    """Whatever gives a column of numbers that are not all equal."""
    values = np.array(column, dtype=np.float64)
    if all(isinstance(number, int) for number in column):
        return [_affine(values, expressions, usable)]
    return [_power(values, expressions, usable, exponent, tolerance) for exponent in _EXPONENTS]


def _affine(values: Array, expressions: Array, usable: NDArray[np.intp]) -> _Fit:
    """The affine functions of one expression each that go through all values."""
    table = expressions[:, usable]
    low, high = table.argmin(axis=0), table.argmax(axis=0)
    each = np.arange(len(usable))
    slopes = (values[high] - values[low]) / (table[high, each] - table[low, each])
    intercepts = values[low] - slopes * table[low, each]
    off = np.abs(slopes * table + intercepts - values[:, None])
    good = (off <= _NEAR * np.maximum(1, np.abs(values))[:, None]).all(axis=0)
    return _Fit(usable[good], slopes[good], intercepts[good])


def _power(values: Array, expressions: Array, usable: NDArray[np.intp], exponent: float, tolerance: float) -> _Fit:
    """The multiples of one expression each that give all values by this exponent."""
    usable = usable[(expressions[:, usable] > 0).all(axis=0)]
    scaled = expressions[:, usable, None] * np.array(_MULTIPLES)
    good = np.isclose(scaled**exponent, values[:, None, None], rtol=tolerance, atol=0).all(axis=0)
    which, multiple = np.nonzero(good)
    return _Fit(usable[which], np.array(_MULTIPLES)[multiple], np.zeros(len(which)), exponent)


def _agreed(fits: Sequence[_Fit], expressions: Array, tolerance: float, *, whole: bool) -> Number | None:
    """The number that all fits give, if there is one."""
    values = np.concatenate([np.empty(0), *(fit.values(expressions) for fit in fits)])
    if whole:
        values = np.round(values)[np.abs(values - np.round(values)) <= _NEAR * np.maximum(1, np.abs(values))]
    if not len(values) or not np.isclose(values, values[0], rtol=tolerance, atol=0).all():
        return None
    return round(float(values[0])) if whole else float(values[0])
