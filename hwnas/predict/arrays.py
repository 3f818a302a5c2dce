"""Arrays in one layout, so that a model answers the same before it is stored and after it is read.

BLAS adds in another order where a matrix is in Fortran order or has strides, and the sums may differ in their last
bits. JSON gives every array back in C order, so every array that enters a product is in C order from the start. BLAS
adds in another order on another CPU too: there only `shortened` answers are the same.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_BITS = 27


def row_major(values: Any) -> Numbers:
    """The same numbers as float64 in C order; an array that is so already is not copied."""
    return np.ascontiguousarray(values, dtype=np.float64)


def shortened(values: Numbers) -> Numbers:
    """The same numbers to 27 bits, which is eight digits: what a decision is made by.

    Beyond them a CPU answers otherwise than the next one, or for a network among others otherwise than for it alone.
    """
    mantissa, exponent = np.frexp(values)
    short: Numbers = np.ldexp(np.rint(mantissa * 2**_BITS), exponent - _BITS)
    return short


class RowMajor:
    """What frozen dataclasses of numbers inherit: their arrays are `row_major`, however they were made."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, row_major(value))
