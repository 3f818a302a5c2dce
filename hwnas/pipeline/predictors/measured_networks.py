"""Measured networks of one setting, from profiles and published tables: workloads and values as input of a fit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas.config import from_mapping
from hwnas.devices import DEVICES, Device
from hwnas.errors import InputError
from hwnas.metrics import MEASURED_METRICS, Deployment, MeasuredMetric, Metric
from hwnas.pipeline.predictors.workloads import known_workloads, subject_population, subject_workloads, timm_workload
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import Conditions, conditions_of
from hwnas.predict.features.counting import population_features, workload_features
from hwnas.predict.features.table import Features
from hwnas.predict.fit import Observations
from hwnas.profile.lookup import ProfileEntry, TableEntry
from hwnas.profile.results import MeasurementSummary, summarize_measurements
from hwnas.profile.statistics import noise_floor
from hwnas.records import Measurement, Subject, load_profile
from hwnas.records.manifest import MANIFEST
from hwnas.records.table import TableRow, compile_pattern, read_table
from hwnas.records.workloads import ModelKey, TracedModels
from hwnas.workload import Workload, Workloads

_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class MeasuredNetworks:
    """Networks that were measured in one deployment, one row per measurement."""

    name: str
    """Name of the profile, or of the combined profiles."""
    device: Device
    deployment: Deployment
    """Deployment of all rows."""
    main_space_name: str
    """The space that was profiled, or `timm`."""
    space: str | None = None
    """Space of all rows, if they are of one."""
    created_utc: str
    sources: tuple[str, ...]
    environment: Mapping[str, str]
    environments: tuple[str, ...]
    """The environment id of each row."""
    space_names: tuple[str, ...]
    """The space of each row, or `timm`."""
    workloads: tuple[Workload, ...]
    batches: NDArray[np.int64]
    values: Mapping[MeasuredMetric, Numbers]
    """Values by metric; NaN where none was measured."""
    noise_floors: Mapping[MeasuredMetric, float]
    """Noise floors of the metrics for which enough networks were measured twice."""
    times: Numbers | None = None
    """Time of each measurement in seconds; None if unknown."""
    undisturbed: NDArray[np.bool_] | None = None
    """Rows with enough runs on cores that were not slowed down; None: all."""
    subjects: tuple[Subject, ...] = ()
    """Network of each row; empty for a table, which only names its models."""
    processes: tuple[str, ...] = ()
    """Process that measured each row; empty for a table."""
    families: tuple[str, ...] = ()
    """Family of each row: its space, or the beginning of the name of timm's model."""

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
        return self.features_for(self.conditions)

    def features_for(self, conditions: Conditions) -> Features:
        """Return the features of each row under these conditions, with block counts if all are of one space."""
        if self._population is None or np.ndim(conditions.batch):
            return workload_features(self.workloads, conditions)
        return population_features(self._population, conditions, counts=True)

    @cached_property
    def _population(self) -> Workloads | None:
        """The rows as a population, if all are of one space and image size."""
        return subject_population(self.subjects) if self.space is not None and self.subjects else None

    @property
    def metrics(self) -> tuple[MeasuredMetric, ...]:
        """The metrics that at least one row has."""
        present = [name for name in MEASURED_METRICS if name in self.values]
        return tuple(name for name in present if np.isfinite(self.values[name]).any())

    def take(self, rows: NDArray[np.intp]) -> "MeasuredNetworks":
        """Return some of the rows."""
        return replace(
            self,
            environments=tuple(self.environments[row] for row in rows),
            space_names=tuple(self.space_names[row] for row in rows),
            workloads=tuple(self.workloads[row] for row in rows),
            batches=self.batches[rows],
            values={name: values[rows] for name, values in self.values.items()},
            times=None if self.times is None else self.times[rows],
            undisturbed=None if self.undisturbed is None else self.undisturbed[rows],
            subjects=tuple(self.subjects[row] for row in rows) if self.subjects else (),
            processes=tuple(self.processes[row] for row in rows) if self.processes else (),
            families=tuple(self.families[row] for row in rows) if self.families else (),
        )

    def observations(self, metric: MeasuredMetric) -> Observations:
        """Return the rows that have the metric as input of a fit."""
        rows = np.flatnonzero(np.isfinite(self.values[metric]))
        part = self if len(rows) == len(self) else self.take(rows)
        return Observations(
            metric=Metric(name=metric, deployment=self.deployment),
            space=self.space,
            conditions=part.conditions,
            features=part.features,
            values=part.values[metric],
            environments=part.environments,
            environment=self.environment,
            sources=self.sources,
            noise_floor=self.noise_floors.get(metric),
            times=part.times,
            undisturbed=part.undisturbed,
            repeated=_repeated_rows(part),
            families=part.families if self.space is None else (),
            kinds=tuple(sorted(set(part.space_names))),
        )


