from dataclasses import dataclass

import numpy as np
import pytest

from hwnas.predict.arrays import ContiguousArrays, Numbers, as_contiguous, round_last_bits

VALUES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@dataclass(frozen=True)
class Pair(ContiguousArrays):
    name: str
    values: Numbers


@pytest.mark.parametrize("values", [np.asfortranarray(VALUES), VALUES[:, ::2], VALUES[::-1], VALUES.astype(np.int32)])
def test_arrays_come_into_c_order_as_they_are(values: Numbers) -> None:
    for made in (as_contiguous(values), Pair("some", values).values):
        assert made.flags.c_contiguous
        assert made.dtype == np.float64
        np.testing.assert_array_equal(made, values)


def test_an_array_in_c_order_is_not_copied() -> None:
    assert Pair("some", VALUES).values is VALUES


def test_last_bits_are_gone_from_shortened_numbers() -> None:
    values = np.random.default_rng(0).lognormal(0, 20, 1000) * np.tile([-1.0, 1.0], 500)
    short = round_last_bits(values)
    np.testing.assert_allclose(short, values, rtol=2**-27, atol=0)
    np.testing.assert_array_equal(round_last_bits(short), short)
    for towards in (-np.inf, np.inf):
        np.testing.assert_array_equal(round_last_bits(np.nextafter(values, towards)), short)


def test_what_has_few_digits_stays_as_it_is() -> None:
    values = np.array([0.0, -1.0, 0.5, 3.0, 1e6, 2.0**-1000, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(round_last_bits(values), values)
    assert round_last_bits(np.zeros(0)).shape == (0,)
