"""What a worker is asked and what it answers, as lines of JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwnas.config import from_mapping, shown
from hwnas.errors import InputError
from hwnas.profile.subjects import REFERENCE
from hwnas.profile.timing import PAIRS
from hwnas.records import DeviceState, Failure, Measurement, OutputParity, Samples, Setting, Subject
from hwnas.records.measurement import parse_subject


@dataclass(frozen=True, kw_only=True)
class MeasurementTask:
    """One network to be measured in strict pairs with the reference network."""

    subject: Subject
    setting: Setting
    seed: int
    """Of weights and images."""
    pairs: int = PAIRS
    reference: Subject = REFERENCE


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What came of a task: samples or a failure; `process_id` names the worker process."""

    process_id: str
    started_utc: str
    duration_s: float
    samples: Samples | None = None
    reference: Samples | None = None
    export_s: float | None = None
    """From the module to a session that runs."""
    memory_mb: float | None = None
    energy_j: float | None = None
    parity: OutputParity | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None
    failure: Failure | None = None

    def measurement(self, task: MeasurementTask, *, environment_id: str) -> Measurement:
        """The row that is recorded."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Measurement(
            subject=task.subject,
            setting=task.setting,
            seed=task.seed,
            environment_id=environment_id,
            **values,
        )


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a worker process says of itself for a setting."""

    process_id: str
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Versions, providers, switches: part of the environment."""
    notes: tuple[str, ...] = ()
    """What cannot be recorded here, and why."""


def parse_task(data: object) -> MeasurementTask:
    """The task in plain values."""
    if not isinstance(data, Mapping):
        raise InputError("a task must be a table of named values", got=shown(data))
    return MeasurementTask(
        subject=parse_subject(data.get("subject"), where="task.subject"),
        reference=parse_subject(data.get("reference"), where="task.reference"),
        setting=parse_setting(data.get("setting")),
        **{name: data[name] for name in ("seed", "pairs")},
    )


def parse_setting(data: object) -> Setting:
    """The setting in plain values."""
    return from_mapping(Setting, data, where="setting")


def parse_result(values: object) -> TaskResult:
    """The outcome in plain values."""
    return from_mapping(TaskResult, values, where="outcome")


def parse_facts(values: Mapping[str, Any]) -> WorkerFacts:
    """The facts in plain values."""
    runtime = {str(name): str(value) for name, value in values["runtime"].items()}
    return WorkerFacts(process_id=str(values["process_id"]), runtime=runtime, notes=tuple(values["notes"]))