def measured_profile(entry: ProfileEntry, *, num_networks: int | None = None) -> MeasuredNetworks:
    """Return the measured networks of a profile, reference networks included.

    Args:
        entry: The profile.
        num_networks: Number of networks of each kind that are needed, those measured first; None: all.
    """
    profile = load_profile(entry.path)
    rows = [row for row in profile.measured if row.samples and row.reference]
    summaries = summarize_measurements(profile)
    noise_floors = _noise_floors(rows, summaries)
    if num_networks is not None:
        kept = _first_rows(rows, num_networks)
        rows, summaries = [rows[row] for row in kept], tuple(summaries[row] for row in kept)
    setting = profile.manifest.setting
    subjects = [row.subject for row in rows]
    return MeasuredNetworks(
        name=entry.name,
        device=known_device(profile.manifest.device, name=setting.device, source=f"{entry.path}/{MANIFEST}: device"),
        deployment=setting.deployment,
        main_space_name=profile.manifest.space or "timm",
        created_utc=profile.manifest.created_utc,
        sources=(entry.name,),
        environment=profile.manifest.environment,
        environments=(profile.manifest.environment_id,) * len(rows),
        space_names=tuple(map(_space_name, subjects)),
        workloads=subject_workloads(subjects),
        batches=np.full(len(rows), setting.batch),
        values={
            metric: np.array([_value(summary, metric) for summary in summaries], dtype=np.float64)
            for metric in MEASURED_METRICS
        },
        noise_floors=noise_floors,
        times=np.array(list(map(_time, rows))),
        undisturbed=np.array([summary.has_enough_runs for summary in summaries], dtype=np.bool_),
        subjects=tuple(subjects),
        processes=tuple(row.process_id for row in rows),
        families=tuple(map(_family, subjects)),
    )


def measured_table(entry: TableEntry) -> MeasuredNetworks:
    """Return the rows of a table whose models were or can be traced."""
    manifest, table_rows = read_table(entry.path)
    traced = known_workloads(entry.path.parents[1])
    pairs = [(row, _workload(row, traced)) for row in match_models(table_rows, manifest.match)]
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
        families=tuple(family_of(row.model) for row in rows),
    )


def match_models(rows: Sequence[TableRow], pattern: str) -> list[TableRow]:
    """Return the rows with a model whose name matches the pattern from its beginning."""
    compiled = compile_pattern(pattern, where="--match")
    return [row for row in rows if compiled.match(row.model)]


def model_key(row: TableRow) -> ModelKey:
    """Return the key of the traced model of a row."""
    return row.model, row.image_size


def _time(row: Measurement) -> float:
    return datetime.fromisoformat(row.started_utc).timestamp()


def _space_name(subject: Subject) -> str:
    return subject.name if subject.source == "space" else "timm"


def family_of(model: str) -> str:
    """Return the family of one of timm's models: the beginning of its name."""
    return model[:9] if model.startswith("swinv2_cr") else re.split(r"[_.]", model)[0]


def _family(subject: Subject) -> str:
    return subject.name if subject.source == "space" else family_of(subject.name)


def _repeated_rows(networks: MeasuredNetworks) -> tuple[tuple[int, int], ...]:
    """Return the rows of the first two measurements of each network that two processes measured."""
    first: dict[str, int] = {}
    pairs: dict[str, tuple[int, int]] = {}
    for row, (subject, process) in enumerate(zip(networks.subjects, networks.processes, strict=True)):
        known = first.setdefault(subject.network_id, row)
        if networks.processes[known] != process:
            pairs.setdefault(subject.network_id, (known, row))
    return tuple(pairs.values())


