"""Tables of figures that others measured and published, kept as they are, with where they are from.

    TABLE/table.json    deployment, environment, source
    TABLE/table.csv     the rows of the source, unchanged

A table has no raw samples, so it is no profile; predictors are fitted to both.
"""

import csv
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.config import from_mapping, load_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.metrics import Deployment
from hwnas.records.measurement import require_schema
from hwnas.runs import write_atomic

SCHEMA = "hwnas.table/2"
"""The form of the manifest that this version writes and reads."""

TABLE_MANIFEST, ROWS = "table.json", "table.csv"

COLUMNS = ("model", "infer_img_size", "infer_batch_size", "infer_samples_per_sec")
"""What a table of timm's must tell of each model."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One model as it was measured."""

    model: str
    image_size: int
    batch: int
    throughput: float
    """Images a second."""


@dataclass(frozen=True, kw_only=True)
class _Core:
    schema: str = SCHEMA
    created_utc: str
    deployment: Deployment
    """Of all rows, but for the batch, which differs from row to row."""
    source: str
    """Which file of which project."""
    command: tuple[str, ...]
    match: str = ""
    """The regular expression of the models that are used; all where it is empty."""
    sha256: str
    """Of the rows."""


@dataclass(frozen=True, kw_only=True)
class TableManifest(_Core):
    """Where a table is from, and in what it was measured."""

    environment: Mapping[str, str]


def is_table(folder: Path) -> bool:
    """Whether a folder holds a table."""
    return (folder / TABLE_MANIFEST).is_file()


def table_folder(manifest: TableManifest) -> Path:
    """Where a table stands among the profiles."""
    return Path(str(manifest.deployment.device)) / f"timm-{manifest.deployment.slug}"


def digest(text: str) -> str:
    """What the manifest states of the rows."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_table(folder: Path, manifest: TableManifest, text: str) -> None:
    """Write a table in place of one that stands there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ROWS, text)
        write_atomic(folder / TABLE_MANIFEST, json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror or str(error)) from error


def read_table_manifest(folder: Path) -> TableManifest:
    """What a table says of itself."""
    path = folder / TABLE_MANIFEST
    data = load_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is not the manifest of a table", got=shown(data))
    require_schema(data.get("schema"), expected=SCHEMA, source=str(path), hint="hwnas profiles import-timm FILE")
    environment = data.pop("environment", None)
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise InputError(f"{path}: environment must be a table of texts", got=shown(environment))
    core = from_mapping(_Core, data, where=str(path))
    return TableManifest(**{name: getattr(core, name) for name in _Core.__dataclass_fields__}, environment=environment)


def read_table(folder: Path) -> tuple[TableManifest, tuple[TableRow, ...]]:
    """A table and its rows, which must be those that its manifest was written for."""
    manifest = read_table_manifest(folder)
    text = read_text(folder / ROWS)
    if digest(text) != manifest.sha256:
        hint = "import it again, or restore the file"
        raise InputError(f"{folder / ROWS} was changed after it was imported", got="another digest", hint=hint)
    return manifest, parse_rows(text, source=str(folder / ROWS))


def read_text(path: Path) -> str:
    """The text of a table, its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read", got=error) from error


def parse_rows(text: str, *, source: str) -> tuple[TableRow, ...]:
    """The rows of a table of timm's: inference, with sizes and images a second."""
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        hint = "one of the files benchmark-infer-*.csv that timm publishes"
        raise InputError(
            f"{source} must be a table of timm's inference benchmark",
            got=f"no column {', '.join(missing)}",
            known=COLUMNS,
            hint=hint,
        )
    rows = tuple(_row(row, source=f"{source}, line {number}") for number, row in enumerate(reader, start=2))
    if not rows:
        raise InputError(f"{source} must hold at least one model", got="its head alone")
    return rows


def _row(row: Mapping[str, str | None], *, source: str) -> TableRow:
    try:
        found = TableRow(
            model=str(row["model"] or ""),
            image_size=int(row["infer_img_size"] or ""),
            batch=int(row["infer_batch_size"] or ""),
            throughput=float(row["infer_samples_per_sec"] or ""),
        )
    except ValueError as error:
        raise InputError(f"{source} must have numbers for size, batch and images a second", got=error) from error
    good = found.image_size > 0 and found.batch > 0 and found.throughput > 0 and math.isfinite(found.throughput)
    if not found.model or not good:
        raise InputError(f"{source} must have a model, and numbers above 0", got=found)
    return found
