"""Profiles of our own spaces, as features and targets."""

from pathlib import Path

import numpy as np

from benchmarks.support.public_data import Data
from hwnas.pipeline.predictors.measured_networks import measured_profile, select_space
from hwnas.predict.features.table import Features, features_of
from hwnas.profile.lookup import ProfileEntry
from hwnas.records import is_profile
from hwnas.records.manifest import read_manifest
from hwnas.workload import Workload


def find_profiles(root: Path) -> tuple[Path, ...]:
    """The folders of profiles of spaces under a folder."""
    folders = [path.parent for path in sorted(root.rglob("manifest.json"))]
    return tuple(folder for folder in folders if is_profile(folder) and read_manifest(folder).space)


def profile_data(folder: Path) -> tuple[Data, float | None]:
    """Milliseconds of the networks of a profile's space, a row a measurement, and the noise floor (mean error)."""
    manifest = read_manifest(folder)
    entry = ProfileEntry(name=f"{folder.parent.name}/{folder.name}", path=folder, origin="own", manifest=manifest)
    assert manifest.space is not None
    networks = select_space(measured_profile(entry), manifest.space)
    data = Data(
        features=networks.features,
        counters=_counters(networks.workloads),
        target=networks.values["latency_ms"],
        names=[workload_name(features) for features in networks.features.costs],
        families=networks.space_names,
    )
    return data, networks.noise_floors.get("latency_ms")


def workload_name(costs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """Equal for equal networks."""
    return costs.tobytes().hex()


def _counters(workloads: tuple[Workload, ...]) -> Features:
    return features_of(
        {
            "macs": np.array([float(workload.macs) for workload in workloads]),
            "params": np.array([float(workload.params) for workload in workloads]),
            "bytes": np.array(
                [float(one.bytes_read(precision="fp32") + one.bytes_written(precision="fp32")) for one in workloads]
            ),
            "operations": np.array([float(sum(row.times for row in workload.operations)) for workload in workloads]),
        }
    )
