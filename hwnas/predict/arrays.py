"""Arrays with one memory layout, and rounding that hides differences between CPUs.

BLAS sums in a different order for Fortran-ordered or strided matrices, so the last bits of a product depend on the
memory layout. JSON restores every array in C order. All arrays of features and models are therefore C-contiguous from
the start, so that a loaded model predicts exactly what the fitted one did. BLAS also sums in a different order on
another CPU, which no layout prevents: decisions between networks are based on rounded values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError

Numbers = NDArray[np.float64]

_SIGNIFICANT_BITS = 27


def as_contiguous(values: Any) -> Numbers:
    """Return values as a C-contiguous float64 array, without a copy if they already are one."""
    return np.ascontiguousarray(values, dtype=np.float64)


def round_last_bits(values: Numbers) -> Numbers:
    """Round to 27 significant bits (about eight digits), the same on every CPU.

    The remaining bits of a prediction depend on the BLAS kernel and on the other rows of the batch. Scaling by powers
    of two is exact, unlike rounding to decimals, which needs a power of ten whose last bit depends on the CPU too.
    """
    mantissa, exponent = np.frexp(values)
    rounded: Numbers = np.ldexp(np.rint(mantissa * 2**_SIGNIFICANT_BITS), exponent - _SIGNIFICANT_BITS)
    return rounded


def nonnegative_least_squares(matrix: Numbers, response: Numbers) -> Numbers:
    """Return the coefficients, none of them negative, that minimise the squared error.

    Raises:
        InputError: They cannot be found, because values differ by too many orders of magnitude.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]  # a machine that only measures does not fit

    try:
        coefficients, _ = nnls(matrix, response, maxiter=100 * matrix.shape[1])
    except RuntimeError as error:
        raise InputError("measured values must be similar enough to be fitted", got=error) from error
    result: Numbers = coefficients
    return result


class ContiguousArrays:
    """Mixin of frozen dataclasses that makes all their array fields C-contiguous float64."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, as_contiguous(value))
