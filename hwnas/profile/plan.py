"""What a campaign measures, in which order, as a file that can be taken to another machine.

A plan is JSON lines: a head that says for which device and space, then one task a line, each complete in itself.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.devices import resolve
from hwnas.errors import InputError, UsageError, unknown
from hwnas.metrics import RUNTIMES, Deployment
from hwnas.profile.options import AUTO, CampaignOptions
from hwnas.profile.statistics import MIN_RUNS
from hwnas.profile.subjects import select_subjects
from hwnas.profile.timing import PAIRS
from hwnas.records import Setting, Subject
from hwnas.records.manifest import CampaignSession
from hwnas.records.measurement import parse_subject, require_schema
from hwnas.runs import Environment, environment, write_atomic
from hwnas.space import SPACES

SCHEMA = "hwnas.plan/2"
"""The form of the file that this version writes and reads."""

MIN_REPEATS = 12
"""Networks measured twice at the least: fewer tell no noise floor."""

_ORDER = 1
"""What the generator is for, beside the seed: its draws are not those that choose networks."""


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """One measurement that is to be made; `repeat` is the second one of a network, in another process."""

    subject: Subject
    setting: Setting
    repeat: bool = False


@dataclass(frozen=True, kw_only=True)
class _Head:
    schema: str = SCHEMA
    device: str
    space: str | None
    seed: int
    pairs: int = PAIRS
    num_tasks: int
    origin: CampaignSession


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tasks of a campaign in their order."""

    device: str
    space: str | None
    seed: int
    pairs: int = PAIRS
    origin: CampaignSession
    """When and by which command it was made."""
    tasks: tuple[PlannedTask, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The different settings, in the order of their batches."""
        found = {task.setting: None for task in self.tasks}
        return tuple(sorted(found, key=lambda setting: (setting.batch, setting.exporter)))


def default_repeats(num_samples: int) -> int:
    """How many networks are measured twice: one in eight, and enough for a noise floor."""
    return max(MIN_REPEATS, num_samples // 8)


def make_tasks(
    subjects: Sequence[Subject], settings: Sequence[Setting], *, repeats: int, seed: int
) -> tuple[PlannedTask, ...]:
    """Every subject once in every setting, the first `repeats` of them twice, in random order.

    A repeat stands anywhere after the first measurement of its network.
    """
    rng = np.random.default_rng([seed, _ORDER])
    keyed: list[tuple[float, PlannedTask]] = []
    for setting in settings:
        for index, subject in enumerate(subjects):
            task = PlannedTask(
                subject=subject, setting=replace(setting, exporter=exporter_for(setting.runtime, subject))
            )
            one, other = rng.uniform(size=2).tolist()
            keyed.append((min(one, other) if index < repeats else one, task))
            if index < repeats:
                keyed.append((max(one, other), replace(task, repeat=True)))
    return tuple(task for _, task in sorted(keyed, key=lambda pair: pair[0]))


def exporter_for(runtime: str, subject: Subject) -> str:
    """How a runtime gets a network: torch as a module, others composed from blocks where it is made of such."""
    if runtime.startswith("torch"):
        return "module"
    return "composed" if subject.source == "space" else "dynamo"


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan, all or nothing."""
    values = {field.name: getattr(plan, field.name) for field in fields(plan) if field.name != "tasks"}
    rows = [_Head(**values, num_tasks=len(plan.tasks)), *plan.tasks]
    lines = (json.dumps(to_mapping(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomic(path, "".join(line + "\n" for line in lines))


def load_plan(path: Path) -> Plan:
    """Read a plan; one that is cut off is an error."""
    lines = _lines(path)
    head = _head(lines[0], source=f"{path}, line 1")
    if len(lines) - 1 != head.num_tasks:
        raise InputError(f"{path} must hold {head.num_tasks} tasks", got=len(lines) - 1, hint="copy it again")
    tasks = tuple(_task(line, source=f"{path}, line {number}") for number, line in enumerate(lines[1:], start=2))
    values = {field.name: getattr(head, field.name) for field in fields(head)}
    return Plan(**{name: value for name, value in values.items() if name not in ("schema", "num_tasks")}, tasks=tasks)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read", got=error) from error
    if not text.strip():
        raise InputError(f"{path} is empty, but it must hold a plan")
    return text.splitlines()


def _head(line: str, *, source: str) -> _Head:
    data = parse_json(line, source=source)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must be the head of a plan", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source, hint="write it again with --plan-only")
    return from_mapping(_Head, data, where=source)


def _task(line: str, *, source: str) -> PlannedTask:
    data = parse_json(line, source=source)
    known = {field.name for field in fields(PlannedTask)}
    if not isinstance(data, dict) or not {"subject", "setting"} <= data.keys() <= known:
        raise InputError(f"{source} must be a task", got=shown(data), known=sorted(known))
    values: dict[str, Any] = {
        "subject": parse_subject(data["subject"], where=f"{source}: subject"),
        "setting": from_mapping(Setting, data["setting"], where=f"{source}: setting"),
    }
    if not isinstance(data.get("repeat", False), bool):
        raise InputError(f"{source}: repeat must be true or false", got=shown(data["repeat"]))
    return PlannedTask(**values, repeat=data.get("repeat", False))


_FIRST_STAGE = 24
"""Networks of the first stage where a time is given; each stage after it has twice as many."""


@dataclass(frozen=True, kw_only=True)
class WrittenPlan:
    """A plan that was written."""

    path: Path
    device: str
    num_tasks: int
    num_networks: int


def write_plan(request: CampaignOptions, path: Path) -> WrittenPlan:
    """Write what `measure` would do to a file, for a machine that has the device."""
    if request.minutes is not None:
        raise UsageError("a plan needs a number of networks", got="--minutes", hint="--samples 100")
    require_space(request.space)
    plan = make_plan(request, resolve(request.device), num_samples=request.num_samples)
    if not path.parent.is_dir():
        raise InputError(f"{path} must be in a folder that exists", got=path.parent)
    save_plan(plan, path)
    networks = {task.subject.network_id for task in plan.tasks}
    return WrittenPlan(path=path, device=plan.device, num_tasks=len(plan.tasks), num_networks=len(networks))


def read_plan(path: Path) -> Plan:
    """The plan in a file, which must be one campaign: one device, runtime and precision, and as many threads."""
    plan = load_plan(path)
    if not plan.tasks:
        raise InputError(f"{path} must hold at least one task", got="its head alone")
    if plan.pairs < MIN_RUNS:
        raise InputError(f"{path}, line 1: pairs must be at least {MIN_RUNS}", got=plan.pairs)
    shared = replace(plan.tasks[0].setting.deployment, device=plan.device, batch=None)
    for line, task in enumerate(plan.tasks, start=2):
        deployment = task.setting.deployment
        if not shared.matches(deployment):
            message = f"{path}, line {line}: the deployment must be that of the whole plan but for the batch"
            raise InputError(message, got=deployment, known=[str(shared)])
    return plan


def plan_stages(request: CampaignOptions, device: str) -> Iterator[Plan]:
    """One plan; where a time is given, plans that extend each other without end."""
    if request.minutes is None:
        yield make_plan(request, device, num_samples=request.num_samples)
        return
    number = _FIRST_STAGE
    while True:
        yield make_plan(request, device, num_samples=number)
        number *= 2


def make_plan(request: CampaignOptions, device: str, *, num_samples: int) -> Plan:
    """The plan of a request with so many networks of the space."""
    space = SPACES.get(request.space)
    subjects = select_subjects(space, num_samples, seed=request.seed, also=request.also, landmarks=request.landmarks)
    if not subjects:
        raise UsageError("there must be something to measure", got="--samples 0 --no-landmarks", hint="--samples 20")
    return plan_for_subjects(request, device, subjects, num_samples=num_samples)


def plan_for_subjects(
    request: CampaignOptions, device: str, subjects: Sequence[Subject], *, num_samples: int | None = None
) -> Plan:
    """The plan that measures these networks as a request says."""
    runtime = request.runtime if request.runtime == AUTO else RUNTIMES.resolve(request.runtime)
    deployment = Deployment(device=device, runtime=runtime, precision=request.precision, threads=request.threads)
    settings = [Setting(deployment=replace(deployment, batch=batch)) for batch in request.batches]
    repeats = default_repeats(num_samples or len(subjects)) if request.repeats is None else request.repeats
    return Plan(
        device=device,
        space=SPACES.resolve(request.space),
        seed=request.seed,
        pairs=request.pairs,
        origin=start_session(request.command(), environment()),
        tasks=make_tasks(subjects, settings, repeats=repeats, seed=request.seed),
    )


def start_session(command: tuple[str, ...], software: Environment) -> CampaignSession:
    """A session that begins now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return CampaignSession(started_utc=now, command=command, commit=software.commit, modified=software.modified)


def require_space(name: str) -> None:
    """The space must be one that there is."""
    if name not in SPACES:
        raise unknown("space", name, SPACES, hint="hwnas profile --space {}")


def with_runtime(plan: Plan, runtime: str) -> Plan:
    """The same plan with its runtime, and the exporters that follow from it."""
    return replace(plan, tasks=tuple(_task_with(task, runtime) for task in plan.tasks))


def _task_with(task: PlannedTask, runtime: str) -> PlannedTask:
    deployment = replace(task.setting.deployment, runtime=runtime)
    return replace(task, setting=Setting(deployment=deployment, exporter=exporter_for(runtime, task.subject)))
