"""Messages and progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

import click

from hwnas.cli.logs import CommandLog
from hwnas.cli.output import wrapped
from hwnas.metrics import parse_metric
from hwnas.progress import (
    CampaignProgress,
    EvaluationProgress,
    ProgressEvent,
    SearchProgress,
    StageStarted,
    TrainingProgress,
    format_duration,
)

_INTERVAL_S = 10.0
"""Between two lines where stderr is no terminal, and in a log file; work without news says so after it."""

_PULSE_S = 1.0
"""Between two looks at whether there is news."""

_log = logging.getLogger(__name__)


class ProgressState(NamedTuple):
    """Displayed form of a progress event."""

    activity: str
    """Events of one activity share a bar, and the time between their lines."""
    text: str
    done: int
    total: int | None = None
    is_last: bool = False


class ConsoleReporter:
    """Shows messages and the progress of campaigns, searches, evaluations and trainings on stderr, and logs them.

    Args:
        quiet: Only log.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._started_s = time.monotonic()
        self._line_s = 0.0
        self._activity = ""
        self._search: SearchProgress | None = None
        self._num_evaluated = 0
        self._steps: deque[TrainingProgress] = deque()
        self._step_costs = 0.0
        self._is_terminal = sys.stderr.isatty() and not quiet
        self._bar: _Bar | None = None
        self._news, self._news_s, self._pulse_s = "", 0.0, 0.0
        self._pulse: _Pulse | None = None

    def __enter__(self) -> Self:
        if not self._quiet:
            self._pulse = _Pulse(self.show_pulse)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        self._close_bar()

    def show_pulse(self) -> None:
        """Say that work goes on, if that has not been said for a while."""
        now = time.monotonic()
        if not self._news or now - max(self._news_s, self._pulse_s) < _INTERVAL_S:
            return
        self._pulse_s = now
        text = f"{self._news} ({format_duration(now - self._news_s)} ago)"
        bar = self._bar
        if bar is not None:
            bar.describe(text)
        else:
            click.echo(wrapped(text, sys.stderr), err=True)

    def _note_news(self, text: str) -> None:
        self._news, self._news_s = text, time.monotonic()

    def message(self, text: str) -> None:
        """Print a message, above the bar if there is one."""
        self._note_news(text)
        _log.info("%s", text)
        if self._bar is not None:
            self._bar.message(text)
        elif not self._quiet:
            click.echo(wrapped(text, sys.stderr), err=True)

    def update(self, event: ProgressEvent) -> None:
        """Show an event."""
        if isinstance(event, StageStarted):
            self._start_stage(event)
            return
        if isinstance(event, CampaignProgress) and event.failure is not None:
            self.message(f"{event.network}: {event.failure}")
        state = self._state(event)
        self._note_news(state.text)
        if self._is_terminal:
            if self._bar is None:
                self._bar = _Bar()
            self._bar.show(state)
            if state.is_last:
                self._close_bar()
        if state.is_last or state.activity != self._activity or time.monotonic() - self._line_s >= _INTERVAL_S:
            self._activity, self._line_s = state.activity, time.monotonic()
            _log.info("%s", state.text)
            if not (self._is_terminal or self._quiet):
                click.echo(state.text, err=True)

    def _start_stage(self, event: StageStarted) -> None:
        self._close_bar()
        self._activity, self._search = "", None
        elapsed_s = time.monotonic() - self._started_s
        text = f"{event.number}/{event.total} {event.title} ({elapsed_s:.0f} s so far)"
        self._note_news(text)
        _log.info("%s", text)
        if not self._quiet:
            click.secho(text, err=True, bold=self._is_terminal)

    def _state(self, event: ProgressEvent) -> ProgressState:
        """The state of an event; evaluations between two generations belong to their search."""
        if isinstance(event, SearchProgress):
            self._search, self._num_evaluated = event, 0
        if isinstance(event, TrainingProgress):
            return progress_state(replace(event, images_per_s=self._recent_speed(event)))
        if not isinstance(event, EvaluationProgress) or event.total is not None:
            return progress_state(event)
        self._num_evaluated += 1
        networks = "1 network" if self._num_evaluated == 1 else f"{self._num_evaluated} networks"
        if self._search is None:
            return ProgressState("search", f"first generation, {networks} evaluated", self._num_evaluated)
        state = progress_state(self._search)
        text = f"{state.text}; {networks} of the next evaluated"
        return state._replace(text=text, done=state.done + self._num_evaluated, is_last=False)

    def _recent_speed(self, event: TrainingProgress) -> float:
        """Return the mean speed of the steps since about the last line: that of one step jumps."""
        if self._steps and event.step <= self._steps[-1].step:  # another training
            self._steps.clear()
            self._step_costs = 0.0
        self._steps.append(event)
        self._step_costs += 1 / event.images_per_s
        while event.elapsed_s - self._steps[0].elapsed_s > _INTERVAL_S:
            self._step_costs -= 1 / self._steps.popleft().images_per_s
        return len(self._steps) / self._step_costs  # steps have equal numbers of images

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar:
    """A bar of rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, highlight=False)
        # Results on stdout must not pass through the console of stderr.
        self._bars = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=console,
            redirect_stdout=False,
        )
        self._task = self._bars.add_task("", total=None)
        self._bars.start()

    def message(self, text: str) -> None:
        self._bars.console.print(text, markup=False, soft_wrap=True)

    def show(self, state: ProgressState) -> None:
        self._bars.update(self._task, completed=state.done or 0, total=state.total, description=state.text)

    def describe(self, text: str) -> None:
        self._bars.update(self._task, description=text)

    def close(self) -> None:
        self._bars.stop()


class _Pulse:
    """Calls a function every second, on a thread of its own, until it is closed."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat, self._closed = beat, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(_PULSE_S):
            self._beat()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


