"""Files of workloads: timm models that were traced once, so that they need not be traced again.

A file has gzipped JSON lines: a head with the version of timm, then one model per line. Equal operations of a model are
merged and counted; their names are not kept.
"""

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from hwnas import workload as operations
from hwnas.config import Between, from_mapping, parse_json, require_schema, shown
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, read_bytes, write_atomic
from hwnas.records.measurement import ImageSize
from hwnas.workload import FLOAT32, ONCE, STRIDED, Operation, Workload

SCHEMA = "hwnas.workloads/2"
"""Schema that this version writes and reads."""

ModelKey = tuple[str, int]
"""Name and image size of a model."""

OPERATIONS: Mapping[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        operations.Attention,
        operations.Convolution,
        operations.Elementwise,
        operations.Linear,
        operations.MatMul,
        operations.Move,
        operations.Norm,
        operations.Pool,
        operations.RelativePosition,
        operations.Table,
        operations.TransposedConvolution,
    )
}
"""Operations that a file may contain, by the name of their class."""

_MAX_BYTES = 1 << 28
"""Largest size of an unpacked file; that of all models of timm has 4 MB."""

_MAX_VARIANT = 100
_MAX_SIZE = 2**40
_MAX_COUNT = 2**60
"""Largest number of multiply-accumulates or elements of an operation, all sizes multiplied."""

_TRAITS = (ONCE, STRIDED, FLOAT32)

