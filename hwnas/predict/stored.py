"""Strict reading of stored predictors: values with types, bounds and shapes.

A predictor may come from elsewhere, and its digests only show that it was not changed by accident. All values are
checked when they are read, so that neither numpy nor XGBoost sees an index or a shape that it cannot handle, and an
error names the field.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.config import shown
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, printable, read_text, require_regular
from hwnas.predict.arrays import Numbers

MAX_NUMBER = 1e100
"""Largest magnitude of a number of a model: products of three do not overflow."""

MAX_ITEMS = 10_000
"""Largest number of trees or points in one model."""

MAX_NAMES = 2000
"""Largest number of names in one list: a matrix of as many columns is made for each population."""

_MAX_BYTES = 32 * 2**20
_MAX_NAME = 300
_NUMERIC = {int, float}


def read_stored(path: Path) -> str:
    """Read the text of a file of a predictor; raise InputError if it is too large or cannot be read."""
    require_regular(path)
    with file_errors(path):
        size = path.stat().st_size
    if size > _MAX_BYTES:
        raise InputError(f"{printable(path)} must have at most {_MAX_BYTES} bytes", got=size)
    return read_text(path)


class StoredTable:
    """Typed access to the values of a JSON object.

    Args:
        data: The object.
        where: What it is and where it is from, for error messages.

    Raises:
        InputError: By all methods, if a value is missing or not valid.
    """

    def __init__(self, data: object, *, where: str = "model") -> None:
        if not isinstance(data, Mapping):
            raise InputError(f"{where} must be a table of named values", got=shown(data))
        self._data: Mapping[str, Any] = data
        self.where = where

    def require_keys(self, *required: str, optional: Collection[str] = ()) -> None:
        """Require that these keys are present and that there are no other ones."""
        for key in self._data:
            if key not in required and key not in optional:
                raise unknown(f"{self.where}: key", str(key)[:_MAX_NAME], [*required, *optional])
        for key in required:
            self.value(key)

    def without(self, name: str) -> "StoredTable":
        """Return the table without one key."""
        return StoredTable({key: value for key, value in self._data.items() if key != name}, where=self.where)

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def value(self, name: str) -> Any:
        """Return a value as it is."""
        if name not in self._data:
            raise InputError(f"{self.where}.{name} is missing", got=shown(list(self._data)))
        return self._data[name]

    def table(self, name: str) -> "StoredTable":
        """Return a nested table."""
        return StoredTable(self.value(name), where=f"{self.where}.{name}")

    def tables(self, name: str, *, most: int = MAX_ITEMS) -> tuple["StoredTable", ...]:
        """Return a list of nested tables, which has at least one and at most `most` items."""
        items = self.items(name, most=most)
        return tuple(StoredTable(item, where=f"{self.where}.{name}[{index}]") for index, item in enumerate(items))

    def named_tables(self, name: str) -> Iterator[tuple[str, "StoredTable"]]:
        """Yield the nested tables of a table with their names."""
        for key in self.table(name)._data:
            yield str(key), StoredTable(self._data[name][key], where=f"{self.where}.{name}.{key:.100}")

    def items(self, name: str, *, least: int = 1, most: int = MAX_ITEMS) -> list[Any]:
        """Return a list as it is."""
        items = self.value(name)
        if not isinstance(items, list) or not least <= len(items) <= most:
            got = f"a list of {len(items)}" if isinstance(items, list) else shown(items)
            raise InputError(f"{self.where}.{name} must be a list of {least} to {most} items", got=got)
        return items

    def text(self, name: str, choices: Collection[str]) -> str:
        """Return a text that is one of the choices."""
        value = self.value(name)
        if not isinstance(value, str) or value not in choices:
            raise unknown(f"{self.where}.{name}:", shown(value), choices)
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of distinct names, which may be empty."""
        items = self.items(name, least=0, most=MAX_NAMES)
        if not all(isinstance(item, str) and len(item) <= _MAX_NAME for item in items) or len(set(items)) < len(items):
            raise InputError(f"{self.where}.{name} must be a list of distinct names", got=shown(items))
        return tuple(items)

    def number(self, name: str, *, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> float:
        """Return a number within bounds."""
        value = self.value(name)
        if type(value) not in _NUMERIC or not low <= value <= high:
            raise InputError(f"{self.where}.{name} must be a number from {low:g} to {high:g}", got=shown(value))
        return float(value)

    def whole_number(self, name: str, *, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        value = self.value(name)
        if type(value) is not int or not low <= value <= high:
            raise InputError(f"{self.where}.{name} must be a whole number from {low} to {high}", got=shown(value))
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}.{name} must be true or false", got=shown(value))
        return value

    def array(self, name: str, *shape: int | None, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> Numbers:
        """Return a list of numbers, or a list of rows of them, within bounds.

        Args:
            name: Name of the value.
            shape: One or two lengths; None for a length that is not known.
            low: Least number.
            high: Largest number.
        """
        value = self.value(name)
        rows = value if len(shape) == 2 else [value]
        # Comparing the types of a row is quick, and excludes texts, which numpy would convert, as well as booleans.
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and _NUMERIC.issuperset(map(type, row)) for row in rows
        ):
            raise self._no_array(name, shape, shown(value))
        widths = {len(row) for row in rows}
        if len(widths) > 1:
            raise self._no_array(name, shape, f"rows of {min(widths)} to {max(widths)} numbers")
        found = (len(rows), *(widths or {shape[-1] or 0}))[-len(shape) :]
        if any(wanted not in (None, length) for wanted, length in zip(shape, found, strict=True)):
            raise self._no_array(name, shape, " x ".join(map(str, found)))
        try:
            array = np.array(value, dtype=np.float64).reshape(found)
        except OverflowError:  # a whole number above the largest float
            array = np.full(found, np.inf)
        if array.size and not (low <= array.min() and array.max() <= high):
            raise InputError(f"{self.where}.{name} must have numbers from {low:g} to {high:g}", got=shown(value))
        return array

    def whole_array(self, name: str, length: int | None, *, low: int, high: int) -> NDArray[np.int64]:
        """Return a list of whole numbers within bounds."""
        value = self.value(name)
        if not isinstance(value, list) or not {int}.issuperset(map(type, value)) or length not in (None, len(value)):
            wanted = "" if length is None else f"{length} "
            got = f"a list of {len(value)}" if isinstance(value, list) else shown(value)
            raise InputError(f"{self.where}.{name} must be a list of {wanted}whole numbers", got=got)
        if value and not low <= min(value) <= max(value) <= high:
            raise InputError(f"{self.where}.{name} must have whole numbers from {low} to {high}", got=shown(value))
        return np.array(value, dtype=np.int64)

    def _no_array(self, name: str, shape: tuple[int | None, ...], got: str) -> InputError:
        size = " x ".join("any" if length is None else str(length) for length in shape)
        return InputError(f"{self.where}.{name} must be a list of {size} numbers", got=got)
