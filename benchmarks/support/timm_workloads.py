"""Workloads of timm's models, traced once and kept as JSON in the user's cache folder."""

import json
import os
from pathlib import Path
from typing import Any

from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.records.workloads import SCHEMA, operations_to_mappings, workload_from_mappings
from hwnas.runs import package_versions
from hwnas.workload import Workload


def cache_folder() -> Path:
    """Where traced workloads are kept: under XDG_CACHE_HOME, else ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "hwnas" / "timm-workloads"


def timm_workload(name: str, *, image_size: int, folder: Path) -> Workload | None:
    """The workload of a model for square images; None where timm has no such model or it cannot be traced."""
    version = package_versions(["timm"])["timm"]
    path = folder / f"{version}-{SCHEMA.rpartition('/')[2]}" / f"{name}@{image_size}.json"
    if path.exists():
        data = json.loads(path.read_text())
    else:
        data = _traced(name, image_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(data, separators=(",", ":")))
    return None if "failure" in data else workload_from_mappings(data["operations"])


def _traced(name: str, image_size: int) -> dict[str, Any]:
    from hwnas.export.timm_models import build_timm  # torch and timm, and only where a model is not in the cache

    try:
        workload = build_timm(name, image_size=image_size).workload()
    except InputError as error:
        return {"failure": str(error)}
    return {"operations": operations_to_mappings(workload)}
