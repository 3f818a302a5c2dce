"""The files of a study: the tables of the database, the lock of its writer, and the checks on opening."""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.space.arch import canonical_json

SCHEMA = "hwnas.study/2"
"""The schema of studies that this version writes and reads."""

STUDY_FILE = "study.sqlite"
STUDY_LOCK = "study.lock"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (
    id INTEGER PRIMARY KEY,
    genome BLOB NOT NULL UNIQUE,    -- little-endian int16, one per dimension
    arch_id TEXT,                   -- of candidates with an expensive value
    generation INTEGER NOT NULL
);
CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE evaluations (
    metric INTEGER NOT NULL REFERENCES metrics,
    source TEXT NOT NULL,
    candidate INTEGER NOT NULL REFERENCES candidates,
    value REAL,                     -- NULL: it could not be determined
    lower REAL,                     -- NULL, with upper: known exactly
    upper REAL,
    unix_time_s REAL NOT NULL,
    PRIMARY KEY (metric, source, candidate)
) WITHOUT ROWID;
"""


def lock_study(folder: Path) -> int:
    """Become the only writer of the study in a folder.

    Returns:
        A file descriptor; closing it releases the lock, as does the end of the process, however it ends.
    """
    import fcntl  # reading a study also works on systems without it

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / STUDY_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise InputError(f"{folder} is being written by another search", hint="wait until it has ended") from error
    return file


def create_study_file(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an empty study, under another name and then renamed, so that it is never seen without its tables."""
    temporary = folder / f".{STUDY_FILE}.tmp"
    temporary.unlink(missing_ok=True)
    connection = sqlite3.connect(temporary)
    with connection:
        connection.executescript(_TABLES)
        meta = [("schema", SCHEMA), ("config", canonical_json(config))]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.close()
    temporary.replace(folder / STUDY_FILE)


def connect(folder: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open the study in a folder, with explicit transactions."""
    path = folder / STUDY_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no study", got=f"no file {STUDY_FILE}", hint="the folder of a search")
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


def require_config(folder: Path, *, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Require that a study is resumed with the configuration that it was created with."""
    different = [
        name
        for name in sorted({*stored, *given})
        if canonical_json({"": stored.get(name)}) != canonical_json({"": given.get(name)})
    ]
    if different:
        pairs = [f"{name}: stored {shown(stored.get(name))}, given {shown(given.get(name))}" for name in different]
        hint = "use the options and versions that it was started with, or start a new run"
        raise InputError(f"{folder} holds a study of another configuration", got="; ".join(pairs), hint=hint)


def _require_schema(path: Path, connection: sqlite3.Connection) -> None:
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is not a study", got=error) from error
    schema = row[0] if row else None
    if schema != SCHEMA:
        hint = "read it with the version of hwnas that wrote it, or start a new search"
        raise InputError(f"{path} must be a study of schema {SCHEMA}", got=schema, hint=hint)
