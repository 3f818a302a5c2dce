"""Tables of timm's benchmark and profiles of our own, read as `hwnas fit` reads them."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.support.public_data import OTHER_VITS, PLAIN, Data
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.pipeline.predictors.import_timm import ImportOptions, import_timm
from hwnas.pipeline.predictors.measured_networks import (
    MeasuredNetworks,
    match_models,
    measured_profile,
    measured_table,
    select_space,
)
from hwnas.pipeline.predictors.workloads import WORKLOADS, known_workloads
from hwnas.predict.features.table import Features, features_of
from hwnas.profile.lookup import ProfileEntry, TableEntry, profile_entries, table_entries
from hwnas.records.manifest import torch_version
from hwnas.records.table import TABLE_ROWS, read_table, rows_digest, write_table

MATCH = f"{PLAIN.pattern}|{OTHER_VITS.pattern}".replace("naflexvit|", "")


def imported_tables(tables: Path, folder: Path) -> tuple[TableEntry, ...]:
    """Import tables into a folder as `hwnas profiles import-timm` does; traces that ship are not made again."""
    if not (folder / WORKLOADS).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for path, _ in data_search_path(PROFILES):
            if (path / WORKLOADS).is_file():
                shutil.copy(path / WORKLOADS, folder)
        # Of a CPU without a datasheet the name of the file does not say enough.
        import_timm(sorted(tables.glob("benchmark-infer-amp*.csv")), ImportOptions(match=MATCH, out=folder))
    return table_entries(((folder, "own"),))


def newest_tables(entries: Sequence[TableEntry], *, runtime: str) -> dict[str, TableEntry]:
    """The table of the newest version of torch of each device."""
    found: dict[str, TableEntry] = {}
    for entry in sorted(entries, key=lambda entry: torch_version(entry.manifest.environment)):
        if entry.manifest.deployment.runtime == runtime:
            found[str(entry.manifest.deployment.device)] = entry
    return found


def table_models(entry: TableEntry) -> list[str]:
    """The names of the models of a table, a row of its networks each."""
    manifest, rows = read_table(entry.path)
    traced = known_workloads(entry.path.parents[1]).models
    return [row.model for row in match_models(rows, manifest.match) if traced.get((row.model, row.image_size))]


def table_data(entry: TableEntry, *, plain: bool = False) -> Data:
    """The networks of a table, or its plain vision transformers alone."""
    networks, models = measured_table(entry), table_models(entry)
    rows = [row for row, model in enumerate(models) if PLAIN.match(model) or not plain]
    return _data(networks.take(np.array(rows)))


def space_data(entry: ProfileEntry) -> tuple[Data, float | None]:
    """The networks of a profile's space, and the noise floor of their latency."""
    assert entry.manifest.space is not None
    networks = select_space(measured_profile(entry), entry.manifest.space)
    return _data(networks), networks.noise_floors.get("latency_ms")


def space_profiles(folder: Path) -> tuple[ProfileEntry, ...]:
    """The profiles of spaces in a folder."""
    return tuple(entry for entry in profile_entries(((folder, "own"),)) if entry.manifest.space)


def copied_tables(entries: Sequence[TableEntry], folder: Path) -> None:
    """Copy tables and the traces of their models to a folder of profiles."""
    for entry in entries:
        shutil.copytree(entry.path, folder / entry.path.parent.name / entry.path.name)
        shutil.copy(entry.path.parents[1] / WORKLOADS, folder)


def keep_rows(table: Path, models: Sequence[str]) -> None:
    """Reduce a table to the rows of some models."""
    manifest, _ = read_table(table)
    head, *lines = (table / TABLE_ROWS).read_text().splitlines()
    text = "\n".join([head, *(line for line in lines if line.split(",")[0] in models)]) + "\n"
    write_table(table, replace(manifest, sha256=rows_digest(text)), text)


def digest_of_tables(entries: Sequence[TableEntry]) -> str:
    """A digest of the rows of tables."""
    return hashlib.sha256("".join(sorted(entry.manifest.sha256 for entry in entries)).encode()).hexdigest()[:16]


def _data(networks: MeasuredNetworks) -> Data:
    return Data(
        features=networks.features,
        counters=_counters(networks),
        target=networks.values["latency_ms"],
        families=networks.families,
        observe=lambda rows: networks.take(rows).observations("latency_ms"),
    )


def _counters(networks: MeasuredNetworks) -> Features:
    """Count MACs, bytes, parameters and operations of whole models, for one run of the batch."""
    batch, workloads = networks.batches.astype(np.float64), networks.workloads
    moved = [float(one.bytes_read(precision="fp32") + one.bytes_written(precision="fp32")) for one in workloads]
    return features_of(
        {
            "macs": batch * np.array([float(workload.macs) for workload in workloads]),
            "bytes": batch * np.array(moved),
            "params": np.array([float(workload.params) for workload in workloads]),
            "operations": np.array([float(sum(row.times for row in workload.operations)) for workload in workloads]),
        }
    )
