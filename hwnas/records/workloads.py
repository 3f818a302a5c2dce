"""Workloads in a file: models that were traced once, so that nobody has to trace them again.

A gzipped file of JSON lines: a head that says with which version of timm they were traced, then one model a line.
Equal operations stand there once, with the number of times that they run; their names are not kept.
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwnas import workload as operations
from hwnas.config import parse_json, shown
from hwnas.errors import InputError
from hwnas.records.measurement import require_schema
from hwnas.runs import write_atomic
from hwnas.workload import Operation, Workload

SCHEMA = "hwnas.workloads/2"
"""The form of the file that this version writes and reads."""

Key = tuple[str, int]
"""The name of a model and its image size."""


@dataclass(frozen=True, kw_only=True)
class TracedModels:
    """Models of timm by name and image size; None is one that could not be traced."""

    timm: str
    """The version that they were traced with."""
    models: Mapping[Key, Workload | None]
    own_sizes: Mapping[str, int] = field(default_factory=dict)
    """The image size that a model is for, by its name, where that is known."""


def save_workloads(traced: TracedModels, path: Path) -> None:
    """Write a file of workloads, all or nothing; equal ones are written equal."""
    lines = [json.dumps({"schema": SCHEMA, "timm": traced.timm, "num_models": len(traced.models)})]
    for (name, size), workload in sorted(traced.models.items()):
        rows = None if workload is None else plain_operations(workload)
        own = {"own_size": True} if traced.own_sizes.get(name) == size else {}
        row = {"name": name, "image_size": size, **own, "operations": rows}
        lines.append(json.dumps(row, separators=(",", ":")))
    write_atomic(path, gzip.compress("\n".join(lines).encode("utf-8"), mtime=0))


def load_workloads(path: Path) -> TracedModels:
    """Read a file of workloads."""
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
    models = {(row["name"], row["image_size"]): _workload(row["operations"]) for row in rows}
    own_sizes = {row["name"]: row["image_size"] for row in rows if row.get("own_size")}
    return TracedModels(timm=head["timm"], models=models, own_sizes=own_sizes)


def plain_operations(workload: Workload) -> list[dict[str, Any]]:
    """The operations of a workload as plain values, equal ones once."""
    merged: dict[Operation, Operation] = {}
    for row in workload.operations:
        key = replace(row, name="", times=1, shared=0)
        old = merged.get(key, replace(key, times=0))
        merged[key] = replace(old, times=old.times + row.times, shared=old.shared + row.shared)
    return [_plain(row) for row in merged.values()]


def workload_from(rows: Sequence[Mapping[str, Any]]) -> Workload:
    """The workload behind plain values."""
    return Workload(tuple(_operation(row) for row in rows))


def _workload(rows: Sequence[Mapping[str, Any]] | None) -> Workload | None:
    return None if rows is None else workload_from(rows)


def _plain(row: Operation) -> dict[str, Any]:
    extra: dict[str, Any] = {"variant": row.label} if row.label != row.kind else {}
    if row.traits:
        extra["traits"] = list(row.traits)
    return {"type": type(row).__name__, "times": row.times, "shared": row.shared, **extra, **row.shape}


def _operation(row: Mapping[str, Any]) -> Operation:
    sizes = {name: value for name, value in row.items() if name not in ("type", "traits")}
    made: Operation = getattr(operations, row["type"])(name="", traits=tuple(row.get("traits", ())), **sizes)
    return made
