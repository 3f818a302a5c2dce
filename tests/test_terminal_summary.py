"""The line of `make test` about NVIDIA's parser."""

from types import SimpleNamespace
from typing import Any

from tests.conftest import ENGINES_BUILT, GRAPHS_PARSED, GRAPHS_REFUSED, pytest_terminal_summary


def summary(*reports: SimpleNamespace) -> list[str]:
    lines: list[str] = []
    reporter: Any = SimpleNamespace(stats={"passed": list(reports), "": [object()]}, write_line=lines.append)
    pytest_terminal_summary(reporter)
    return lines


def report(*names: str, when: str = "call") -> SimpleNamespace:
    return SimpleNamespace(when=when, user_properties=[(name, 1) for name in names])


def test_graphs_and_engines_of_all_tests_are_counted_once() -> None:
    reports = [report(GRAPHS_PARSED, GRAPHS_PARSED, ENGINES_BUILT, when=when) for when in ("setup", "call", "teardown")]
    assert summary(*reports, report(GRAPHS_PARSED, GRAPHS_REFUSED)) == [
        "NVIDIA's parser took 3 of 4 graphs, and 1 engines were built (TensorRT for RTX)"
    ]


def test_without_the_library_there_is_no_line() -> None:
    assert summary(report()) == []
