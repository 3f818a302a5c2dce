"""Measured networks of one setting: their workloads, and figures by metric, as a fit takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas.config import from_mapping
from hwnas.devices import DEVICES, Device
from hwnas.metrics import MEASURED_METRICS, Deployment, MeasuredMetric, Metric
from hwnas.pipeline.predictors.workloads import subject_population, subject_workloads
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import Conditions, conditions_of
from hwnas.predict.features.counting import population_features, workload_features
from hwnas.predict.features.table import Features
from hwnas.predict.fit import Observations
from hwnas.profile.lookup import ProfileEntry
from hwnas.profile.results import MeasurementSummary, summarize_measurements
from hwnas.profile.statistics import noise_floor
from hwnas.records import Measurement, Subject, load_profile
from hwnas.workload import Workload, Workloads


@dataclass(frozen=True, kw_only=True)
class MeasuredNetworks:
    """Networks that were measured in one deployment, a row a measurement."""

    name: str
    """The profile, or what was put together."""
    device: Device
    deployment: Deployment
    """Of all rows: those of different deployments never stand together."""
    main_kind: str
    """The space that was profiled, or `timm`."""
    space: str | None = None
    """The space that all rows are of, where they are of one."""
    created_utc: str
    sources: tuple[str, ...]
    environment: Mapping[str, str]
    environments: tuple[str, ...]
    """The environment id of each row."""
    kinds: tuple[str, ...]
    """The space of each row, or `timm`."""
    workloads: tuple[Workload, ...]
    batches: NDArray[np.int64]
    figures: Mapping[MeasuredMetric, Numbers]
    """A figure that was not measured is not a number."""
    noise_floors: Mapping[MeasuredMetric, float]
    """Of the metrics where enough networks were measured twice."""
    times: Numbers | None = None
    """When each row was measured, in seconds; None where that is not known."""
    subjects: tuple[Subject, ...] = ()
    """The network of each row; none where a table names its models alone."""

    def __len__(self) -> int:
        return len(self.workloads)

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions that all rows ran under."""
        deployment = self.deployment
        return conditions_of(
            self.device,
            precision=str(deployment.precision),
            batch=self.batches if deployment.fixed_batch is None else deployment.fixed_batch,
            runtime=str(deployment.runtime),
            autocast="autocast" in self.environment,
        )

    @cached_property
    def features(self) -> Features:
        """The features of each row under these conditions."""
        return self.featurised(self.conditions)

    def featurised(self, conditions: Conditions) -> Features:
        """The features of each row under some conditions; for networks of one space with counts of its blocks."""
        if self._population is None or np.ndim(conditions.batch):
            return workload_features(self.workloads, conditions)
        return population_features(self._population, conditions, counts=True)

    @cached_property
    def _population(self) -> Workloads | None:
        """The networks by the closed form of their space, where they are of one and have one size of image."""
        return subject_population(self.subjects) if self.space is not None and self.subjects else None

    @property
    def metrics(self) -> tuple[MeasuredMetric, ...]:
        """The metrics that at least one row has."""
        present = [name for name in MEASURED_METRICS if name in self.figures]
        return tuple(name for name in present if np.isfinite(self.figures[name]).any())

    def take(self, rows: NDArray[np.intp]) -> "MeasuredNetworks":
        """Some of the rows."""
        return replace(
            self,
            environments=tuple(self.environments[row] for row in rows),
            kinds=tuple(self.kinds[row] for row in rows),
            workloads=tuple(self.workloads[row] for row in rows),
            batches=self.batches[rows],
            figures={name: values[rows] for name, values in self.figures.items()},
            times=None if self.times is None else self.times[rows],
            subjects=tuple(self.subjects[row] for row in rows) if self.subjects else (),
        )

    def observations(self, metric: MeasuredMetric) -> Observations:
        """Rows that have the metric, as input of a fit."""
        there = np.flatnonzero(np.isfinite(self.figures[metric]))
        part = self if len(there) == len(self) else self.take(there)
        return Observations(
            metric=Metric(name=metric, deployment=self.deployment),
            space=self.space,
            conditions=part.conditions,
            features=part.features,
            figures=part.figures[metric],
            environments=part.environments,
            environment=self.environment,
            sources=self.sources,
            noise_floor=self.noise_floors.get(metric),
            times=part.times,
            kinds=tuple(sorted(set(part.kinds))),
        )


