from dataclasses import dataclass

import numpy as np
import pytest

from hwnas.predict.arrays import (
    ContiguousArrays,
    Numbers,
    as_contiguous,
    nonnegative_least_squares,
    nonnegative_minimum,
    round_last_bits,
)

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


@pytest.mark.parametrize("seed", range(8))
def test_the_minimum_of_the_normal_equations_is_that_of_the_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(40, 12))
    response = matrix @ np.where(rng.random(12) < 0.5, 0.0, rng.uniform(0, 3, 12)) + rng.normal(size=40)
    expected = nonnegative_least_squares(matrix, response)
    for start in (np.ones(12), np.zeros(12), expected, rng.normal(size=12)):
        found = nonnegative_minimum(matrix.T @ matrix, matrix.T @ response, start=start)
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert (found >= 0).all()


def test_a_singular_matrix_has_no_minimum() -> None:
    assert nonnegative_minimum(np.ones((3, 3)), np.ones(3), start=np.ones(3)) is None
