"""Views of runs that a command may be writing; nothing in the run is touched.

A search is read from its study, a campaign from its measurements, a training from its metrics. Lines that were read
once are not read again, so that looking costs a running campaign as little as possible.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import load_json
from hwnas.errors import InputError
from hwnas.files import file_errors, is_being_written, refuse_link, require_regular
from hwnas.profile.statistics import latency_median_ms
from hwnas.records.manifest import SCHEMA as PROFILE_SCHEMA
from hwnas.records.manifest import read_manifest
from hwnas.records.measurement import from_line
from hwnas.records.profile import MEASUREMENTS
from hwnas.records.store import LOCK as PROFILE_LOCK
from hwnas.report.data import MetricInfo, RunData
from hwnas.report.figures import axes_of, axis_factor, axis_title
from hwnas.report.gather import gather
from hwnas.report.live.state import Chart, LiveState, RunView, Series, Status, make_series
from hwnas.report.verdict import sentence
from hwnas.runs import LOCK, MANIFEST, Run, RunError, read_error
from hwnas.search.record import RECORD_FILE
from hwnas.search.spec import read_spec
from hwnas.search.study_files import STUDY_FILE
from hwnas.train.metrics_file import METRICS

_MAX_BYTES = 64 << 20
"""Bytes of new lines that are read at once."""

_RESULT = "result.json"
"""The file that a training writes at its end."""


def open_view(path: Path) -> RunView:
    """Return the view of a run.

    Raises:
        InputError: The folder is neither a run of a search or a training, nor a profile.
    """
    if path.is_dir() and (path / MANIFEST).is_file():
        data = load_json(path / MANIFEST)
        if isinstance(data, Mapping) and data.get("schema") == PROFILE_SCHEMA:
            return CampaignView(path)
    run = Run.open(path)
    if "objectives" in run.manifest.config:
        return SearchView(path)
    if "recipe" in run.manifest.config:
        return TrainingView(path)
    message = f"{path} must be the run of a search or a training, or a profile"
    raise InputError(message, got=f"a run of {' '.join(run.manifest.command[:2])}", hint="hwnas report --help")


class LineTail:
    """Reads the lines that were added to a file since it was last read.

    Args:
        path: The file, which need not exist yet.
        reset: Called when the file is another one, or was shortened: it is read from its beginning.
    """

    def __init__(self, path: Path, *, reset: Callable[[], None]) -> None:
        self._path, self._reset = path, reset
        self._offset, self._inode = 0, -1

    def new_lines(self) -> Iterator[bytes]:
        """Yield the complete lines that were not yielded before."""
        refuse_link(self._path)
        if not self._path.exists():
            return
        require_regular(self._path)
        with file_errors(self._path), self._path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_ino != self._inode or state.st_size < self._offset:
                self._offset, self._inode = 0, state.st_ino
                self._reset()
            file.seek(self._offset)
            block = file.read(_MAX_BYTES)
        *lines, rest = block.split(b"\n")
        self._offset += len(block) - len(rest)
        yield from lines


class SearchView:
    """State of a search. The study is read again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spec = read_spec(Run.open(path))
        self._files: tuple[object, ...] = ()
        self._data: RunData | None = None

    def read(self) -> LiveState:
        """Read the state."""
        files = tuple(map(_file_state, self._paths()))
        if self._data is None or files != self._files:
            self._files = files
            self._data = gather(self.path, evidence=False) if (self.path / STUDY_FILE).is_file() else None
        data = self._data
        return LiveState(
            name=self.path.resolve().name,
            kind="search",
            status=_status(self.path / LOCK, finished=data is not None and data.finished),
            sentence="The search has not evaluated anything yet." if data is None else sentence(data),
            done=None if data is None else self._share(data),
            facts=() if data is None else tuple(self._facts(data)),
            error=read_error(self.path),
            charts=() if data is None else tuple(_search_charts(data)),
            changed_utc=_changed(self._paths()),
        )

    def _paths(self) -> list[Path]:
        return [self.path / name for name in (STUDY_FILE, f"{STUDY_FILE}-wal", RECORD_FILE)]

    def _share(self, data: RunData) -> float | None:
        if data.finished:
            return 1.0
        budget = self._spec.budget.evaluations
        return None if not budget else min(1.0, _evaluations(data) / budget)

    def _facts(self, data: RunData) -> Iterator[tuple[str, str]]:
        budget = self._spec.budget
        yield "candidates", f"{len(data.candidates):,}"
        limit = "" if budget.evaluations is None else f" of {budget.evaluations:,}"
        yield "evaluations", f"{_evaluations(data):,}{limit}"
        if budget.minutes is not None:
            yield "minutes at most", f"{budget.minutes:g}"
        if data.history:
            yield "hypervolume", f"{data.history[-1].hypervolume:.4f}"
        yield "networks on the front", f"{len(data.front):,}"
        yield "objectives", ", ".join(metric.key for metric in data.objectives)
        yield "strategy", self._spec.strategy


