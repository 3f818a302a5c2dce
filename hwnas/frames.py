"""Results as data frames: pandas where it is installed, columns of numpy arrays elsewhere."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Frame: TypeAlias = Union["pd.DataFrame", dict[str, "NDArray[np.generic]"]]
"""A `pandas.DataFrame`, or a dict of arrays of equal length."""


def to_frame(columns: Mapping[str, Sequence[object]]) -> Frame:
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


def _array(values: Sequence[object]) -> "NDArray[np.generic]":
    import numpy as np

    kinds = {type(value) for value in values}
    if kinds and kinds <= {int, float, bool, np.float64, np.int64, np.bool_}:
        return np.asarray(values)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column
