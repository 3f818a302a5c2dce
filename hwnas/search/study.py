"""A search on disk: every candidate, its metrics, the source of each value and when it was made.

    STUDY/study.sqlite    meta · candidates · metrics · evaluations
    STUDY/study.lock      held by the one process that may write

An expensive value is committed when it is done, cheap ones a generation at a time, so a killed search leaves complete
generations.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.search import study_files
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.seen import keys
from hwnas.space.space import Genomes

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

    def __init__(self, path: Path, connection: sqlite3.Connection, *, lock: int = -1) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self._metrics: dict[str, int] = dict(connection.execute("SELECT name, id FROM metrics"))

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Create a study in a folder.

        Args:
            path: The folder, which must not hold a study yet.
            config: Plain values that everything in the study depends on.
        """
        lock = study_files.lock_study(path)
        try:
            if (path / study_files.STUDY_FILE).exists():
                raise InputError(f"{path} must not hold a study yet", hint="--resume, or another folder")
            study_files.create_study_file(path, config)
            return cls(path, study_files.connect(path, "rw"), lock=lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def resume(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Open the study in a folder for writing; its configuration must be equal to `config`."""
        study_files.connect(path, "ro").close()
        lock = study_files.lock_study(path)
        try:
            study = cls(path, study_files.connect(path, "rw"), lock=lock)
            study_files.require_config(path, stored=study.config, given=config)
            _log.info("study %s resumed with %d candidates", path, len(study))
        except BaseException:
            os.close(lock)
            raise
        return study

    @classmethod
    def open(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Resume the study in a folder, or create one where there is none."""
        exists = (path / study_files.STUDY_FILE).exists()
        return cls.resume(path, config=config) if exists else cls.create(path, config=config)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open the study in a folder for reading, while another process may be writing it."""
        return cls(path, study_files.connect(path, "ro"))

    @property
    def config(self) -> dict[str, Any]:
        """The plain values that it was created with."""
        config: dict[str, Any] = self.recall("config")
        return config

    def recall(self, key: str) -> Any:
        """Return the plain value that was stored under a key, or None."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else parse_json(row[0], source=str(self.path / study_files.STUDY_FILE))

    def remember(self, key: str, value: object) -> None:
        """Store a plain value under a key."""
        row = (key, json.dumps(value, allow_nan=False))
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT COUNT(*) FROM candidates").fetchone()
        return int(count)

    def add(self, genomes: Genomes, *, generation: int, metrics: Metrics, sources: Mapping[str, Source]) -> None:
        """Add a generation of new candidates with their cheap metrics, all or nothing."""
        with self._transaction():
            start = len(self)
            rows = [(start + row, key, generation) for row, key in enumerate(keys(genomes))]
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
        """
        (key,) = keys(genome)
        with self._transaction():
            found = self._connection.execute("SELECT id FROM candidates WHERE genome = ?", (key,)).fetchone()
            assert found is not None, "a value of a candidate that was not added"
            if arch_id is not None:
                self._connection.execute("UPDATE candidates SET arch_id = ? WHERE id = ?", (arch_id, *found))
            self._insert(metric, source, found, value)

    def arch_ids(self) -> dict[bytes, str]:
        """Return the arch ids of candidates with an expensive value, by the key of the genome."""
        return dict(self._connection.execute("SELECT genome, arch_id FROM candidates WHERE arch_id IS NOT NULL"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that at least one candidate has."""
        return tuple(self._metrics)

    def source_of(self, metric: str) -> tuple[Source, ...]:
        """Return the sources of a metric's values."""
        query = "SELECT DISTINCT source FROM evaluations WHERE metric = ? ORDER BY source"
        return tuple(source for (source,) in self._connection.execute(query, (self._metrics.get(metric),)))

    def table(self, metrics: Iterable[str] | None = None, *, sources: Sequence[Source] = SEARCHED) -> StudyTable:
        """Return all candidates with their metrics.

        Args:
            metrics: The metrics to read; None: all.
            sources: Of several sources of a value the first one counts.
        """
        rows = self._connection.execute("SELECT genome, generation FROM candidates ORDER BY id").fetchall()
        width = len(rows[0][0]) // 2 if rows else 0
        genomes = np.frombuffer(b"".join(genome for genome, _ in rows), dtype="<i2").reshape(len(rows), width)
        names = self.metrics if metrics is None else metrics
        return StudyTable(
            genomes=genomes.astype(np.int16),
            generations=np.array([generation for _, generation in rows], dtype=np.intp),
            metrics={name: self._estimate(name, sources, count=len(rows)) for name in names},
        )

    def close(self) -> None:
        """Close the database and let other processes write."""
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

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
            rows = self._connection.execute(query, (self._metrics.get(name), source)).fetchall()
            found = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
            # The ends of an exact value are not stored.
            ends = np.where(np.isnan(found[:, 2:]), found[:, 1:2], found[:, 2:])
            values[:, found[:, 0].astype(np.intp)] = np.column_stack([found[:, 1], ends]).T
        return Estimate(*values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit everything within the block, or nothing."""
        names = dict(self._metrics)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            self._metrics = names
            raise
        self._connection.execute("COMMIT")


def _stored(estimate: Estimate) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return value, lower and upper as they are stored: no ends where the value is exact."""
    is_exact = (estimate.lower == estimate.mean) & (estimate.upper == estimate.mean)
    lower = np.where(is_exact, None, estimate.lower)  # type: ignore[call-overload]
    upper = np.where(is_exact, None, estimate.upper)  # type: ignore[call-overload]
    return estimate.mean, lower, upper
