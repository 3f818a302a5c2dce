"""Profiles of our own spaces, as features and targets."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.support.public_data import Data
from hwnas.config import from_mapping
from hwnas.devices.device import Device
from hwnas.export.timm_models import build_timm
from hwnas.predict.features.conditions import conditions_of
from hwnas.predict.features.counting import workload_features
from hwnas.predict.features.table import Features, features_of
from hwnas.profile.summary import Figures, assess, figures
from hwnas.records import Profile, Subject, is_profile, load_profile
from hwnas.space import SPACES
from hwnas.workload import Workload


def find_profiles(root: Path) -> tuple[Path, ...]:
    """The folders of profiles under a folder."""
    folders = [path.parent for path in sorted(root.rglob("manifest.json"))]
    return tuple(folder for folder in folders if is_profile(folder))


def profile_data(folder: Path) -> tuple[Data, float | None]:
    """Milliseconds of the stable measurements of a profile, a row a network, and the noise floor (mean error)."""
    profile = load_profile(folder)
    by_network: dict[str, list[Figures]] = defaultdict(list)
    for found in figures(profile):
        if found.verdict.stable:
            by_network[found.subject.network_id].append(found)
    subjects = [found[0].subject for found in by_network.values()]
    workloads = [_workload(subject) for subject in subjects]
    floor = assess(profile).noise_floor
    data = Data(
        features=_features(workloads, profile),
        counters=_counters(workloads),
        target=np.array([np.mean([one.latency_ms for one in found]) for found in by_network.values()]),
        names=list(by_network),
        families=[profile.manifest.space or "timm"] * len(subjects),
    )
    return data, None if floor is None else floor.mean_error


def _features(workloads: list[Workload], profile: Profile) -> Features:
    setting = profile.manifest.setting
    device = _device(profile.manifest.device, name=setting.device)
    return workload_features(workloads, conditions_of(device, precision=setting.precision, batch=setting.batch))


def _device(facts: Mapping[str, object], *, name: str) -> Device:
    known = {key: value for key, value in facts.items() if key in Device.__dataclass_fields__}
    usual = {"name": name, "kind": "cpu", "vendor": "unknown", "architecture": "unknown"}
    return from_mapping(Device, usual | known)


def _workload(subject: Subject) -> Workload:
    if subject.source == "timm":
        return build_timm(subject.name, image_size=subject.image_size).workload()
    space = SPACES.get(subject.name).adapted(
        image_size=subject.image_size, channels=subject.channels, num_classes=subject.num_classes
    )
    return space.workload(space.parse(subject.arch))


def _counters(workloads: list[Workload]) -> Features:
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
