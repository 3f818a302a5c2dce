"""A search on disk: every candidate, its metrics, the source of each value and when it was made.

    STUDY/study.sqlite    meta · candidates · metrics · evaluations
    STUDY/study.lock      held by the one process that may write

An expensive value is committed when it is done, cheap ones a generation at a time, so a killed search leaves complete
generations.
"""

import json
import logging
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.config import parse_json, shown
from hwnas.errors import InputError
from hwnas.files import WriterLock, printable
from hwnas.metrics import Metric, parse_metric
from hwnas.search import study_files
from hwnas.search.genome_set import genome_keys
from hwnas.search.objective import Estimate, Metrics
from hwnas.space.space import AnySpace, Genomes

_log = logging.getLogger(__name__)

Source = Literal["analytic", "predicted", "supernet", "measured"]
"""The source of a value: a formula, a predictor, the shared weights, or a measurement on the device."""

SEARCHED: tuple[Source, ...] = ("analytic", "predicted", "supernet")
"""The sources that a search itself uses."""


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """The contents of a study, a row per candidate in the order of their requests."""

    genomes: Genomes
    generations: NDArray[np.intp]
    metrics: Metrics
    """A value that a candidate lacks is NaN."""


class Study:
    """An open study; only one process at a time can have it open for writing."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, lock: WriterLock | None = None) -> None:
        self.path, self.file = path, path / study_files.STUDY_FILE
        self._connection, self._lock = connection, lock
        self._metrics: dict[str, int] = dict(self._rows("SELECT name, id FROM metrics"))

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Create a study in a folder.

        Args:
            path: The folder, which must not hold a study yet.
            config: Plain values that everything in the study depends on.

        Raises:
            InputError: There is a study, another process writes it, or the folder cannot be written.
        """
        lock = WriterLock(path / study_files.STUDY_LOCK, activity="search")
        try:
            if (path / study_files.STUDY_FILE).exists():
                raise InputError(f"{path} must not hold a study yet", hint="--resume, or another folder")
            study_files.create_study_file(path, config)
            return cls(path, study_files.connect(path, "rw"), lock=lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def resume(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Open the study in a folder for writing.

        Args:
            path: The folder.
            config: Plain values that must be equal to those that the study was created with.

        Raises:
            InputError: There is no study, it is damaged, locked or of another configuration, or cannot be written.
        """
        study_files.require_study_file(path)
        lock = WriterLock(path / study_files.STUDY_LOCK, activity="search")
        try:
            study = cls(path, study_files.connect(path, "rw"), lock=lock)
            study_files.require_config(path, stored=study.config, given=config)
            _log.info("study %s resumed with %d candidates", path, len(study))
        except BaseException:
            lock.close()
            raise
        return study

    @classmethod
    def open(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Resume the study in a folder, or create one where there is none."""
        exists = (path / study_files.STUDY_FILE).exists()
        return cls.resume(path, config=config) if exists else cls.create(path, config=config)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open the study in a folder for reading, while another process may be writing it.

        Raises:
            InputError: There is no study, or it is damaged, locked or of another schema.
        """
        return cls(path, study_files.connect(path, "ro"))

    @property
    def config(self) -> dict[str, Any]:
        """The plain values that it was created with."""
        config = self.recall("config")
        if not isinstance(config, dict):
            message = f"{printable(self.file)}: meta.config must be a table of named values"
            raise InputError(message, got=shown(config))
        return config

    def recall(self, key: str) -> object:
        """Return the plain value that was stored under a key, or None."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return parse_json(rows[0][0], source=f"{printable(self.file)}: meta.{key}") if rows else None

    def recall_seconds(self, key: str) -> float:
        """Return the time that was stored under a key, or 0."""
        value = self.recall(key)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            message = f"{printable(self.file)}: meta.{key} must be a number of seconds"
            raise InputError(message, got=shown(value))
        return float(value)

    def remember(self, key: str, value: object) -> None:
        """Store a plain value under a key."""
        row = (key, json.dumps(value, allow_nan=False))
        with study_files.study_errors(self.file, "written"):
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)

    def __len__(self) -> int:
        ((count,),) = self._rows("SELECT COUNT(*) FROM candidates")
        return int(count)

    def add(self, genomes: Genomes, *, generation: int, metrics: Metrics, sources: Mapping[str, Source]) -> None:
        """Add a generation of new candidates with their cheap metrics, all or nothing.

        Raises:
            InputError: The study cannot be written, as on a full disk. It then holds what it held before.
        """
        with self._transaction():
            start = len(self)
            rows = [(start + row, key, generation) for row, key in enumerate(genome_keys(genomes))]
            self._connection.executemany("INSERT INTO candidates (id, genome, generation) VALUES (?, ?, ?)", rows)
            for name, estimate in metrics.items():
                self._insert(name, sources[name], range(start, start + len(rows)), estimate)

    def store_value(
        self, genome: Genomes, *, metric: str, value: Estimate, source: Source, arch_id: str | None = None
    ) -> None:
        """Store a value of a candidate that was added before; on return it is committed.

        Args:
            genome: Of shape (1, genes).
            metric: The text of the metric.
            value: One row.
            source: Where the value is from.
            arch_id: The id of the network, where the value is expensive.

        Raises:
            InputError: The study cannot be written, as on a full disk. It then holds what it held before.
        """
        (key,) = genome_keys(genome)
        with self._transaction():
            found = self._connection.execute("SELECT id FROM candidates WHERE genome = ?", (key,)).fetchone()
            assert found is not None, "a value of a candidate that was not added"
            if arch_id is not None:
                self._connection.execute("UPDATE candidates SET arch_id = ? WHERE id = ?", (arch_id, *found))
            self._insert(metric, source, found, value)

    def arch_ids(self) -> dict[bytes, str]:
        """Return the arch ids of candidates with an expensive value, by the key of the genome."""
        return dict(self._rows("SELECT genome, arch_id FROM candidates WHERE arch_id IS NOT NULL"))

    def evaluated_at(self) -> dict[int, float]:
        """Return when each candidate got its last value, in seconds since 1970."""
        query = "SELECT candidate, MAX(unix_time_s) FROM evaluations GROUP BY candidate"
        return {int(row): float(time_s) for row, time_s in self._rows(query) if isinstance(time_s, float)}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that at least one candidate has."""
        return tuple(self._metrics)

    def parsed_metrics(self) -> dict[str, Metric]:
        """Return the metrics that at least one candidate has, by their text.

        Raises:
            InputError: A text names no metric that is registered.
        """
        try:
            return {name: parse_metric(name) for name in self._metrics}
        except InputError as error:
            message = f"{printable(self.file)}: metrics.name must be a metric: {error.message}"
            raise InputError(message, known=error.known, hint=study_files.REMEDY) from error

    def source_of(self, metric: str) -> tuple[Source, ...]:
        """Return the sources of a metric's values."""
        query = "SELECT DISTINCT source FROM evaluations WHERE metric = ? ORDER BY source"
        return tuple(source for (source,) in self._rows(query, self._metrics.get(metric)))

    def table(
        self,
        metrics: Iterable[str] | None = None,
        *,
        sources: Sequence[Source] = SEARCHED,
        space: AnySpace | None = None,
    ) -> StudyTable:
        """Return all candidates with their metrics.

        Args:
            metrics: The metrics to read; None: all.
            sources: Of several sources of a value the first one counts.
            space: The space that every candidate must be a network of; None: any.

        Raises:
            InputError: A candidate is no network of the space, or generations are not in order.
        """
        with self._snapshot():
            rows = self._rows("SELECT genome, generation FROM candidates ORDER BY id")
            width = len(rows[0][0]) // 2 if rows else 0 if space is None else len(space.dimensions)
            genomes = np.frombuffer(b"".join(genome for genome, _ in rows), dtype="<i2").reshape(len(rows), width)
            table = StudyTable(
                genomes=genomes.astype(np.int16),
                generations=np.array([generation for _, generation in rows], dtype=np.intp),
                metrics={
                    name: self._estimate(name, sources, count=len(rows))
                    for name in (self.metrics if metrics is None else metrics)
                },
            )
        self._require_order(table)
        if space is not None:
            self._require_networks(table, space)
        return table

    def close(self) -> None:
        """Close the database and let other processes write."""
        if self._lock is not None:
            study_files.end_writing(self._connection)
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _insert(self, name: str, source: Source, candidates: Iterable[int], estimate: Estimate) -> None:
        if name not in self._metrics:
            cursor = self._connection.execute("INSERT INTO metrics (name) VALUES (?)", (name,))
            self._metrics[name] = int(cursor.lastrowid or 0)
        metric, now = self._metrics[name], time.time()
        values = zip(candidates, *(ends.tolist() for ends in _stored(estimate)), strict=True)
        rows = [(metric, source, *row, now) for row in values]
        self._connection.executemany(
            "INSERT OR REPLACE INTO evaluations (metric, source, candidate, value, lower, upper, unix_time_s) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _estimate(self, name: str, sources: Sequence[Source], *, count: int) -> Estimate:
        values = np.full((3, count), np.nan)
        query = "SELECT candidate, value, lower, upper FROM evaluations WHERE metric = ? AND source = ?"
        for source in reversed(sources):
            found = self._numbers(name, self._rows(query, self._metrics.get(name), source))
            rows = found[:, 0].astype(np.intp)
            if ((found[:, 0] < 0) | (found[:, 0] >= count) | (rows != found[:, 0])).any():
                message = f"{printable(self.file)}: evaluations.candidate must be the id of a candidate"
                raise InputError(message, got=f"an id of {name} beyond {count - 1}", hint=study_files.REMEDY)
            # The ends of an exact value are not stored.
            ends = np.where(np.isnan(found[:, 2:]), found[:, 1:2], found[:, 2:])
            values[:, rows] = np.column_stack([found[:, 1], ends]).T
        return Estimate(*values)

    def _numbers(self, name: str, rows: list[Any]) -> NDArray[np.float64]:
        """Return candidate, value, lower and upper of each evaluation of a metric."""
        message = f"{printable(self.file)}: evaluations of {printable(name)} must be numbers"
        try:
            found = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(message, got=error, hint=study_files.REMEDY) from error
        if np.isinf(found).any() or np.isnan(found[:, 0]).any():
            raise InputError(message, got="infinity, or no candidate", hint=study_files.REMEDY)
        return found

    def _require_order(self, table: StudyTable) -> None:
        steps = np.diff(table.generations, prepend=0)
        if (steps < 0).any():
            row = int(np.argmax(steps < 0))
            message = f"{printable(self.file)}: candidates.generation must not decrease"
            raise InputError(message, got=f"{table.generations[row]} in row {row}")

    def _require_networks(self, table: StudyTable, space: AnySpace) -> None:
        width = len(space.dimensions)
        if table.genomes.shape[1] != width:
            message = f"{printable(self.file)}: candidates.genome must have the {width} dimensions of {space.name}"
            raise InputError(message, got=table.genomes.shape[1])
        inside = space.contains(table.genomes)
        if not inside.all():
            row = int(np.argmin(inside))
            message = f"{printable(self.file)}: candidates.genome must be a network of {space.name}"
            raise InputError(message, got=f"{shown(table.genomes[row].tolist())} in row {row}")

    def _rows(self, query: str, *values: object) -> list[Any]:
        with study_files.study_errors(self.file, "read"):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read one state of the study, while another process may be writing it."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            self._rows("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit everything within the block, or nothing."""
        names = dict(self._metrics)
        with study_files.study_errors(self.file, "written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                self._metrics = names
                raise


def _stored(estimate: Estimate) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return value, lower and upper as they are stored: no ends where the value is exact."""
    is_exact = (estimate.lower == estimate.mean) & (estimate.upper == estimate.mean)
    lower = np.where(is_exact, None, estimate.lower)  # type: ignore[call-overload]
    upper = np.where(is_exact, None, estimate.upper)  # type: ignore[call-overload]
    return estimate.mean, lower, upper
