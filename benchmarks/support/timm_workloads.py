"""Workloads of timm's models, traced once and kept as JSON in the user's cache folder."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas import workload as operations
from hwnas.errors import InputError
from hwnas.runs import package_versions, write_atomic
from hwnas.workload import Operation, Workload


def cache_folder() -> Path:
    """Where traced workloads are kept: under XDG_CACHE_HOME, else ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "hwnas" / "timm-workloads"


def timm_workload(name: str, *, image_size: int, folder: Path) -> Workload | None:
    """The workload of a model for square images; None where timm has no such model or it cannot be traced."""
    version = package_versions(["timm"])["timm"]
    path = folder / version / f"{name}@{image_size}.json"
    if path.exists():
        data = json.loads(path.read_text())
    else:
        data = _traced(name, image_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(data, separators=(",", ":")))
    return None if "failure" in data else Workload(tuple(_operation(row) for row in data["operations"]))


def _traced(name: str, image_size: int) -> dict[str, Any]:
    from hwnas.export.timm_models import build_timm  # torch and timm, and only where a model is not in the cache

    try:
        workload = build_timm(name, image_size=image_size).workload()
    except InputError as error:
        return {"failure": str(error)}
    return {"operations": _merged(workload.operations)}


def _merged(rows: Sequence[Operation]) -> list[dict[str, Any]]:
    """Equal operations once, with the number of times that they run: names are not kept."""
    merged: dict[Operation, Operation] = {}
    for row in rows:
        key = replace(row, name="", times=1, shared=0)
        old = merged.get(key, replace(key, times=0))
        merged[key] = replace(old, times=old.times + row.times, shared=old.shared + row.shared)
    return [_plain(row) for row in merged.values()]


def _plain(row: Operation) -> dict[str, Any]:
    extra = {"variant": row.label} if row.label != row.kind else {}
    return {"type": type(row).__name__, "times": row.times, "shared": row.shared, **extra, **row.shape}


def _operation(row: Mapping[str, Any]) -> Operation:
    made: Operation = getattr(operations, row["type"])(name="", **{k: v for k, v in row.items() if k != "type"})
    return made
