"""Marks for values of parametrised tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Leave the values of a parameter, or tuples of several, to the slow run, but for those that `make test` tries."""
    found = list(values)
    missing = [value for value in fast if value not in found]
    assert not missing, missing
    return [value if value in fast else _slow(value) for value in found]


def _slow(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
