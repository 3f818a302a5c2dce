"""Files of workloads: timm models that were traced once, so that they need not be traced again.

A file has gzipped JSON lines: a head with the version of timm, then one model per line. Equal operations of a model are
merged and counted; their names are not kept.
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwnas import workload as operations
from hwnas.config import parse_json, require_schema, shown
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.workload import Operation, Workload

SCHEMA = "hwnas.workloads/2"
"""Schema that this version writes and reads."""

ModelKey = tuple[str, int]
"""Name and image size of a model."""


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
        InputError: The file cannot be read, is incomplete, or has another schema.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read", got=error) from error
    head = parse_json(lines[0] if lines else "", source=f"{path}, line 1")
    if not isinstance(head, dict) or not isinstance(head.get("timm"), str):
        raise InputError(f"{path} must hold traced models", got=shown(head))
    again = "remove it: hwnas profiles import-timm traces the models again"
    require_schema(head.get("schema"), expected=SCHEMA, source=str(path), hint=again)
    if head.get("num_models") != len(lines) - 1:
        raise InputError(f"{path} must hold {head.get('num_models')} models", got=len(lines) - 1, hint="copy it again")
    rows = [json.loads(line) for line in lines[1:]]
    models: dict[ModelKey, Workload | None] = {}
    for row in rows:
        traced = None if row["operations"] is None else workload_from_mappings(row["operations"])
        models[row["name"], row["image_size"]] = traced
    own_sizes = {row["name"]: row["image_size"] for row in rows if row.get("own_size")}
    return TracedModels(timm=head["timm"], models=models, own_sizes=own_sizes)


def operations_to_mappings(workload: Workload) -> list[dict[str, Any]]:
    """Convert the operations of a workload to plain values, with equal ones merged."""
    merged: dict[Operation, Operation] = {}
    for row in workload.operations:
        key = replace(row, name="", times=1, shared=0)
        old = merged.get(key, replace(key, times=0))
        merged[key] = replace(old, times=old.times + row.times, shared=old.shared + row.shared)
    return [_operation_to_mapping(row) for row in merged.values()]


def workload_from_mappings(rows: Sequence[Mapping[str, Any]]) -> Workload:
    """Convert plain values to a workload."""
    made = []
    for row in rows:
        sizes = {name: value for name, value in row.items() if name not in ("type", "traits")}
        made.append(getattr(operations, row["type"])(name="", traits=tuple(row.get("traits", ())), **sizes))
    return Workload(tuple(made))


def _operation_to_mapping(row: Operation) -> dict[str, Any]:
    extra: dict[str, Any] = {"variant": row.label} if row.label != row.kind else {}
    if row.traits:
        extra["traits"] = list(row.traits)
    return {"type": type(row).__name__, "times": row.times, "shared": row.shared, **extra, **row.shape}
