"""Published tables among the profiles: where they are, and their rows as a fit takes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import InputError
from hwnas.pipeline.predicting.measured import MeasuredNetworks, MeasuredSetting, known_device
from hwnas.pipeline.predicting.workloads import known_workloads, timm_workload
from hwnas.places import Origin, Places
from hwnas.records.table import MANIFEST, TableManifest, TableRow, is_table, read_table, read_table_manifest
from hwnas.records.workloads import Key, TracedModels
from hwnas.workload import Workload

_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """A table that was found."""

    name: str
    path: Path
    origin: Origin
    manifest: TableManifest


def table_entries(places: Places, *, device: str | None = None) -> tuple[TableEntry, ...]:
    """The tables in those places, of one device or of all; of two with one name the first."""
    found: dict[str, TableEntry] = {}
    for place, origin in places:
        for path in sorted(place.glob(f"{device or '*'}/*/{MANIFEST}")):
            name = f"{path.parents[1].name}/{path.parent.name}"
            if name not in found and is_table(path.parent):
                manifest = read_table_manifest(path.parent)
                found[name] = TableEntry(name=name, path=path.parent, origin=origin, manifest=manifest)
    return tuple(found.values())


def measured_table(entry: TableEntry) -> MeasuredNetworks:
    """The rows of a table whose models are known here."""
    manifest, every = read_table(entry.path)
    traced = known_workloads(entry.path.parents[1])
    pairs = [(row, _workload(row, traced)) for row in matching(every, manifest.match)]
    rows = [row for row, workload in pairs if workload is not None]
    if not rows:
        raise InputError(f"{entry.name} must have a model that is known here", got=f"{len(every)} that are not")
    batches = np.array([row.batch for row in rows], dtype=np.int64)
    throughput = np.array([row.throughput for row in rows])
    return MeasuredNetworks(
        name=entry.name,
        setting=MeasuredSetting(
            device=known_device({}, name=manifest.device),
            runtime=manifest.runtime,
            precision=manifest.precision,
            batch=None,
        ),
        main_kind="timm",
        created_utc=manifest.created_utc,
        sources=(entry.name,),
        environment={"source": manifest.source, **manifest.environment},
        environments=(manifest.sha256[:16],) * len(rows),
        kinds=("timm",) * len(rows),
        workloads=tuple(workload for _, workload in pairs if workload is not None),
        batches=batches,
        figures={"latency_ms": _MS_PER_S * batches / throughput, "throughput": throughput},
        noise_floors={},
    )


def matching(rows: Sequence[TableRow], pattern: str) -> list[TableRow]:
    """The rows whose model the pattern matches from its beginning."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise InputError("--match must be a regular expression", got=pattern) from error
    return [row for row in rows if wanted.match(row.model)]


def key_of(row: TableRow) -> Key:
    """What a traced model is found by."""
    return row.model, row.image_size


def _workload(row: TableRow, traced: TracedModels) -> Workload | None:
    if key_of(row) in traced.models:
        return traced.models[key_of(row)]
    try:
        return timm_workload(row.model, image_size=row.image_size)
    except InputError:  # timm here has no such model, or it cannot be traced: the import counted it
        return None
