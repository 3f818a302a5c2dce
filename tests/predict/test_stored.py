from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.stored import StoredTable, read_stored


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (None, (2,)),
        ({}, (2,)),
        ("12", (2,)),
        ([1, 2, 3], (2,)),
        ([1, "2"], (2,)),
        ([1, True], (2,)),
        ([1, None], (2,)),
        ([1, [2]], (2,)),
        ([1, 10**400], (2,)),
        ([1, float("inf")], (2,)),
        ([1, float("nan")], (2,)),
        ([1, -1e101], (2,)),
        ([[1, 2], [3]], (2, 2)),
        ([[1, 2]], (2, 2)),
        ([1, 2], (2, 2)),
        ([[1], [2]], (2,)),
        ([[], []], (2, 2)),
    ],
)
def test_what_is_no_array_of_that_shape_is_named(value: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^m\.x must"):
        StoredTable({"x": value}, where="m").array("x", *shape)


def test_arrays_have_the_lengths_that_are_not_known() -> None:
    table = StoredTable({"row": [1, 2.5], "matrix": [[1, 2, 3]], "none": [], "thin": [[], []]})
    np.testing.assert_array_equal(table.array("row", None), [1, 2.5])
    assert table.array("matrix", 1, None).shape == (1, 3)
    assert table.array("none", 0).shape == (0,)
    assert table.array("none", 0, 4).shape == (0, 4)
    assert table.array("thin", 2, 0).shape == (2, 0)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda table: table.number("text"), "text must be a number"),
        (lambda table: table.number("flag"), "flag must be a number"),
        (lambda table: table.number("huge"), "huge must be a number"),
        (lambda table: table.whole_number("half", low=0, high=9), "half must be a whole number"),
        (lambda table: table.flag("text"), "text must be true or false"),
        (lambda table: table.names("numbers"), "numbers must be a list of distinct names"),
        (lambda table: table.names("twice"), "twice must be a list of distinct names"),
        (lambda table: table.names("many"), "many must be a list of 0 to 2000 items"),
        (lambda table: table.table("text"), "text must be a table"),
        (lambda table: table.tables("numbers"), r"numbers\[0\] must be a table"),
        (lambda table: table.text("numbers", ("a",)), "numbers"),
        (lambda table: table.value("absent"), "absent is missing"),
        (lambda table: table.require_keys("text"), "key 'flag' is not known"),
    ],
)
def test_a_value_of_another_kind_is_named(read: Any, message: str) -> None:
    values = {
        "text": "a",
        "flag": True,
        "huge": 10**400,
        "half": 0.5,
        "numbers": [1, 2],
        "twice": ["a", "a"],
        "many": [str(number) for number in range(2001)],
    }
    with pytest.raises(InputError, match=message):
        read(StoredTable(values, where="m"))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="at most"):
        read_stored(tmp_path / "model.json")
