"""Results as data frames (pandas, or columns of numpy arrays without it) and as tables in notebooks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Frame: TypeAlias = Union["pd.DataFrame", dict[str, "NDArray[np.generic]"]]
"""A `pandas.DataFrame`, or a dict of arrays of equal length."""

Columns: TypeAlias = Mapping[str, Sequence[object]]
"""Values by the name of their column, one per row."""

_SHOWN_ROWS = 20
"""Rows of a longer table that a notebook shows."""


class TabularResult(ABC):
    """A result with rows, which is a data frame on request and a table in notebooks."""

    @abstractmethod
    def _columns(self) -> Columns:
        """Return the columns of the data frame."""

    def to_frame(self) -> Frame:
        """Return the rows as a data frame: a `pandas.DataFrame` if pandas is installed, else a dict of arrays."""
        return to_frame(self._columns())

    def _repr_html_(self) -> str:
        return html_table(self._columns(), title=type(self).__name__)


def to_frame(columns: Columns) -> Frame:
    """Make a data frame of columns.

    Args:
        columns: Values by the name of the column, one per row.

    Returns:
        A `pandas.DataFrame` if pandas is installed, else a dict of numpy arrays. Texts and missing values make an array
        of objects.
    """
    if find_spec("pandas") is not None:
        import pandas as pd

        return pd.DataFrame({name: list(values) for name, values in columns.items()})
    return {name: _array(values) for name, values in columns.items()}


def html_table(columns: Columns, *, title: str) -> str:
    """Make an HTML table of columns, as notebooks show it; columns of mappings are left out.

    Args:
        columns: Values by the name of the column, one per row.
        title: A line above the table.
    """
    shown = {name: values for name, values in columns.items() if not any(isinstance(item, Mapping) for item in values)}
    num_rows = len(next(iter(columns.values()), ()))
    head = "".join(f"<th>{escape(name)}</th>" for name in shown)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(values[row])}</td>' for values in shown.values())}</tr>"
        for row in range(min(num_rows, _SHOWN_ROWS))
    )
    more = f"<p>… {num_rows - _SHOWN_ROWS} more</p>" if num_rows > _SHOWN_ROWS else ""
    return f"<p>{escape(title)}</p><table><tr>{head}</tr>{rows}</table>{more}"


def _cell(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else escape("" if value is None else str(value))


def _array(values: Sequence[object]) -> "NDArray[np.generic]":
    import numpy as np

    kinds = {type(value) for value in values}
    if kinds and kinds <= {int, float, bool, np.float64, np.int64, np.bool_}:
        return np.asarray(values)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column