def _first_rows(rows: Sequence[Measurement], num_networks: int) -> list[int]:
    """Return the rows of the first networks of each kind, in the order of the rows."""
    # A store may have 100,000 rows, whose workloads take gigabytes. Networks with other ids may have equal features and
    # count as one in a fit, so some more are kept than are needed.
    most = 2 * num_networks + 20
    ids: dict[str, set[str]] = {}
    kept = []
    for row in sorted(range(len(rows)), key=lambda row: _time(rows[row])):
        known = ids.setdefault(_space_name(rows[row].subject), set())
        if len(known) < most or rows[row].subject.network_id in known:
            known.add(rows[row].subject.network_id)
            kept.append(row)
    return sorted(kept)


def select_space(networks: MeasuredNetworks, space: str) -> MeasuredNetworks:
    """Return the rows of one space."""
    rows = np.flatnonzero([name == space for name in networks.space_names])
    return replace(networks.take(rows), space=space)


def pool_profiles(parts: Sequence[MeasuredNetworks], *, name: str) -> MeasuredNetworks:
    """Combine several profiles of one setting; the noise floor is the mean of theirs, weighted by rows."""
    first = parts[0]
    sizes = [len(part) for part in parts]
    has_subjects = all(part.subjects for part in parts)
    metrics = [metric for metric in MEASURED_METRICS if all(metric in part.values for part in parts)]
    return replace(
        first,
        name=name,
        space=None,
        created_utc=max(part.created_utc for part in parts),
        sources=tuple(source for part in parts for source in part.sources),
        environments=tuple(environment for part in parts for environment in part.environments),
        space_names=tuple(name for part in parts for name in part.space_names),
        workloads=tuple(workload for part in parts for workload in part.workloads),
        batches=np.concatenate([part.batches for part in parts]),
        values={metric: np.concatenate([part.values[metric] for part in parts]) for metric in metrics},
        noise_floors={
            metric: float(np.average([part.noise_floors[metric] for part in parts], weights=sizes))
            for metric in metrics
            if all(metric in part.noise_floors for part in parts)
        },
        times=None,
        undisturbed=None,
        subjects=tuple(subject for part in parts for subject in part.subjects) if has_subjects else (),
        processes=tuple(process for part in parts for process in part.processes) if has_subjects else (),
        families=tuple(family for part in parts for family in part.families),
    )


def known_device(facts: Mapping[str, object], *, name: str, source: str = "device") -> Device:
    """Return the datasheet of a device, or what the facts of a profile say about a device without one."""
    if name in DEVICES:
        return DEVICES.get(name)
    defaults = {"name": name, "kind": "cpu", "vendor": "unknown", "architecture": "unknown"}
    known = {key: value for key, value in facts.items() if key in Device.__dataclass_fields__}
    return from_mapping(Device, defaults | known, where=source)


def _value(summary: MeasurementSummary, metric: MeasuredMetric) -> float:
    value = getattr(summary, metric)
    return float("nan") if value is None else float(value)


def _noise_floors(rows: Sequence[Measurement], summaries: Sequence[MeasurementSummary]) -> dict[MeasuredMetric, float]:
    floors: dict[MeasuredMetric, float] = {}
    for name in MEASURED_METRICS:
        floor = noise_floor(_repeated(rows, [_value(summary, name) for summary in summaries]))
        if floor is not None and floor.mean_error > 0:
            floors[name] = floor.mean_error
    return floors


def _repeated(rows: Sequence[Measurement], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return pairs of values of the networks that were measured in two processes, the first of each."""
    first: dict[str, tuple[str, float]] = {}
    pairs: dict[str, tuple[float, float]] = {}
    for row, value in zip(rows, values, strict=True):
        process_id, known = first.setdefault(row.subject.network_id, (row.process_id, value))
        if process_id != row.process_id and value > 0 and known > 0:
            pairs.setdefault(row.subject.network_id, (known, value))
    return list(pairs.values())


def _workload(row: TableRow, traced: TracedModels) -> Workload | None:
    if model_key(row) in traced.models:
        return traced.models[model_key(row)]
    try:
        return timm_workload(row.model, image_size=row.image_size)
    except InputError:  # the installed timm lacks the model, or it cannot be traced; the import reported it
        return None
