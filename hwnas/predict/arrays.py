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


def nonnegative_minimum(curvature: Numbers, slope: Numbers, *, start: Numbers) -> Numbers | None:
    """Return the minimum of x'Cx / 2 - s'x where no coefficient is negative; None if C is singular.

    The active-set method of Bro and de Jong (1997), "A fast non-negativity-constrained least squares algorithm": like
    Lawson and Hanson's, but on the normal equations, and from the positive coefficients of a similar problem.

    Args:
        curvature: Symmetric matrix C.
        slope: Vector s.
        start: Coefficients of a similar problem; those above 0 are free at first.
    """
    free = start > 0
    tolerance = 1e-10 * float(np.abs(slope).max(initial=0))
    # What the first solutions make negative is bound at once, until what remains is feasible.
    while True:
        found = _solved(curvature, slope, free)
        if found is None:
            return None
        if (found[free] > 0).all():
            break
        free &= found > 0
    for _ in range(10 * len(slope)):
        gain = np.where(free, -np.inf, slope - curvature @ found)
        best = int(np.argmax(gain))
        if gain[best] <= tolerance:
            return found
        free[best] = True
        while True:
            wanted = _solved(curvature, slope, free)
            if wanted is None:
                return None
            below = free & (wanted <= 0)
            if not below.any():
                break
            # A step towards the solution, to where the first coefficient becomes 0.
            steps = np.where(below & (found > 0), found / np.maximum(found - wanted, 1e-300), np.where(below, 0, 1))
            found = found + steps.min() * (wanted - found)
            free &= ~below | (steps > steps.min())
            found[~free] = 0
        found = wanted
    return None


def _solved(curvature: Numbers, slope: Numbers, free: NDArray[np.bool_]) -> Numbers | None:
    """Solve for the free coefficients, with 0 for the others; None if their matrix is not positive definite."""
    from scipy.linalg import lapack  # type: ignore[import-untyped]

    found = np.zeros(len(slope))
    rows = np.flatnonzero(free)
    if rows.size:
        _, solution, failed = lapack.dposv(curvature[rows[:, None], rows], slope[rows])
        if failed:
            return None
        found[rows] = solution
    return found


class ContiguousArrays:
    """Mixin of frozen dataclasses that makes all their array fields C-contiguous float64."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, as_contiguous(value))
