"""How a command ends for people: how long it took, and the command that comes next."""

import shlex
import time
from collections.abc import Iterable

import click

from hwnas.cli.output import print_line

_BEGAN = "hwnas.began"
"""Where the root context keeps the time at which the command began."""


def note_the_time(context: click.Context) -> None:
    """Remember that a command begins now."""
    context.meta[_BEGAN] = time.monotonic()


def print_ending(following: Iterable[object] = ()) -> None:
    """Print how long the command took, and the words of the command that comes next where there is one."""
    began = click.get_current_context().meta.get(_BEGAN)
    if began is not None:
        print_line(f"took {duration(time.monotonic() - began)}")
    words = [str(word) for word in following]
    if words:
        print_line(f"next: {shlex.join(words)}")


def duration(seconds: float) -> str:
    """A time as people say it."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
