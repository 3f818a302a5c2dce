"""Arrays in one layout, so that a model answers the same before it is stored and after it is read.

BLAS adds in another order where a matrix is in Fortran order or has strides, and the sums may differ in their last
bit. JSON gives every array back in C order, so every array that enters a product is in C order from the start.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def row_major(values: Any) -> Numbers:
    """The same numbers as float64 in C order; an array that is so already is not copied."""
    return np.ascontiguousarray(values, dtype=np.float64)


class RowMajor:
    """What frozen dataclasses of numbers inherit: their arrays are `row_major`, however they were made."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, row_major(value))
