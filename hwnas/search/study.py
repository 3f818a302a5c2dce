"""One search on disk: every candidate, its metrics, where each value is from and when it was made.

    STUDY/study.sqlite    meta · candidates · metrics · evaluations
    STUDY/study.lock      held by the one process that may write

A dear value is committed when it is done, cheap ones a generation at a time, so what a killed search leaves is whole.
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
from hwnas.search import files
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.seen import keys
from hwnas.space.space import Genomes

_log = logging.getLogger(__name__)

Source = Literal["analytic", "predicted", "supernet", "measured"]
"""Where a value is from: a formula, a predictor, the shared weights, or the device."""

SEARCHED: tuple[Source, ...] = ("analytic", "predicted", "supernet")
"""The sources of what a search itself sees."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a study holds, a row per candidate in the order in which they were asked for."""

    genomes: Genomes
    generations: NDArray[np.intp]
    metrics: Metrics
    """A value that a candidate does not have is NaN."""


class Study:
    """An open study. Only one process has it open for writing at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, lock: int = -1) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self._metrics: dict[str, int] = dict(connection.execute("SELECT name, id FROM metrics"))

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Make a study in a folder, for plain values that say all that its result depends on."""
        lock = files.lock(path)
        try:
            if (path / files.FILE).exists():
                raise InputError(f"{path} must not hold a study yet", hint="--resume, or another folder")
            files.make(path, config)
            return cls(path, files.connect(path, "rw"), lock=lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def resume(cls, path: Path, *, config: Mapping[str, Any]) -> Self:
        """Go on with the study in a folder; one of another configuration is refused."""
        files.connect(path, "ro").close()
        lock = files.lock(path)
        try:
            study = cls(path, files.connect(path, "rw"), lock=lock)
            files.require_config(path, there=study.config, here=config)
            _log.info("study %s resumed with %d candidates", path, len(study))
        except BaseException:
            os.close(lock)
            raise
        return study

    @classmethod
    def read(cls, path: Path) -> Self:
        """The study in a folder, to look at; another process may go on writing it."""
        return cls(path, files.connect(path, "ro"))

    @property
    def config(self) -> dict[str, Any]:
        """The plain values that it was made for."""
        config: dict[str, Any] = self.recall("config")
        return config

    def recall(self, key: str) -> Any:
        """The plain value that was remembered under a name, or None."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else parse_json(row[0], source=str(self.path / files.FILE))

    def remember(self, key: str, value: object) -> None:
        """Keep a plain value under a name."""
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

    def record(
        self, genome: Genomes, *, metric: str, value: Estimate, source: Source, arch_id: str | None = None
    ) -> None:
        """Add one value of one candidate; `genome` has the shape (1, genes). When this returns, it is committed."""
        (key,) = keys(genome)
        with self._transaction():
            found = self._connection.execute("SELECT id FROM candidates WHERE genome = ?", (key,)).fetchone()
            assert found is not None, "a value of a candidate that was not added"
            if arch_id is not None:
                self._connection.execute("UPDATE candidates SET arch_id = ? WHERE id = ?", (arch_id, *found))
            self._insert(metric, source, found, value)

    def arch_ids(self) -> dict[bytes, str]:
        """The arch ids of those that were evaluated truly, by the key of the genome."""
        return dict(self._connection.execute("SELECT genome, arch_id FROM candidates WHERE arch_id IS NOT NULL"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that some candidate has."""
        return tuple(self._metrics)

    def source_of(self, metric: str) -> tuple[Source, ...]:
        """Where values of a metric are from."""
        query = "SELECT DISTINCT source FROM evaluations WHERE metric = ? ORDER BY source"
        return tuple(source for (source,) in self._connection.execute(query, (self._metrics.get(metric),)))

    def table(self, metrics: Iterable[str] | None = None, *, sources: Sequence[Source] = SEARCHED) -> Table:
        """Everything about all candidates; of several sources of a value, the first one named counts."""
        rows = self._connection.execute("SELECT genome, generation FROM candidates ORDER BY id").fetchall()
        width = len(rows[0][0]) // 2 if rows else 0
        genomes = np.frombuffer(b"".join(genome for genome, _ in rows), dtype="<i2").reshape(len(rows), width)
        names = self.metrics if metrics is None else metrics
        return Table(
            genomes=genomes.astype(np.int16),
            generations=np.array([generation for _, generation in rows], dtype=np.intp),
            metrics={name: self._estimate(name, sources, count=len(rows)) for name in names},
        )

    def close(self) -> None:
        """Let others write."""
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
        """All of what happens within it, or nothing."""
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
    """Value, lower and upper as they are stored: no ends where the value is exact."""
    known = (estimate.lower == estimate.mean) & (estimate.upper == estimate.mean)
    lower = np.where(known, None, estimate.lower)  # type: ignore[call-overload]
    upper = np.where(known, None, estimate.upper)  # type: ignore[call-overload]
    return estimate.mean, lower, upper
