"""Published tables: results that others measured, kept unchanged along with their origin.

    TABLE/table.json    deployment, environment, source
    TABLE/table.csv     the rows of the source, unchanged

A table has no raw samples, so it is not a profile; predictors can be fitted to both.
"""

import csv
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from hwnas.config import Above, Between, FileName, UtcTime, from_mapping, load_json, require_schema, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import file_errors, path_within, read_text, write_atomic
from hwnas.metrics import MAX_BATCH, Deployment
from hwnas.records.measurement import ImageSize

SCHEMA = "hwnas.table/2"
"""Schema that this version writes and reads."""

TABLE_MANIFEST, TABLE_ROWS = "table.json", "table.csv"

TABLE_COLUMNS = ("model", "infer_img_size", "infer_batch_size", "infer_samples_per_sec")
"""Columns that a table of timm must have."""


_MAX_PATTERN = 1000
_MAX_REPEATS = 3
_MAX_GROUPS = 3


class _PatternRule:
    def check(self, value: Any, *, where: str) -> None:
        compile_pattern(value, where=where)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Result of one model."""

    model: FileName
    image_size: ImageSize
    batch: Annotated[int, Between(1, MAX_BATCH)]
    throughput: Annotated[float, Above(0)]
    """Images per second."""


@dataclass(frozen=True, kw_only=True)
class TableManifest:
    """Origin of a table, and the deployment in which it was measured."""

    schema: str = SCHEMA
    created_utc: UtcTime
    deployment: Deployment
    """Deployment of all rows but for the batch, which differs from row to row."""
    source: str
    """The file and the project that it is from."""
    command: tuple[str, ...]
    match: Annotated[str, _PatternRule()] = ""
    """Regular expression of the models that are used; empty for all."""
    sha256: str
    """Digest of the rows."""
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        missing = [name for name in ("device", "runtime", "precision") if getattr(self.deployment, name) is None]
        if missing:
            raise InputError(f"a table must specify {', '.join(missing)}", got=str(self.deployment) or "nothing")


def compile_pattern(pattern: str, *, where: str) -> re.Pattern[str]:
    """Compile a regular expression from a file or a user.

    Args:
        pattern: The expression.
        where: What it is, for the error message.

    Raises:
        InputError: It is not a regular expression, or matching it could take for ever.
    """
    # Backtracking takes exponential time if repeats are nested, and otherwise a power of the length of a name with the
    # number of repeats as its exponent; groups with alternatives count like repeats.
    num_repeats, num_groups = len(re.findall(r"(?<![(\\])[*+?{]", pattern)), pattern.count("(")
    simple = num_repeats <= _MAX_REPEATS and num_groups <= _MAX_GROUPS and not re.search(r"\)[*+{]|\\[1-9]", pattern)
    if len(pattern) > _MAX_PATTERN or not simple:
        limits = f"at most {_MAX_PATTERN} characters, {_MAX_REPEATS} repeats and {_MAX_GROUPS} groups"
        raise InputError(f"{where} must have {limits}, and repeat no group", got=shown(pattern))
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{where} must be a regular expression", got=f"{shown(pattern)}: {error}") from error


def is_table(folder: Path) -> bool:
    """Return True if a folder holds a table."""
    with file_errors(folder / TABLE_MANIFEST):
        return (folder / TABLE_MANIFEST).is_file()


def table_folder(out: Path, manifest: TableManifest) -> Path:
    """Return the folder of a table below a folder of profiles.

    Raises:
        InputError: It lies outside, by a symbolic link.
    """
    return path_within(out, str(manifest.deployment.device), f"timm-{manifest.deployment.slug}")


def rows_digest(text: str) -> str:
    """Return the digest of the rows that the manifest states."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_table(folder: Path, manifest: TableManifest, text: str) -> None:
    """Write a table, replacing an existing one.

    Args:
        folder: Folder of the table.
        manifest: Its origin.
        text: Its rows as CSV.

    Raises:
        InputError: The folder cannot be written.
    """
    with file_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TABLE_ROWS, text)
    write_atomic(folder / TABLE_MANIFEST, json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False) + "\n")


def read_table_manifest(folder: Path) -> TableManifest:
    """Read the manifest of a table."""
    path = folder / TABLE_MANIFEST
    data = load_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is not the manifest of a table", got=shown(data))
    require_schema(data.get("schema"), expected=SCHEMA, source=str(path), hint="hwnas profiles import-timm FILE")
    return from_mapping(TableManifest, data, where=f"{path}: manifest")


def read_table(folder: Path) -> tuple[TableManifest, tuple[TableRow, ...]]:
    """Read a table.

    Raises:
        InputError: The table cannot be read, or its rows were changed after it was imported.
    """
    manifest = read_table_manifest(folder)
    text = read_text(folder / TABLE_ROWS)
    if rows_digest(text) != manifest.sha256:
        hint = "import it again, or restore the file"
        raise InputError(f"{folder / TABLE_ROWS} was changed after it was imported", got="another digest", hint=hint)
    return manifest, parse_rows(text, source=str(folder / TABLE_ROWS))


def parse_rows(text: str, *, source: str) -> tuple[TableRow, ...]:
    """Parse a table of timm's inference benchmark.

    Args:
        text: The table as CSV.
        source: Name of the table in error messages.

    Raises:
        InputError: A column is missing, or a row is invalid.
    """
    with file_errors(source):
        reader = csv.DictReader(text.splitlines())
        rows = list(reader)
    missing = [name for name in TABLE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        hint = "one of the files benchmark-infer-*.csv that timm publishes"
        raise InputError(
            f"{source} must be a table of timm's inference benchmark",
            got=f"no column {', '.join(missing)}",
            known=TABLE_COLUMNS,
            hint=hint,
        )
    if not rows:
        raise InputError(f"{source} must hold at least one model", got="its header alone")
    # Models that failed in timm's benchmark are rows without batch and result.
    measured = [(number, row) for number, row in enumerate(rows, start=2) if any(map(row.get, TABLE_COLUMNS[2:]))]
    if not measured:
        raise InputError(f"{source} must hold a model with results", got=f"{len(rows)} without")
    return tuple(_parse_row(row, source=f"{source}, line {number}") for number, row in measured)


def _parse_row(row: Mapping[str, str | None], *, source: str) -> TableRow:
    try:
        values = {
            "model": str(row["model"] or ""),
            "image_size": _whole(row["infer_img_size"]),
            "batch": _whole(row["infer_batch_size"]),
            "throughput": float(row["infer_samples_per_sec"] or ""),
        }
    except ValueError as error:
        raise InputError(f"{source} must have numbers for size, batch and images per second", got=error) from error
    return from_mapping(TableRow, values, where=source)


def _whole(text: str | None) -> int:
    """Parse a whole number; tables that pandas wrote with a gap in the column have `1024.0`."""
    return int((text or "").removesuffix(".0"))
