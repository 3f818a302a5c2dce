"""Scales of numbers in 8 bits, which graphs and the networks that stand for them in torch must have in common."""

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
"""Largest value in int8. -128 is left out, so that the range is symmetric."""
SMALLEST_BOUND = 1e-6
"""The bound of a tensor of zeros, whose scale must not be 0."""
FP8_LARGEST = 448.0
FP8_SMALLEST_SIZE = 16
"""Fewest rows and columns of a weight matrix in fp8."""
_SMALLEST_HALF_SCALE = 2.0**-14
"""The smallest normal number of float16. Smaller ranges fill fewer of the 8 bits."""


def int8_scale(bound: float) -> np.float32:
    """Return the scale of activations with a bound in int8."""
    return np.float32(max(bound, SMALLEST_BOUND) / LEVELS)


def fp8_scale(bound: float) -> np.float32:
    """Return the scale of a tensor in fp8, a number that float16 represents."""
    return np.float32(half_scale(bound / FP8_LARGEST))


def half_scale(scale: NDArray[np.float32] | float) -> NDArray[np.float16]:
    """Return scales as float16 holds them."""
    return np.maximum(scale, _SMALLEST_HALF_SCALE).astype(np.float16)
