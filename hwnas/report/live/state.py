"""State of a run in a live view: counts, charts and the last error as plain values."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hwnas.config import to_mapping
from hwnas.errors import HwnasError
from hwnas.runs import RunError

Status = Literal["running", "finished", "stopped", "unknown"]

MAX_POINTS = 3000
"""Points of a series; of more, evenly chosen ones."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of a chart that are drawn alike."""

    name: str
    kind: Literal["line", "steps", "points"]
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    """A text for each point; empty: none has one."""
    muted: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of a run."""

    id: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """State of one run in a live view."""

    name: str
    kind: Literal["search", "campaign", "training"]
    status: Status
    sentence: str
    done: float | None
    """Share of the work, between 0 and 1; None where the amount is not known."""
    facts: tuple[tuple[str, str], ...]
    """Names and values."""
    error: RunError | None
    charts: tuple[Chart, ...]
    changed_utc: str | None
    """When the run was last written."""


class RunView(Protocol):
    """Reads the state of a run, again and again."""

    path: Path

    def read(self) -> LiveState:
        """Read the state.

        Raises:
            InputError: A file of the run cannot be read.
        """


def make_series(
    name: str,
    kind: Literal["line", "steps", "points"],
    x: Any,
    y: Any,
    *,
    labels: Sequence[str] = (),
    muted: bool = False,
) -> Series:
    """Return a series of the points that are finite; of many, evenly chosen ones and the last."""
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(across) & np.isfinite(up))
    if len(rows) > MAX_POINTS:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_POINTS).astype(np.intp)]
    return Series(
        name=name,
        kind=kind,
        x=across[rows].tolist(),
        y=up[rows].tolist(),
        labels=[labels[row] for row in rows.tolist()] if labels else (),
        muted=muted,
    )


class StateReader:
    """Reads the states of several runs, not more often than every `interval_s` seconds and a fifth of the time.

    Args:
        views: The runs.
        interval_s: Shortest time between two readings.
        clock: Seconds, increasing.
    """

    def __init__(
        self, views: Sequence[RunView], *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._views, self._interval_s, self._clock = views, interval_s, clock
        self._next_s = -math.inf
        self._states: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return the states as plain values; of a run that cannot be read, its name and the error."""
        start_s = self._clock()
        if start_s >= self._next_s:
            self._states = [to_mapping(self._state(view)) for view in self._views]
            end_s = self._clock()
            self._next_s = end_s + max(self._interval_s, 4 * (end_s - start_s))
        return self._states

    def _state(self, view: RunView) -> LiveState:
        try:
            return view.read()
        except HwnasError as error:
            return LiveState(
                name=view.path.resolve().name,
                kind="search",
                status="unknown",
                sentence="The run cannot be read now.",
                done=None,
                facts=(),
                error=RunError.of(error),
                charts=(),
                changed_utc=None,
            )
