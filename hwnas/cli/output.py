"""Results on stdout: one JSON document, or text, tables and a footer for people."""

import dataclasses
import json
import re
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO

import click

from hwnas.cli.project import in_project
from hwnas.progress import format_duration

if TYPE_CHECKING:
    from rich.table import Table

_MIN_WIDTH = 20
"""Columns of the narrowest terminal that text is broken for."""

_PIPE_WIDTH = 100_000
"""Columns where stdout is no terminal: wide enough that no line is wrapped."""

_START_TIME = "hwnas.start_time"
"""Key of the start time of a command in the metadata of its context."""


@dataclass(frozen=True)
class Column:
    """A column of a table; numeric ones are right-aligned."""

    name: str
    numeric: bool = field(default=False, kw_only=True)


def print_json(result: object) -> None:
    """Print plain data or a dataclass as one JSON document.

    Raises:
        ValueError: A number is NaN or infinite, which JSON does not have.
    """
    sys.stdout.write(json.dumps(_to_plain(result), indent=2, allow_nan=False) + "\n")


def print_line(text: str = "", *, wrap: bool = True) -> None:
    """Print one line of text, or several on a narrow terminal.

    Args:
        text: The text.
        wrap: False for a command or a layout, which must stay as it is.
    """
    sys.stdout.write((wrapped(text, sys.stdout) if wrap else text) + "\n")


def wrapped(text: str, stream: TextIO | None) -> str:
    """Break the long lines of a text at spaces, if the stream is a terminal.

    The rows below an error keep their column, and its commands (`try`) stay on one line, to be copied.
    """
    if stream is None or not stream.isatty():
        return text
    width, lines = max(_MIN_WIDTH, shutil.get_terminal_size().columns), []
    for line in text.split("\n"):
        if len(line) <= width or line.startswith("  try "):
            lines.append(line)
            continue
        row = re.match(r"  (?:got|known|costs) +| *(?:- )?", line)
        indent = " " * (row.end() if row is not None and row.end() else 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
    return "\n".join(lines)


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table without cutting cells; None becomes a dash."""
    from rich.console import Console
    from rich.measure import Measurement
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
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, highlight=False)
    # Without the limit of the terminal: rich would squeeze columns until nothing of their text is left.
    needed = Measurement.get(console, console.options.update(max_width=_PIPE_WIDTH), table).minimum
    if needed > console.width:
        _print_records(table)
        return
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print_line(line.rstrip(), wrap=False)


def _print_records(table: "Table") -> None:
    """Print a table that is wider than the terminal as a list: one line for each cell of a row."""
    if table.title is not None:
        print_line(str(table.title))
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            print_line(f"{column.header}  {cell}".strip())
        if table.show_header:
            print_line()


def note_start_time(context: click.Context) -> None:
    """Remember the time at which a command starts, for its footer."""
    context.meta[_START_TIME] = time.monotonic()


def print_footer(*next_commands: Iterable[object]) -> None:
    """Print how long the command took and the commands to run next, the best one first; empty ones are left out.

    Options that the project's file gives a command anyway are left out.
    """
    start_time = click.get_current_context().meta.get(_START_TIME)
    if start_time is not None:
        print_line(f"took {format_duration(time.monotonic() - start_time)}")
    commands = [in_project([str(word) for word in command]) for command in next_commands]
    for number, words in enumerate(words for words in commands if words):
        print_line(f"{'or' if number else 'next'}: {shlex.join(words)}", wrap=False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _to_plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
