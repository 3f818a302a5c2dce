"""Arguments of public functions are checked and converted by their annotations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from hwnas.arguments import checked_arguments, conform
from hwnas.config import Between, require_valid
from hwnas.errors import InputError
from hwnas.progress import ProgressEvent, Reporter


class Thing:
    """A class of somebody."""


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (Path, "runs/a", Path("runs/a")),
        (Path | None, None, None),
        (str | Path, "a", Path("a")),
        (str | Path | Mapping[str, int], "a", "a"),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[str, int], ("a", 1), ("a", 1)),
        (Sequence[str], ("a", "b"), ["a", "b"]),
        (int, np.int64(3), 3),
        (float, 3, 3.0),
        (float, np.float32(0.5), 0.5),
        (Literal["min", "max"], "min", "min"),
        (Mapping[str, Path], {"a": "b"}, {"a": Path("b")}),
        (Callable[[int], int], abs, abs),
        (Any, object, object),
        ("Tensor", 5, 5),
        (Annotated[int, Between(1, 9)], 9, 9),
    ],
)
def test_values_that_fit_are_taken(hint: object, value: object, expected: object) -> None:
    found = conform(hint, value, where="value")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message", "got"),
    [
        (Path, 5, "value must be a path", "5"),
        (Path, "", "value must be a path", "''"),
        (Path, "a\0b", "value must be a path without the character NUL", "'a\\x00b'"),
        (Path, None, "value must be a path", "None"),
        (str | Path, 5, "value must be a path", "5"),
        (Annotated[str, Between(1, 9)], 5, "value must be a text", "5"),
        (Path, "\ud800", "value must be a path of valid characters", r"'\ud800'"),
        (Path, "a" * 256, "value must be a path of at most 4095 bytes", f"'{'a' * 76}..."),
        (Path, "a/" * 2100, "value must be a path of at most 4095 bytes", f"'{'a/' * 38}..."),
        (str, b"a", "value must be a text", "b'a'"),
        (int, "5", "value must be a whole number", "'5'"),
        (int, True, "value must be a whole number", "True"),
        (int, 2.0, "value must be a whole number", "2.0"),
        (int, 10**30, "value must be a whole number of at most 19 digits", "a larger number"),
        (float, float("nan"), "value must be a finite number", "nan"),
        (float | None, "x", "value must be a number", "'x'"),
        (bool, 1, "value must be True or False", "1"),
        (Sequence[str], "min", "value must be a list", "'min'"),
        (Sequence[str], {"a": 1}, "value must be a list", "a value of type dict"),
        (Sequence[str], ["a", 5], r"value\[1\] must be a text", "5"),
        (tuple[int, ...], 5, "value must be a list", "5"),
        (tuple[int, int], (1,), "value must have 2 values", "1"),
        (Mapping[str, int], {"a": "b"}, r"value\['a'\] must be a whole number", "'b'"),
        (Mapping[str, int], [], "value must be a mapping", "a value of type list"),
        (Thing | str, 5, "value must be Thing or a text", "5"),
        (Callable[[], int], 5, "value must be a function", "5"),
        (Literal["min", "max"], "most", "value 'most' is not known", "most"),
        (Annotated[int, Between(1, 9)], 10, "value must be between 1 and 9", "10"),
        (str, "x" * 10**7, None, None),
        (int, "x" * 10**7, "value must be a whole number", f"'{'x' * 76}..."),
    ],
)
def test_values_that_do_not_fit_name_the_argument(hint: object, value: object, message: str | None, got: str) -> None:
    if message is None:
        assert conform(hint, value, where="value") is value
        return
    with pytest.raises(InputError, match=f"^{message}") as caught:
        conform(hint, value, where="value")
    assert str(caught.value.got) == got


def test_a_function_is_called_with_converted_arguments() -> None:
    @checked_arguments
    def listed(folder: Path, names: Sequence[str] = (), *, count: int = 1) -> tuple[Path, Sequence[str], int]:
        """List."""
        return folder, names, count

    assert listed("a") == (Path("a"), (), 1)  # type: ignore[arg-type]
    assert listed(Path("a"), ["b"], count=2) == (Path("a"), ["b"], 2)
    assert listed.__doc__ == "List."
    with pytest.raises(InputError, match="count must be a whole number"):
        listed(Path("a"), count=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing a required argument"):
        listed()  # type: ignore[call-arg]


def test_fields_of_options_are_converted_and_checked() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        out: Path = Path("runs")
        names: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            require_valid(self)

    assert Options(out="a", names=["b"]) == Options(out=Path("a"), names=("b",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="names must be a list"):
        Options(names="b")  # type: ignore[arg-type]


def test_a_protocol_is_a_matter_of_its_methods() -> None:
    class Silent:
        def message(self, text: str) -> None: ...

        def update(self, event: ProgressEvent) -> None: ...

    reporter = Silent()
    assert conform(Reporter | None, reporter, where="reporter") is reporter
    with pytest.raises(InputError, match="must be an object with the methods message and update"):
        conform(Reporter | None, print, where="reporter")
