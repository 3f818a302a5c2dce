"""The file of a study: its tables, and the checks on opening one that may be damaged or come from elsewhere."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.files import READ_ERRORS, cannot, printable, refuse_link, require_regular
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

_LOCKED_WAIT_S = 5.0
"""Time that another program has to unlock the database."""

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNUSABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)

REMEDY = "restore a copy of it, or start a new search"

# SQLite keeps any value in any column. In each table the first wrong value is searched in one pass, by SQLite itself;
# evaluations, of which there are several for each candidate, are checked when they are read.
_WRONG_VALUES: Mapping[str, Mapping[str, str]] = {
    "meta": {
        "key": "typeof(key) != 'text'",
        "value": "typeof(value) != 'text'",
    },
    "candidates": {
        "id": "id NOT BETWEEN 0 AND (SELECT COUNT(*) FROM candidates) - 1",
        "genome": "typeof(genome) != 'blob' OR length(genome) NOT BETWEEN 2 AND 65536 OR length(genome) % 2"
        " OR length(genome) != (SELECT length(genome) FROM candidates ORDER BY id LIMIT 1)",
        "arch_id": "typeof(arch_id) NOT IN ('text', 'null') OR length(arch_id) > 100",
        "generation": "typeof(generation) != 'integer' OR generation NOT BETWEEN 0 AND 2147483647",
    },
    "metrics": {
        "name": "typeof(name) != 'text' OR length(name) > 300",
    },
}
"""By table and column, the condition under which a value is wrong."""


def create_study_file(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an empty study, under another name and then renamed, so that it is never seen without its tables.

    Raises:
        InputError: The folder cannot be written.
    """
    path, temporary = folder / STUDY_FILE, folder / f".{STUDY_FILE}.tmp"
    try:
        with study_errors(path, "written"):
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary)) as connection, connection:
                connection.executescript(_TABLES)
                meta = [("schema", SCHEMA), ("config", canonical_json(config))]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_study_file(folder: Path) -> None:
    """Require that a folder holds the file of a study, and that nothing in its place leads elsewhere.

    Raises:
        InputError: There is no such file, or it is a symbolic link, folder, pipe, socket or device.
    """
    path = folder / STUDY_FILE
    for suffix in ("", "-wal", "-shm", "-journal"):
        refuse_link(Path(f"{path}{suffix}"))
    if not path.exists():
        message = f"{printable(folder)} holds no study"
        raise InputError(message, got=f"no file {STUDY_FILE}", hint="the folder of a search")
    require_regular(path)


def connect(folder: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open the study in a folder, with explicit transactions, and check all of it.

    Raises:
        InputError: It is missing, damaged, of another schema, locked by another program, or cannot be read or written.
    """
    require_study_file(folder)
    path = folder / STUDY_FILE
    with study_errors(path, "opened"):
        connection = _open(path, mode)
        try:
            # The file may come from elsewhere: nothing in its schema is executed, and cells are checked when read.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("BEGIN")  # one state for all checks, while another process may be writing
            _require_schema(path, connection)
            _require_values(path, connection)
            connection.execute("COMMIT")
            if mode == "rw":
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


def end_writing(connection: sqlite3.Connection) -> None:
    """Put everything into the one file, so that it can be copied alone and read in a read-only folder."""
    # Refused while another process reads the study; then the files next to it stay until the next writer ends.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def study_errors(path: Path, action: str) -> Iterator[None]:
    """Turn what SQLite and the system raise about a study into an error that names it and says what to do.

    Args:
        path: The file of the study.
        action: What is being done, as in "PATH cannot be ACTION".
    """
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # without the details of the extended code
        if code in _LOCKED:
            hint = "end the program that has it open, then run the same command again"
            got = f"no access within {_LOCKED_WAIT_S:g} s"
            raise InputError(f"{printable(path)} is locked by another program", got=got, hint=hint) from error
        if code in _UNUSABLE:
            hint = "free some space, then run it again: all that was evaluated is kept, and a search can be resumed"
            if action != "written":
                hint = "copy all files of the run to a folder that can be written"
            raise InputError(f"{printable(path)} cannot be {action}", got=error, hint=hint) from error
        raise InputError(f"{printable(path)} is not a study, or it is damaged", got=error, hint=REMEDY) from error
    except READ_ERRORS as error:
        raise cannot(action, path, error) from error


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


def _open(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    _refuse_super_journal(path)
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_LOCKED_WAIT_S)
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        log = Path(f"{path}-wal")
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if mode == "rw" or code not in _UNUSABLE or (log.exists() and log.stat().st_size):
            raise
        # A study that was not closed wants files next to it, which a read-only folder does not take. Without a log, all
        # is in the one file, and no process can be writing it.
        return sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_super_journal(path: Path) -> None:
    """Refuse a rollback journal that names another file, which SQLite would delete after the rollback."""
    journal = Path(f"{path}-journal")
    if journal.exists():
        require_regular(journal)
        with journal.open("rb") as file:
            file.seek(max(journal.stat().st_size - 8, 0))
            if file.read() == bytes.fromhex("d9d505f920a163d7"):
                raise InputError(f"{printable(journal)} must not name another file", hint="remove it")


def _require_schema(path: Path, connection: sqlite3.Connection) -> None:
    """Require the tables that this version makes and nothing else, such as triggers, and pages that are in order."""
    expected, found = _schema(), _read_schema(connection)
    for name, statement in expected.items():
        if name not in found:
            message = f"{printable(path)} is not a study, or it is damaged"
            raise InputError(message, got=f"no table {name}", hint=REMEDY)
        if found[name] != statement:
            message = f"{printable(path)}: the table {name} must have the columns that hwnas makes"
            raise InputError(message, got=shown(found[name]))
        if name == "meta":
            row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            if row != (SCHEMA,):
                hint = "read it with the version of hwnas that wrote it, or start a new search"
                got = shown(row[0]) if row else "none"
                raise InputError(f"{printable(path)} must be a study of schema {SCHEMA}", got=got, hint=hint)
    others = [name for name in found if name not in expected and not name.startswith("sqlite_")]
    if others:
        raise InputError(f"{printable(path)} must hold the tables of a study only", got=shown(others[0]))
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise InputError(f"{printable(path)} is damaged", got=shown(state), hint=REMEDY)
    # Ids of candidates are checked where they are read, with the number that is wrong.
    if any(parent == "metrics" for _, _, parent, _ in connection.execute("PRAGMA foreign_key_check(evaluations)")):
        raise InputError(f"{printable(path)} is damaged", got="evaluations of a metric that is not there", hint=REMEDY)


@cache
def _schema() -> Mapping[str, str]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_TABLES)
        return _read_schema(connection)


def _read_schema(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the statements behind tables, views, triggers and indices, without comments and line breaks."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    return {str(name): " ".join(re.sub(r"--[^\n]*", "", str(sql)).split()) for name, sql in rows}


def _require_values(path: Path, connection: sqlite3.Connection) -> None:
    for table, columns in _WRONG_VALUES.items():
        cases = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in columns.items())
        query = f"SELECT CASE {cases} END AS wrong, * FROM {table} WHERE wrong IS NOT NULL LIMIT 1"
        cursor = connection.execute(query)
        row = cursor.fetchone()
        if row is not None:
            values = dict(zip((column[0] for column in cursor.description), row, strict=True))
            got = f"{shown(values[row[0]])} in the row {shown(list(row[1:2]))}"
            hint = "restore a copy of it, or start a new search"
            raise InputError(
                f"{printable(path)}: {table}.{row[0]} has a value that no search writes", got=got, hint=hint
            )
