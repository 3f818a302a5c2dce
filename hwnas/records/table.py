"""Published tables: results that others measured, kept unchanged along with their origin.

    TABLE/table.json    deployment, environment, source
    TABLE/table.csv     the rows of the source, unchanged

A table has no raw samples, so it is not a profile; predictors can be fitted to both.
"""

import csv
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.config import from_mapping, load_json, require_schema, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.metrics import Deployment

SCHEMA = "hwnas.table/2"
"""Schema that this version writes and reads."""

TABLE_MANIFEST, TABLE_ROWS = "table.json", "table.csv"

TABLE_COLUMNS = ("model", "infer_img_size", "infer_batch_size", "infer_samples_per_sec")
"""Columns that a table of timm must have."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Result of one model."""

    model: str
    image_size: int
    batch: int
    throughput: float
    """Images per second."""


@dataclass(frozen=True, kw_only=True)
class TableManifest:
    """Origin of a table, and the deployment in which it was measured."""

    schema: str = SCHEMA
    created_utc: str
    deployment: Deployment
    """Deployment of all rows but for the batch, which differs from row to row."""
    source: str
    """The file and the project that it is from."""
    command: tuple[str, ...]
    match: str = ""
    """Regular expression of the models that are used; empty for all."""
    sha256: str
    """Digest of the rows."""
    environment: Mapping[str, str]


def is_table(folder: Path) -> bool:
    """Return True if a folder holds a table."""
    return (folder / TABLE_MANIFEST).is_file()


def table_folder(manifest: TableManifest) -> Path:
    """Return the folder of a table below one of profiles."""
    return Path(str(manifest.deployment.device)) / f"timm-{manifest.deployment.slug}"


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / TABLE_ROWS, text)
        write_atomic(folder / TABLE_MANIFEST, json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror or str(error)) from error


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
    text = read_table_text(folder / TABLE_ROWS)
    if rows_digest(text) != manifest.sha256:
        hint = "import it again, or restore the file"
        raise InputError(f"{folder / TABLE_ROWS} was changed after it was imported", got="another digest", hint=hint)
    return manifest, parse_rows(text, source=str(folder / TABLE_ROWS))


def read_table_text(path: Path) -> str:
    """Read the text of a table, with its line ends unchanged."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read", got=error) from error


def parse_rows(text: str, *, source: str) -> tuple[TableRow, ...]:
    """Parse a table of timm's inference benchmark.

    Args:
        text: The table as CSV.
        source: Name of the table in error messages.

    Raises:
        InputError: A column is missing, or a row is invalid.
    """
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in TABLE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        hint = "one of the files benchmark-infer-*.csv that timm publishes"
        raise InputError(
            f"{source} must be a table of timm's inference benchmark",
            got=f"no column {', '.join(missing)}",
            known=TABLE_COLUMNS,
            hint=hint,
        )
    rows = tuple(_parse_row(row, source=f"{source}, line {number}") for number, row in enumerate(reader, start=2))
    if not rows:
        raise InputError(f"{source} must hold at least one model", got="its header alone")
    return rows


def _parse_row(row: Mapping[str, str | None], *, source: str) -> TableRow:
    try:
        parsed = TableRow(
            model=str(row["model"] or ""),
            image_size=int(row["infer_img_size"] or ""),
            batch=int(row["infer_batch_size"] or ""),
            throughput=float(row["infer_samples_per_sec"] or ""),
        )
    except ValueError as error:
        raise InputError(f"{source} must have numbers for size, batch and images per second", got=error) from error
    valid = parsed.image_size > 0 and parsed.batch > 0 and parsed.throughput > 0 and math.isfinite(parsed.throughput)
    if not parsed.model or not valid:
        raise InputError(f"{source} must have a model and numbers above 0", got=parsed)
    return parsed
