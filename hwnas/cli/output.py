"""Results on stdout: one JSON document, or text, tables and a footer for people."""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import click

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


def print_line(text: str = "") -> None:
    """Print one line of text."""
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table without cutting cells; None becomes a dash."""
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


def note_start_time(context: click.Context) -> None:
    """Remember the time at which a command starts, for its footer."""
    context.meta[_START_TIME] = time.monotonic()


def print_footer(next_command: Iterable[object] = ()) -> None:
    """Print how long the command took and, unless it is empty, the command to run next."""
    start_time = click.get_current_context().meta.get(_START_TIME)
    if start_time is not None:
        print_line(f"took {format_duration(time.monotonic() - start_time)}")
    words = [str(word) for word in next_command]
    if words:
        print_line(f"next: {shlex.join(words)}")


def format_duration(seconds: float) -> str:
    """Format a time for people: 0.8 s, 45 s, 3 min 05 s, 2 h 10 min."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


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
