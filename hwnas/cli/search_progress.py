"""How a search goes, on stderr: a line for each generation on a terminal, one now and then elsewhere."""

import shutil
import sys
import time
from types import TracebackType
from typing import Self

import click

from hwnas.cli.ending import duration
from hwnas.cli.progress import CampaignReporter
from hwnas.metrics import parse_metric
from hwnas.progress import Reporter, SearchProgress

_EVERY_S = 10.0
"""Between two lines where stderr is no terminal."""


class SearchTeller:
    """Tells generations, evaluations, hypervolume, the best feasible values and the time that is left."""

    def __init__(self) -> None:
        self._line = sys.stderr.isatty()
        self._told = 0.0
        self._open = False
        self._judged = 0
        self._state: SearchProgress | None = None
        self._campaign: CampaignReporter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()
        self._end_campaign()

    def say(self, text: str) -> None:
        """Something that is worth knowing now."""
        self._end_line()
        self._end_campaign()
        click.echo(text, err=True)

    def searched(self, state: SearchProgress) -> None:
        """One more generation is done."""
        self._state, self._judged = state, 0
        self._show(progress_text(state), last=_is_last(state))

    def judged(self) -> None:
        """One more network was judged."""
        self._judged += 1
        before = "first generation" if self._state is None else progress_text(self._state)
        self._show(f"{before}; {self._judged} more judged", last=False)

    def campaign(self) -> Reporter:
        """Who is told how the measurements go that verify the front."""
        self._end_line()
        self._end_campaign()
        self._campaign = CampaignReporter()
        return self._campaign

    def _show(self, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if self._line:
            # A line that wraps could not be taken back.
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{text[:width]}", err=True, nl=False)
            self._open = True
        elif last or now - self._told >= _EVERY_S:
            self._told = now
            click.echo(text, err=True)

    def _end_line(self) -> None:
        if self._open:
            click.echo("", err=True)
            self._open = False

    def _end_campaign(self) -> None:
        if self._campaign is not None:
            self._campaign.__exit__(None, None, None)
            self._campaign = None


def progress_text(state: SearchProgress) -> str:
    """Where a search stands, in one line."""
    most = state.max_evaluations
    of = "" if most is None else f" of {most:,}"
    parts = [f"generation {state.generation}", f"{state.evaluations:,}{of} evaluations"]
    if state.hypervolume is not None:
        parts.append(f"hypervolume {state.hypervolume:.4f}")
    parts.append(
        "best " + ", ".join(_best(name, value) for name, value in state.best.items()) if state.best else "none yet"
    )
    left = _left_s(state)
    return ", ".join(parts) + ("" if left is None else f", {duration(left)} left")


def _best(name: str, value: float) -> str:
    metric = parse_metric(name)
    shown = f"{value:.2%}" if metric.name == "accuracy" else f"{value:.4g}"
    return f"{metric.name} {shown}"


def _left_s(state: SearchProgress) -> float | None:
    """By the evaluations or by the clock, whichever ends first; None while nothing is known."""
    ends = []
    if state.max_evaluations is not None and state.evaluations:
        ends.append(state.elapsed_s * (state.max_evaluations - state.evaluations) / state.evaluations)
    if state.max_minutes is not None:
        ends.append(max(60 * state.max_minutes - state.elapsed_s, 0.0))
    return min(ends) if ends else None


def _is_last(state: SearchProgress) -> bool:
    return state.evaluations == state.max_evaluations