def console_reporter() -> ConsoleReporter:
    """Return the reporter of the running command, which obeys `--quiet`."""
    log = click.get_current_context().find_object(CommandLog)
    return ConsoleReporter(quiet=log is not None and log.quiet)


def progress_state(event: ProgressEvent) -> ProgressState:
    """The text of an event, and how much of the work is done."""
    match event:
        case CampaignProgress():
            return ProgressState("campaign", _campaign_text(event), event.done, event.total, event.done == event.total)
        case SearchProgress():
            is_last = event.evaluations == event.max_evaluations
            return ProgressState("search", _search_text(event), event.evaluations, event.max_evaluations, is_last)
        case TrainingProgress():
            is_last = event.step == event.total_steps
            left_s = event.elapsed_s / max(event.step - event.first_step, 1) * (event.total_steps - event.step)
            text = f"epoch {event.epoch + 1} of {event.total_epochs}, {format_duration(left_s)} left, "
            text += f"loss {event.loss:.4f}, {event.images_per_s:,.0f} images/s"
            return ProgressState("training", text, event.step, event.total_steps, is_last)
        case EvaluationProgress():
            total = "" if event.total is None else f" of {event.total:,}"
            text = f"{event.done:,}{total} networks evaluated"
            if event.images and event.num_images is not None:
                text += f", {event.images:,} of {event.num_images:,} images"
            return ProgressState("evaluation", text, event.done, event.total, event.done == event.total)
        case StageStarted():
            return ProgressState("stage", event.title, event.number, event.total)


def _campaign_text(event: CampaignProgress) -> str:
    failed = f", {event.failed} failed" if event.failed else ""
    place = f" on {event.device}" if event.device else ""
    if event.done == event.total:
        return f"{event.total} of {event.total} measured{place}{failed}"
    text, left_s = f"measuring {event.done + 1} of {event.total}{place}{failed}", event.left_s
    if left_s is None and event.done:
        left_s = (event.total - event.done) * event.elapsed_s / event.done
    if left_s is not None:
        return f"{text}, {format_duration(left_s)} left"
    if event.between_s is None:
        return f"{text}, the time is known after the first"
    shortest, longest = map(format_duration, event.between_s)
    return f"{text}, estimated {shortest if shortest == longest else f'{shortest} to {longest}'}"


def _search_text(event: SearchProgress) -> str:
    total = "" if event.max_evaluations is None else f" of {event.max_evaluations:,}"
    parts = [f"generation {event.generation}", f"{event.evaluations:,}{total} evaluations"]
    left_s = _search_left_s(event)
    if left_s is not None:
        parts.append(f"{format_duration(left_s)} left")
    if event.hypervolume is not None:
        parts.append(f"hypervolume {event.hypervolume:.4f}")
    best = ", ".join(_best_text(name, value) for name, value in event.best.items())
    parts.append(f"best {best}" if best else "no feasible network yet")
    return ", ".join(parts)


def _best_text(name: str, value: float) -> str:
    metric = parse_metric(name)
    return f"{metric.name} {value:.2%}" if metric.quantity.is_share else f"{metric.name} {value:.4g}"


def _search_left_s(event: SearchProgress) -> float | None:
    """By the evaluations or by the clock, whichever ends first; None while nothing is known."""
    ends = []
    if event.max_evaluations is not None and event.evaluations:
        ends.append(event.elapsed_s * (event.max_evaluations - event.evaluations) / event.evaluations)
    if event.max_minutes is not None:
        ends.append(max(60 * event.max_minutes - event.elapsed_s, 0.0))
    return min(ends) if ends else None