def measured_profile(entry: ProfileEntry) -> MeasuredNetworks:
    """The rows of a profile, those of its reference networks too."""
    profile = load_profile(entry.path)
    rows = [row for row in profile.measured if row.samples and row.reference]
    found = summarize_measurements(profile)
    setting = profile.manifest.setting
    subjects = [row.subject for row in rows]
    return MeasuredNetworks(
        name=entry.name,
        device=known_device(profile.manifest.device, name=setting.device),
        deployment=setting.deployment,
        main_kind=profile.manifest.space or "timm",
        created_utc=profile.manifest.created_utc,
        sources=(entry.name,),
        environment=profile.manifest.environment,
        environments=(profile.manifest.environment_id,) * len(rows),
        kinds=tuple(subject.name if subject.source == "space" else "timm" for subject in subjects),
        workloads=subject_workloads(subjects),
        batches=np.full(len(rows), setting.batch),
        figures=_columns(found),
        noise_floors=_noise_floors(rows, found),
        times=np.array([datetime.fromisoformat(row.started_utc).timestamp() for row in rows]),
        subjects=tuple(subjects),
    )


def of_space(networks: MeasuredNetworks, space: str) -> MeasuredNetworks:
    """The rows of one space alone."""
    rows = np.flatnonzero([kind == space for kind in networks.kinds])
    return replace(networks.take(rows), space=space)


def pooled(parts: Sequence[MeasuredNetworks], *, name: str) -> MeasuredNetworks:
    """The rows of several profiles of one setting; the noise floor is the mean of theirs, by their rows."""
    first = parts[0]
    all_named = all(part.subjects for part in parts)
    metrics = [metric for metric in MEASURED_METRICS if all(metric in part.figures for part in parts)]
    return replace(
        first,
        name=name,
        space=None,
        created_utc=max(part.created_utc for part in parts),
        sources=tuple(source for part in parts for source in part.sources),
        environments=tuple(environment for part in parts for environment in part.environments),
        kinds=tuple(kind for part in parts for kind in part.kinds),
        workloads=tuple(workload for part in parts for workload in part.workloads),
        batches=np.concatenate([part.batches for part in parts]),
        figures={metric: np.concatenate([part.figures[metric] for part in parts]) for metric in metrics},
        noise_floors={metric: _mean_floor(parts, metric) for metric in metrics if _have_floor(parts, metric)},
        times=None,
        subjects=tuple(subject for part in parts for subject in part.subjects) if all_named else (),
    )


def known_device(facts: Mapping[str, object], *, name: str) -> Device:
    """The device of that name: its datasheet, else what the facts tell."""
    if name in DEVICES:
        return DEVICES.get(name)
    usual = {"name": name, "kind": "cpu", "vendor": "unknown", "architecture": "unknown"}
    told = {key: value for key, value in facts.items() if key in Device.__dataclass_fields__}
    return from_mapping(Device, usual | told, where="device")


def _columns(found: Sequence[MeasurementSummary]) -> dict[MeasuredMetric, Numbers]:
    return {name: np.array([_figure(item, name) for item in found], dtype=np.float64) for name in MEASURED_METRICS}


def _figure(item: MeasurementSummary, name: MeasuredMetric) -> float:
    value = getattr(item, name)
    return float("nan") if value is None else float(value)


def _noise_floors(rows: Sequence[Measurement], found: Sequence[MeasurementSummary]) -> dict[MeasuredMetric, float]:
    floors: dict[MeasuredMetric, float] = {}
    for name in MEASURED_METRICS:
        floor = noise_floor(_repeated(rows, [_figure(item, name) for item in found]))
        if floor is not None and floor.mean_error > 0:
            floors[name] = floor.mean_error
    return floors


def _repeated(rows: Sequence[Measurement], values: Sequence[float]) -> list[tuple[float, float]]:
    """The figures of networks that were measured in two processes, the first of each."""
    first: dict[str, tuple[str, float]] = {}
    pairs: dict[str, tuple[float, float]] = {}
    for row, value in zip(rows, values, strict=True):
        process_id, known = first.setdefault(row.subject.network_id, (row.process_id, value))
        if process_id != row.process_id and value > 0 and known > 0:
            pairs.setdefault(row.subject.network_id, (known, value))
    return list(pairs.values())


def _have_floor(parts: Sequence[MeasuredNetworks], metric: MeasuredMetric) -> bool:
    return all(metric in part.noise_floors for part in parts)


def _mean_floor(parts: Sequence[MeasuredNetworks], metric: MeasuredMetric) -> float:
    return float(np.average([part.noise_floors[metric] for part in parts], weights=[len(part) for part in parts]))