class CampaignView:
    """State of a measuring campaign, from the rows of its profile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        read_manifest(path)
        self._tail = LineTail(path / MEASUREMENTS, reset=self._reset)
        self._reset()

    def read(self) -> LiveState:
        """Read the state."""
        manifest = read_manifest(self.path)
        for line in self._tail.new_lines():
            self._add(line)
        planned = manifest.sessions[-1].planned if manifest.sessions else None
        rows = len(self._latencies)
        is_done = planned is not None and rows + self._failed >= planned
        status = _status(self.path / PROFILE_LOCK, finished=False)
        return LiveState(
            name=f"{self.path.resolve().parent.name}/{self.path.resolve().name}",
            kind="campaign",
            status="finished" if is_done and status != "running" else status,
            sentence=f"{rows:,} measurements of {manifest.setting.deployment}.",
            done=None if not planned else min(1.0, (rows + self._failed) / planned),
            facts=tuple(self._facts(planned)),
            error=self._last_failure,
            charts=tuple(self._charts()),
            changed_utc=_changed([self.path / MEASUREMENTS]),
        )

    def _reset(self) -> None:
        self._latencies: list[float] = []
        self._references: list[float] = []
        self._names: list[str] = []
        self._failed, self._seconds = 0, 0.0
        self._last_failure: RunError | None = None

    def _add(self, line: bytes) -> None:
        try:
            row = from_line(line.decode("utf-8", "replace"), source=f"a line of {self.path / MEASUREMENTS}")
        except InputError as error:  # the rows behind a damaged one are shown
            self._last_failure = RunError.of(error)
            return
        self._seconds += row.duration_s
        if row.failure is not None:
            self._failed += 1
            self._last_failure = RunError(
                time_utc=row.started_utc,
                kind=row.failure.reason,
                message=f"{row.subject.arch_id or row.subject.name}: {row.failure.message}",
            )
        elif row.samples is not None and row.reference is not None:
            self._latencies.append(latency_median_ms(row.samples))
            self._references.append(latency_median_ms(row.reference))
            self._names.append(row.subject.arch_id or row.subject.name)

    def _facts(self, planned: int | None) -> Iterator[tuple[str, str]]:
        limit = "" if planned is None else f" of {planned:,}"
        yield "measured", f"{len(self._latencies):,}{limit}"
        yield "failed", f"{self._failed:,}"
        if self._latencies:
            yield "seconds for a network", f"{self._seconds / (len(self._latencies) + self._failed):.1f}"
            yield "last", f"{self._names[-1]}, {self._latencies[-1]:.3g} ms"

    def _charts(self) -> Iterator[Chart]:
        rows = np.arange(1, len(self._latencies) + 1)
        series = (
            make_series("network", "points", rows, self._latencies, labels=self._names),
            make_series("reference network", "line", rows, self._references, muted=True),
        )
        if len(rows):
            yield Chart(
                id="latency", title="Latency by order of measurement", x="measurement", y="median (ms)", series=series
            )


class TrainingView:
    """State of a training, from the metrics of its steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        config = Run.open(path).manifest.config
        recipe, changes = config.get("recipe"), config.get("epochs_changes")
        current = changes[-1] if isinstance(changes, list) and changes else recipe
        epochs = current.get("epochs") if isinstance(current, Mapping) else None
        self._epochs = epochs if isinstance(epochs, int) and epochs > 0 else None
        self._tail = LineTail(path / METRICS, reset=self._reset)
        self._reset()

    def read(self) -> LiveState:
        """Read the state."""
        for line in self._tail.new_lines():
            self._add(line)
        finished = (self.path / _RESULT).is_file()
        return LiveState(
            name=self.path.resolve().name,
            kind="training",
            status=_status(self.path / LOCK, finished=finished),
            sentence=f"{len(self._steps):,} steps of the training." if self._steps else "No step is complete yet.",
            done=1.0 if finished else self._share(),
            facts=tuple(self._facts()),
            error=read_error(self.path),
            charts=tuple(self._charts()),
            changed_utc=_changed([self.path / METRICS]),
        )

    def _reset(self) -> None:
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._last: Mapping[str, Any] = {}
        self._first_of: dict[int, int] = {}

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # as in reports, a damaged line is left out
            return
        if not isinstance(row, Mapping) or type(row.get("step")) is not int:
            return
        loss = _number(row.get("loss"))
        if loss is not None:
            self._steps.append(row["step"])
            self._losses.append(loss)
            self._rates.append(_number(row.get("lr")) or 0.0)
            self._last = row
        if type(row.get("epoch")) is int:
            self._first_of.setdefault(row["epoch"], row["step"])

    def _share(self) -> float | None:
        """Return the share of the epochs that is done: exact once the second one has begun."""
        if self._epochs is None or not self._steps:
            return None
        if 1 in self._first_of and 0 in self._first_of:
            per_epoch = max(self._first_of[1] - self._first_of[0], 1)
            return min(1.0, self._steps[-1] / (per_epoch * self._epochs))
        return None

    def _facts(self) -> Iterator[tuple[str, str]]:
        if not self._steps:
            return
        yield "step", f"{self._steps[-1]:,}"
        if type(self._last.get("epoch")) is int:
            yield "epoch", f"{self._last['epoch'] + 1}{'' if self._epochs is None else f' of {self._epochs}'}"
        yield "loss", f"{self._losses[-1]:.4f}"
        for name, text in (("lr", "learning rate"), ("images_per_s", "images/s")):
            value = _number(self._last.get(name))
            if value is not None:
                yield text, f"{value:,.4g}"

    def _charts(self) -> Iterator[Chart]:
        for name, title, values in (("loss", "Loss", self._losses), ("lr", "Learning rate", self._rates)):
            if values:
                series = (make_series(name, "line", self._steps, values),)
                yield Chart(id=name, title=title, x="step", y=title.casefold(), series=series)


