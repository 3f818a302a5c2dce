"""Rows of published tables as input of a fit."""

from collections.abc import Sequence

import numpy as np

from hwnas.errors import InputError
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, known_device
from hwnas.pipeline.predictors.workloads import known_workloads, timm_workload
from hwnas.profile.lookup import TableEntry
from hwnas.records.table import TableRow, compile_pattern, read_table
from hwnas.records.workloads import ModelKey, TracedModels
from hwnas.workload import Workload

_MS_PER_S = 1e3


def measured_table(entry: TableEntry) -> MeasuredNetworks:
    """Return the rows of a table whose models were or can be traced."""
    manifest, table_rows = read_table(entry.path)
    traced = known_workloads(entry.path.parents[1])
    pairs = [(row, _workload(row, traced)) for row in matching(table_rows, manifest.match)]
    rows = [row for row, workload in pairs if workload is not None]
    if not rows:
        raise InputError(f"{entry.name} must have a model that can be traced", got=f"{len(table_rows)} that cannot")
    batches = np.array([row.batch for row in rows], dtype=np.int64)
    throughput = np.array([row.throughput for row in rows])
    return MeasuredNetworks(
        name=entry.name,
        device=known_device({}, name=str(manifest.deployment.device)),
        deployment=manifest.deployment,
        main_space_name="timm",
        created_utc=manifest.created_utc,
        sources=(entry.name,),
        environment={"source": manifest.source, **manifest.environment},
        environments=(manifest.sha256[:16],) * len(rows),
        space_names=("timm",) * len(rows),
        workloads=tuple(workload for _, workload in pairs if workload is not None),
        batches=batches,
        values={"latency_ms": _MS_PER_S * batches / throughput, "throughput": throughput},
        noise_floors={},
    )


def matching(rows: Sequence[TableRow], pattern: str) -> list[TableRow]:
    """Return the rows with a model whose name matches the pattern from its beginning."""
    compiled = compile_pattern(pattern, where="--match")
    return [row for row in rows if compiled.match(row.model)]


def key_of(row: TableRow) -> ModelKey:
    """Return the key of the traced model of a row."""
    return row.model, row.image_size


def _workload(row: TableRow, traced: TracedModels) -> Workload | None:
    if key_of(row) in traced.models:
        return traced.models[key_of(row)]
    try:
        return timm_workload(row.model, image_size=row.image_size)
    except InputError:  # the installed timm lacks the model, or it cannot be traced; the import reported it
        return None
