"""Results on stdout: one JSON document, or text and tables for people."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

_PIPE_WIDTH = 100_000
"""Columns where stdout is no terminal: wide enough that nothing is ever wrapped."""


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand to the right."""

    name: str
    numeric: bool = field(default=False, kw_only=True)


def print_json(result: object) -> None:
    """Print plain data or a dataclass as one JSON document; a NaN in it is our own error."""
    sys.stdout.write(json.dumps(_plain(result), indent=2, allow_nan=False) + "\n")


def print_line(text: str = "") -> None:
    """Print one line of text."""
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table of cells; None is a dash, and no cell is ever cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title_justify="left", title_style="bold")
    table.title = None if title is None else Text(title)
    for column in (Column(item) if isinstance(item, str) else item for item in columns):
        table.add_column(
            Text(column.name),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric,
        )
    table.show_header = any(column.header for column in table.columns)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print_line(line.rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