def _search_charts(data: RunData) -> Iterator[Chart]:
    y, x = axes_of(data)
    yield Chart(
        id="front",
        title="Front",
        x=axis_title(x).replace("\n", ", "),
        y=axis_title(y).replace("\n", ", "),
        series=tuple(_front_series(data, x, y)),
    )
    history = data.history
    evaluations, reached = [item.evaluations for item in history], [item.hypervolume for item in history]
    series = [make_series("this search", "steps", evaluations, reached)] if history else []
    random = None if data.record is None else data.record.random_history
    if random:
        counts, values = [count for _, count, _ in random], [value for _, _, value in random]
        series.append(make_series("random search", "steps", counts, values, muted=True))
    yield Chart(id="hypervolume", title="Hypervolume", x="evaluations", y="hypervolume", series=tuple(series))


def _front_series(data: RunData, x: MetricInfo, y: MetricInfo) -> Iterator[Series]:
    candidates = data.candidates
    across, up = (candidates.metrics[metric.key].mean * axis_factor(metric) for metric in (x, y))
    dominated = candidates.feasible & ~candidates.on_front
    yield make_series("dominated", "points", across[dominated], up[dominated], muted=True)
    for name, members in (
        ("front", [member for member in data.front if not member.measured]),
        ("front, measured", [member for member in data.front if member.measured]),
    ):
        columns = [[member.value(metric.key) for member in members] for metric in (x, y)]
        values = [
            np.array(column, dtype=np.float64) * axis_factor(m) for column, m in zip(columns, (x, y), strict=True)
        ]
        if members:
            yield make_series(name, "points", *values, labels=[member.arch_id for member in members])


def _evaluations(data: RunData) -> int:
    if data.record is not None:
        return data.record.evaluations
    return data.history[-1].evaluations if data.history else 0


def _status(lock: Path, *, finished: bool) -> Status:
    if finished:
        return "finished"
    running = is_being_written(lock)
    return "unknown" if running is None else "running" if running else "stopped"


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _changed(paths: Sequence[Path]) -> str | None:
    states = [state for state in map(_file_state, paths) if state is not None]
    if not states:
        return None
    newest_s = max(mtime_ns for _, _, mtime_ns in states) / 1e9
    return datetime.fromtimestamp(newest_s, UTC).isoformat(timespec="seconds")


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and abs(value) < 1e18 else None  # type: ignore[arg-type]
