"""Infer the numbers of a graph from the sizes of a module, given instances of which both are known.

Example: a block with 3 heads and width 192 was exported, then one with 4 heads and width 256. In their graphs one
number was 3 and 4, another 9 and 12, a third 64 in both. The first may be the number of heads, the second three times
that or an affine function of the width; the third may be a constant or the ratio of width and heads.

A rule for a number is an affine function of an expression: a size, its square, or a product, ratio, sum or difference
of two sizes. All rules that agree with every known instance are kept. For a new module a number is inferred only if all
its rules give the same result; otherwise the module must be exported, and the new instance rules some of them out. So
an inferred number is right if its true rule has one of these forms, whatever the number of instances.

Real numbers of a graph (the scale of attention, 1 / sqrt(head_dim)) follow another form: a simple multiple of an
expression to the power of 1, 1/2 or 1/4, or the inverse of that. They are compared within the tolerance of their type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Number = int | float
Array = NDArray[np.float64]

_EXPONENTS = (1.0, -1.0, 0.5, -0.5, 0.25, -0.25)
_MULTIPLES = (1.0, 2.0, 3.0, 4.0, 1 / 2, 1 / 3, 1 / 4)

# Relative tolerances of float64 arithmetic on integers: generous for the solution of two equations, which divides by a
# difference, and tight for expressions that are compared as they are.
_SOLVED = 1e-6
_EQUAL = 1e-9


@dataclass(frozen=True)
class _RuleSet:
    """The rules `(slope * expression + intercept) ** exponent` that give one number of the graph, one per row."""

    expressions: NDArray[np.intp]
    slopes: Array
    intercepts: Array
    exponent: float = 1.0

    def predictions(self, expressions: Array) -> Array:
        """Return the results for a new module, without those that are no real numbers."""
        values = self.slopes * expressions[self.expressions] + self.intercepts
        if self.exponent != 1:
            values = values[values > 0] ** self.exponent
        return np.asarray(values)


class SizeRules:
    """Rules from the sizes of a module to the numbers in its graph, for graphs of one template."""

    def __init__(
        self,
        sizes: Sequence[Mapping[str, Number]],
        numbers: Sequence[Sequence[Number]],
        *,
        tolerances: Sequence[float],
    ) -> None:
        """Find all rules that agree with the known instances.

        Args:
            sizes: The named sizes of each instance; there is at least one.
            numbers: The numbers in the graph of each instance, in the order of the template.
            tolerances: Relative tolerance of each number.
        """
        self._names = list(sizes[0])
        rows = np.array([[row[name] for name in self._names] for row in sizes], dtype=np.float64)
        self._first = rows[0]
        varies = (rows != rows[0]).any(axis=0)
        self._constant = np.flatnonzero(~varies)
        self._bases, self._followers = _proportional_groups(rows, np.flatnonzero(varies))
        expressions = np.stack([_expressions(row[self._bases]) for row in rows])
        is_fixed = np.isclose(expressions, expressions[0], rtol=_EQUAL, atol=0).all(axis=0)
        self._fixed = np.flatnonzero(is_fixed)
        self._fixed_values = expressions[0, self._fixed]
        self._numbers = list(numbers[0])
        usable = np.flatnonzero(~is_fixed)
        columns = list(zip(zip(*numbers, strict=True), tolerances, strict=True))
        varying = {index: column for index, column in enumerate(columns) if len(set(column[0])) > 1}
        # Many numbers of a graph are copies of one another: equal columns share their rules.
        rules = {column: _find_rules(*column, expressions, usable) for column in set(varying.values())}
        self._rules = {index: (rules[column], column[1]) for index, column in varying.items()}

    def infer(self, sizes: Mapping[str, Number]) -> list[Number] | None:
        """Return the numbers in the graph of a module with these sizes; None if the rules do not determine them."""
        row = np.array([sizes[name] for name in self._names], dtype=np.float64)
        expressions = self._evaluate(row)
        if expressions is None:
            return None
        numbers = list(self._numbers)
        inferred: dict[int, Number | None] = {}
        for index, (rules, tolerance) in self._rules.items():
            if id(rules) not in inferred:
                is_integer = isinstance(numbers[index], int)
                inferred[id(rules)] = _consensus(rules, expressions, tolerance, is_integer=is_integer)
            number = inferred[id(rules)]
            if number is None:
                return None
            numbers[index] = number
        return numbers

    def _evaluate(self, row: Array) -> Array | None:
        """Return the expressions of a new module, or None if one changes now that was the same in all instances.

        No instance shows how the graph depends on such an expression: a number that was constant may be a function of
        it.
        """
        if (row[self._constant] != self._first[self._constant]).any():
            return None
        for follower, base in self._followers:
            left, right = row[follower] * self._first[base], row[base] * self._first[follower]
            if not np.isclose(left, right, rtol=_EQUAL, atol=0):
                return None
        expressions = _expressions(row[self._bases])
        unchanged = np.isclose(expressions[self._fixed], self._fixed_values, rtol=_EQUAL, atol=0)
        return expressions if unchanged.all() else None


def _proportional_groups(rows: Array, varying: NDArray[np.intp]) -> tuple[list[int], list[tuple[int, int]]]:
    """Group the sizes that are proportional in all instances.

    One size stands for its group in the expressions, whose number grows with the square of the number of sizes.

    Returns:
        The first size of each group, and all others, each with the first of its group.
    """
    bases: list[int] = []
    followers: list[tuple[int, int]] = []
    for column in varying.tolist():
        base = next((base for base in bases if _are_proportional(rows[:, column], rows[:, base])), None)
        if base is None:
            bases.append(column)
        else:
            followers.append((column, base))
    return bases, followers


def _are_proportional(left: Array, right: Array) -> bool:
    # Cross products in place of ratios: sizes may be 0.
    return bool(np.isclose(left * right[0], right * left[0], rtol=_EQUAL, atol=0).all() and left[0] and right[0])


def _expressions(bases: Array) -> Array:
    """Return the sizes, their squares, and the products, ratios, sums and differences of all pairs."""
    first, second = np.triu_indices(len(bases), k=1)
    left, right = bases[first], bases[second]
    parts = (bases, bases**2, left * right, _ratio(left, right), _ratio(right, left), left + right, left - right)
    return np.concatenate(parts)


def _ratio(left: Array, right: Array) -> Array:
    """Divide, with 0 as the result of a division by 0."""
    return np.divide(left, right, out=np.zeros_like(left), where=right != 0)


def _find_rules(
    column: Sequence[Number], tolerance: float, expressions: Array, usable: NDArray[np.intp]
) -> list[_RuleSet]:
    """Return all rules for the values of one number, which are not all equal, in the known instances."""
    values = np.array(column, dtype=np.float64)
    if all(isinstance(number, int) for number in column):
        return [_affine_rules(values, expressions, usable)]
    return [_power_rules(values, expressions, usable, exponent, tolerance) for exponent in _EXPONENTS]


def _affine_rules(values: Array, expressions: Array, usable: NDArray[np.intp]) -> _RuleSet:
    """Return the affine functions of one expression each that pass through all values."""
    table = expressions[:, usable]
    # The line through the two instances that are farthest apart must pass through the others.
    low, high = table.argmin(axis=0), table.argmax(axis=0)
    columns = np.arange(len(usable))
    slopes = (values[high] - values[low]) / (table[high, columns] - table[low, columns])
    intercepts = values[low] - slopes * table[low, columns]
    errors = np.abs(slopes * table + intercepts - values[:, None])
    fits = (errors <= _SOLVED * np.maximum(1, np.abs(values))[:, None]).all(axis=0)
    return _RuleSet(usable[fits], slopes[fits], intercepts[fits])


def _power_rules(
    values: Array, expressions: Array, usable: NDArray[np.intp], exponent: float, tolerance: float
) -> _RuleSet:
    """Return the multiples of one expression each that give all values when raised to the exponent."""
    usable = usable[(expressions[:, usable] > 0).all(axis=0)]
    multiples = np.array(_MULTIPLES)
    scaled = expressions[:, usable, None] * multiples
    fits = np.isclose(scaled**exponent, values[:, None, None], rtol=tolerance, atol=0).all(axis=0)
    rows, columns = np.nonzero(fits)
    return _RuleSet(usable[rows], multiples[columns], np.zeros(len(rows)), exponent)


def _consensus(rules: Sequence[_RuleSet], expressions: Array, tolerance: float, *, is_integer: bool) -> Number | None:
    """Return the number that all rules give, or None if they differ."""
    values = np.concatenate([np.empty(0), *(group.predictions(expressions) for group in rules)])
    if is_integer:
        # A rule that gives a fraction for these sizes cannot be the true one.
        integers = np.round(values)
        values = integers[np.abs(values - integers) <= _SOLVED * np.maximum(1, np.abs(values))]
    if not len(values) or not np.isclose(values, values[0], rtol=tolerance, atol=0).all():
        return None
    return round(float(values[0])) if is_integer else float(values[0])