_AT_LEAST_1 = ("heads", "groups", "grid", "head_dim")
"""Sizes that others are divided by."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    schema: str
    timm: str
    num_models: Annotated[int, Between(0, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class _TracedRow:
    name: str
    image_size: ImageSize
    own_size: bool = False
    operations: tuple[Any, ...] | None


@dataclass(frozen=True, kw_only=True)
class TracedModels:
    """Traced timm models; None for a model that could not be traced."""

    timm: str
    """Version of timm."""
    models: Mapping[ModelKey, Workload | None]
    own_sizes: Mapping[str, int] = field(default_factory=dict)
    """Image sizes that the models are made for, by name, as far as known."""


def save_workloads(traced: TracedModels, path: Path) -> None:
    """Write a file of workloads atomically. Equal workloads give equal files."""
    lines = [json.dumps({"schema": SCHEMA, "timm": traced.timm, "num_models": len(traced.models)})]
    for (name, size), workload in sorted(traced.models.items()):
        rows = None if workload is None else operations_to_mappings(workload)
        own = {"own_size": True} if traced.own_sizes.get(name) == size else {}
        row = {"name": name, "image_size": size, **own, "operations": rows}
        lines.append(json.dumps(row, separators=(",", ":")))
    write_atomic(path, gzip.compress("\n".join(lines).encode("utf-8"), mtime=0))


def load_workloads(path: Path) -> TracedModels:
    """Read a file of workloads.

    Raises:
        InputError: The file cannot be read, is incomplete, has another schema, or an operation is invalid.
    """
    lines = _unpack(path).split("\n")
    data = parse_json(lines[0], source=f"{path}, line 1")
    if not isinstance(data, dict) or not isinstance(data.get("timm"), str):
        raise InputError(f"{path} must hold traced models", got=shown(data))
    again = "remove it: hwnas profiles import-timm traces the models again"
    require_schema(data.get("schema"), expected=SCHEMA, source=str(path), hint=again)
    head = from_mapping(_Head, data, where=f"{path}, line 1")
    if head.num_models != len(lines) - 1:
        raise InputError(f"{path} must hold {head.num_models} models", got=len(lines) - 1, hint="copy it again")
    models: dict[ModelKey, Workload | None] = {}
    own_sizes: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        source = f"{path}, line {number}"
        row = from_mapping(_TracedRow, parse_json(line, source=source), where=source)
        traced = None if row.operations is None else workload_from_mappings(row.operations, source=source)
        models[row.name, row.image_size] = traced
        if row.own_size:
            own_sizes[row.name] = row.image_size
    return TracedModels(timm=head.timm, models=models, own_sizes=own_sizes)


def _unpack(path: Path) -> str:
    """The text of a gzipped file; one that unpacks to far more than any file of ours is refused."""
    data = read_bytes(path)
    with file_errors(path), gzip.open(io.BytesIO(data)) as file:
        unpacked = file.read(_MAX_BYTES + 1)
        if len(unpacked) > _MAX_BYTES:
            raise InputError(f"{path} must hold at most {_MAX_BYTES >> 20} MiB", got="more than that, unpacked")
        return unpacked.decode("utf-8")


def operations_to_mappings(workload: Workload) -> list[dict[str, Any]]:
    """Convert the operations of a workload to plain values, with equal ones merged."""
    merged: dict[Operation, Operation] = {}
    for row in workload.operations:
        key = replace(row, name="", times=1, shared=0)
        old = merged.get(key, replace(key, times=0))
        merged[key] = replace(old, times=old.times + row.times, shared=old.shared + row.shared)
    return [_operation_to_mapping(row) for row in merged.values()]


def workload_from_mappings(rows: Sequence[Mapping[str, Any]], *, source: str = "a workload") -> Workload:
    """Convert plain values to a workload.

    Args:
        rows: One mapping for each operation.
        source: Origin of the values, for error messages.

    Raises:
        InputError: An operation is not known, or one of its sizes is missing or invalid.
    """
    made = []
    for index, row in enumerate(rows):
        try:
            made.append(_operation(row))
        except InputError as error:
            message = f"{source}, operation {index}: {error.message}"
            raise InputError(message, got=error.got, known=error.known, hint=error.hint) from error
    return Workload(tuple(made))


def _operation(row: Mapping[str, Any]) -> Operation:
    if not isinstance(row, Mapping):
        raise InputError("an operation must be a table of named values", got=shown(row))
    name = row.get("type")
    kind = OPERATIONS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise unknown("type", str(name), OPERATIONS)
    required, optional = _size_names(kind.__name__)
    values = dict(row)
    del values["type"]
    traits = values.pop("traits", ())
    if traits and not (isinstance(traits, (list, tuple)) and all(trait in _TRAITS for trait in traits)):
        raise InputError(f"traits must be some of {', '.join(_TRAITS)}", got=shown(traits))
    variant = values.get("variant", "x")
    if not isinstance(variant, str) or not variant.isidentifier() or len(variant) > _MAX_VARIANT:
        raise InputError("variant must be the name of an operation", got=shown(variant))
    if not values.keys() >= required:
        raise InputError(f"{min(required - values.keys())} is missing", got=f"only {', '.join(values)}")
    product = 1
    for size, value in values.items():
        if size == "variant":
            continue
        if size not in required and size not in optional:
            raise unknown("key", size, sorted(required | optional))
        lowest = 1 if size in _AT_LEAST_1 else 0
        if type(value) is not int or not lowest <= value <= _MAX_SIZE:
            raise InputError(f"{size} must be a whole number from {lowest} to 2**40", got=shown(value))
        product *= value or 1
    made = kind(name="", traits=tuple(traits), **values)
    # The product of all sizes is more than any count of the operation: only where it is large, the counts decide.
    if product > _MAX_COUNT and max(made.macs, made.params, made.elements_read, made.elements_written) > _MAX_COUNT:
        raise InputError("the counts of an operation must be at most 2**60", got=shown(values))
    return made


@cache
def _size_names(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the sizes that an operation must have, and of those that it may have."""
    entries = [entry for entry in fields(OPERATIONS[name]) if entry.name not in ("name", "traits")]
    required = frozenset(entry.name for entry in entries if entry.default is MISSING)
    return required, frozenset(entry.name for entry in entries) - required


def _operation_to_mapping(row: Operation) -> dict[str, Any]:
    extra: dict[str, Any] = {"variant": row.label} if row.label != row.kind else {}
    if row.traits:
        extra["traits"] = list(row.traits)
    return {"type": type(row).__name__, "times": row.times, "shared": row.shared, **extra, **row.shape}
