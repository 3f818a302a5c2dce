"""How a campaign goes, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

import click

from hwnas.cli.ending import duration
from hwnas.progress import CampaignProgress

_EVERY_S = 30.0
"""Between two lines where stderr is no terminal."""


class CampaignReporter:
    """Tells how far a campaign is, what failed, and how long it will take.

    With `minutes` the time that is left is that of the clock; else it follows from the networks that are done.
    """

    def __init__(self, *, minutes: float | None = None) -> None:
        self.done = 0
        self._minutes = minutes
        self._started = time.monotonic()
        self._told = self._started
        self._bar = _Bar() if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Something that is worth knowing now."""
        if self._bar is not None:
            self._bar.say(text)
        else:
            click.echo(text, err=True)

    def progress(self, state: CampaignProgress) -> None:
        """One more task is done."""
        self.done += 1
        if state.failure is not None:
            self.say(f"{state.network}: {state.failure}")
        text = self._text(state)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.show(state, text)
        elif now - self._told >= _EVERY_S or state.done == state.total:
            self._told = now
            self.say(text)

    def _text(self, state: CampaignProgress) -> str:
        failed = f", {state.failed} failed" if state.failed else ""
        return f"{state.done} of {state.total}{failed}, {duration(self._left_s(state))} left"

    def _left_s(self, state: CampaignProgress) -> float:
        if self._minutes is not None:
            return max(0.0, 60 * self._minutes - (time.monotonic() - self._started))
        return (state.total - state.done) * state.elapsed_s / state.done


class _Bar:
    """A bar of rich, made when the first task is done: before it there is nothing to show."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True, highlight=False))
        self._task = self._bars.add_task("preparing", total=None)
        self._bars.start()

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False)

    def show(self, state: CampaignProgress, text: str) -> None:
        self._bars.update(self._task, completed=state.done, total=state.total, description=text)

    def close(self) -> None:
        self._bars.stop()
