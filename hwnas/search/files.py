"""The files of a study: its tables, who may write them, and whether they are what they should be."""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.space.arch import canonical_json

SCHEMA = "hwnas.study/2"
"""The form of a study that this version writes and reads."""

FILE = "study.sqlite"
LOCK = "study.lock"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (
    id INTEGER PRIMARY KEY,
    genome BLOB NOT NULL UNIQUE,    -- little-endian int16, one per dimension
    arch_id TEXT,                   -- of those that were evaluated truly
    generation INTEGER NOT NULL
);
CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE evaluations (
    metric INTEGER NOT NULL REFERENCES metrics,
    source TEXT NOT NULL,
    candidate INTEGER NOT NULL REFERENCES candidates,
    value REAL,                     -- NULL: it could not be had
    lower REAL,                     -- NULL, with upper: known exactly
    upper REAL,
    unix_time_s REAL NOT NULL,
    PRIMARY KEY (metric, source, candidate)
) WITHOUT ROWID;
"""


def lock(folder: Path) -> int:
    """Become the one writer of the study in a folder; the lock goes with the process, however that ends."""
    import fcntl  # reading a study works on systems that lack it

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise InputError(f"{folder} is being written by another search", hint="wait for it") from error
    return file


def make(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an empty study, aside and then renamed, so that one is never seen without its tables."""
    unready = folder / f".{FILE}.tmp"
    unready.unlink(missing_ok=True)
    connection = sqlite3.connect(unready)
    with connection:
        connection.executescript(_TABLES)
        meta = [("schema", SCHEMA), ("config", canonical_json(config))]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.close()
    unready.replace(folder / FILE)


def connect(folder: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open the study in a folder, in transactions of our own."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no study", got=f"no file {FILE}", hint="the folder of a search")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        _require_schema(path, connection)
        if mode == "rw":
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def require_config(folder: Path, *, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """A study goes on only with the configuration that it began with."""
    names = sorted({*there, *here})
    different = [
        name for name in names if canonical_json({"": there.get(name)}) != canonical_json({"": here.get(name)})
    ]
    if different:
        pairs = [f"{name}: there {shown(there.get(name))}, here {shown(here.get(name))}" for name in different]
        hint = "the options that it was begun with, or a new run"
        raise InputError(f"{folder} holds a study of another configuration", got="; ".join(pairs), hint=hint)


def _require_schema(path: Path, connection: sqlite3.Connection) -> None:
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is not a study", got=error) from error
    schema = row[0] if row else None
    if schema != SCHEMA:
        hint = "read it with the version of hwnas that wrote it"
        raise InputError(f"{path} has another form", got=schema, known=[SCHEMA], hint=hint)
