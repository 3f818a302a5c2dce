"""Time of a campaign before its first measurement, by the MACs of its networks and profiles of similar devices."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import median

from hwnas.data_paths import DataPaths
from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.files import file_errors
from hwnas.profile.effort import paired_macs
from hwnas.profile.lookup import profile_entries
from hwnas.profile.plan import Plan, PlannedTask
from hwnas.records import Measurement, ProfileManifest
from hwnas.records.manifest import read_manifest
from hwnas.records.profile import MEASUREMENTS, stream_measurements

_NUM_PROFILES, _NUM_ROWS = 4, 16
"""Profiles that are compared with, and rows of each that are read."""


@dataclass(frozen=True, kw_only=True)
class CampaignPace:
    """Times of the measurements of a profile, in seconds."""

    run_s: float
    """Time of a pair of runs for each of its MACs."""
    more_runs: float
    """Time of session, check and warm-up of a network, in pairs of its runs."""
    graph_s: float
    """Time in which the graph of a network is made."""
    start_s: float
    """Time of a process that starts, with its first network."""

    def estimate_s(self, tasks: Sequence[PlannedTask], *, pairs: int, workers: int = 1) -> float:
        """Return the time of measurements.

        Args:
            tasks: The measurements.
            pairs: Runs of each network.
            workers: Devices that measure at the same time.
        """
        macs = sum(paired_macs(task.subject, task.setting) for task in tasks)
        seconds = len(tasks) * self.graph_s + (pairs + self.more_runs) * macs * self.run_s
        return seconds / workers + self.start_s * (1 + any(task.repeat for task in tasks))


def similar_paces(plan: Plan, device: Device, paths: DataPaths) -> tuple[CampaignPace, ...]:
    """Return the paces of the profiles of one kind of device that are most like a campaign.

    Args:
        plan: The campaign, with its runtime.
        device: The device.
        paths: Folders of profiles.
    """
    setting = plan.tasks[0].setting

    def likeness(manifest: ProfileManifest) -> tuple[bool, ...]:
        found = manifest.setting
        computes_alike = (found.runtime, found.precision) == (setting.runtime, setting.precision)
        return (
            found.device == setting.device,
            computes_alike,
            manifest.space == plan.space,
            found.batch == setting.batch,
        )

    similar = [
        entry
        for entry in profile_entries(paths)
        if entry.manifest.device.get("kind") == device.kind and entry.manifest.setting.threads == setting.threads
    ]
    similar.sort(key=lambda entry: likeness(entry.manifest), reverse=True)
    paces = (_pace(entry.path) for entry in similar)
    return tuple(islice((pace for pace in paces if pace is not None), _NUM_PROFILES))


@lru_cache(maxsize=256)
def _pace(folder: Path) -> CampaignPace | None:
    """Return the pace of a profile, by its first rows; None if they are too few, or cannot be read."""
    with suppress(InputError):
        rows = list(_first_rows(folder))
        starts = {row.process_id: row for row in reversed(rows)}  # the first row of each process
        others = [row for row in rows if row is not starts[row.process_id]]
        if others:
            return CampaignPace(
                run_s=sum(map(_pair_s, others)) / sum(paired_macs(row.subject, row.setting) for row in others),
                more_runs=median(_more_s(row) / _pair_s(row) for row in others),
                graph_s=median(row.export_s or 0.0 for row in others),
                start_s=median(row.duration_s for row in starts.values()),
            )
    return None


def _first_rows(folder: Path) -> Iterator[Measurement]:
    path, manifest = folder / MEASUREMENTS, read_manifest(folder)
    with file_errors(path), path.open("rb") as file:
        lines = islice(file, _NUM_ROWS)
        for row in stream_measurements(lines, path=path, manifest=manifest, notes=[]):
            if row.samples is not None and row.reference is not None:
                yield row


def _num_pairs(row: Measurement) -> int:
    """Return the number of pairs of a measurement: the faster network may have several samples in each."""
    return min((len(item.wall_ns) for item in (row.samples, row.reference) if item is not None), default=0)


def _pair_s(row: Measurement) -> float:
    """Return the mean time of the samples of a pair."""
    samples = (item for item in (row.samples, row.reference) if item is not None)
    return sum(item.runs_per_sample * sum(item.wall_ns) for item in samples) / _num_pairs(row) / 1e9


def _more_s(row: Measurement) -> float:
    """Return the time of a measurement beside its graph and its runs."""
    return row.duration_s - (row.export_s or 0.0) - _num_pairs(row) * _pair_s(row)
