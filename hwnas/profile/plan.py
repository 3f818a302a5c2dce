"""Plans: the tasks of a campaign in their order, made here and possibly run on another machine.

A plan file has JSON lines: a head with the device and the space, then one self-contained task per line.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np

from hwnas.config import Between, FileName, from_mapping, parse_json, require_schema, shown, to_mapping
from hwnas.devices import DEVICES, resolve
from hwnas.errors import InputError, UsageError, unknown
from hwnas.files import file_errors, printable, read_text, write_atomic
from hwnas.metrics import RUNTIMES, Deployment
from hwnas.profile.landmarks import LANDMARKS
from hwnas.profile.options import AUTO, MAX_PAIRS, CampaignOptions
from hwnas.profile.runners.runner import exporter_for
from hwnas.profile.statistics import MIN_RUNS
from hwnas.profile.subjects import parse_timm_model, select_subjects, space_network, unique_subjects
from hwnas.profile.timing import PAIRS
from hwnas.records import Setting, Subject
from hwnas.records.manifest import CampaignSession
from hwnas.records.measurement import Seed
from hwnas.runs import Environment, environment
from hwnas.space import SPACES
from hwnas.space.elastic import SIZES

SCHEMA = "hwnas.plan/2"
"""Schema that this version writes and reads."""

MIN_REPEATS = 12
"""Smallest number of networks measured twice; a noise floor needs as many."""

_ORDER_STREAM = 1
"""Stream of the random generator for the order of tasks, independent of the one that samples networks."""

_FIRST_STAGE = 24
"""Networks of the first stage if a time is given; each further stage doubles them."""


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """One measurement to make."""

    subject: Subject
    setting: Setting
    repeat: bool = False
    """The second measurement of a network, in another process."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tasks of a campaign in their order."""

    device: str
    space: str | None
    """Space of the networks; None for timm models alone."""
    seed: int
    pairs: int = PAIRS
    origin: CampaignSession
    """The command that made the plan, and when."""
    tasks: tuple[PlannedTask, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The different settings, ordered by batch."""
        distinct = {task.setting: None for task in self.tasks}
        return tuple(sorted(distinct, key=lambda setting: (setting.batch, setting.exporter)))

    def with_runtime(self, runtime: str) -> "Plan":
        """Return the plan for a runtime, with the exporters that follow from it."""
        tasks = []
        for task in self.tasks:
            deployment = replace(task.setting.deployment, runtime=runtime)
            setting = Setting(deployment=deployment, exporter=exporter_for(runtime, task.subject))
            tasks.append(replace(task, setting=setting))
        return replace(self, tasks=tuple(tasks))


@dataclass(frozen=True, kw_only=True)
class WrittenPlan:
    """Result of writing a plan."""

    path: Path
    device: str
    num_tasks: int
    num_networks: int


def make_plan(options: CampaignOptions, device: str, *, num_samples: int) -> Plan:
    """Make the plan of a campaign.

    Args:
        options: Options of the campaign.
        device: Resolved name of the device.
        num_samples: Number of networks sampled from the space.

    Raises:
        UsageError: There is nothing to measure.
        InputError: A timm model of the options is not known.
    """
    if options.landmarks:
        subjects = unique_subjects([*LANDMARKS, *map(parse_timm_model, options.extra_models)])
        return plan_for_subjects(options, device, subjects)
    subjects = select_subjects(
        options.measured_space,
        num_samples,
        seed=options.seed,
        extra_models=options.extra_models,
        reference_networks=options.reference_networks,
    )
    if not subjects:
        raise UsageError(
            "there must be something to measure", got="--samples 0 --no-reference-networks", hint="--samples 20"
        )
    return plan_for_subjects(options, device, subjects, num_samples=num_samples)


def plan_for_subjects(
    options: CampaignOptions, device: str, subjects: Sequence[Subject], *, num_samples: int | None = None
) -> Plan:
    """Make the plan that measures given networks with the options of a campaign.

    Args:
        options: Options of the campaign.
        device: Resolved name of the device.
        subjects: The networks; the first ones are measured twice.
        num_samples: Number of networks from which the number of repeats follows; None: all of them.
    """
    runtime = options.runtime if options.runtime == AUTO else RUNTIMES.resolve(options.runtime)
    deployment = Deployment(device=device, runtime=runtime, precision=options.precision, threads=options.threads)
    settings = [Setting(deployment=replace(deployment, batch=batch)) for batch in options.batches]
    usual = 0 if options.landmarks else default_repeats(num_samples or len(subjects))
    repeats = usual if options.repeats is None else options.repeats
    return Plan(
        device=device,
        space=None if options.landmarks else SPACES.resolve(options.space),
        seed=options.seed,
        pairs=options.pairs,
        origin=new_session(options.command(), environment()),
        tasks=make_tasks(subjects, settings, repeats=repeats, seed=options.seed),
    )


def plan_stages(options: CampaignOptions, device: str) -> Iterator[Plan]:
    """Yield one plan, or plans that extend each other without end if a time is given."""
    if options.minutes is None:
        yield make_plan(options, device, num_samples=options.num_samples)
        return
    num_samples = _FIRST_STAGE
    while True:
        yield make_plan(options, device, num_samples=num_samples)
        num_samples *= 2


def default_repeats(num_samples: int) -> int:
    """Return the number of networks measured twice: one in eight, and enough for a noise floor."""
    return max(MIN_REPEATS, num_samples // 8)


def make_tasks(
    subjects: Sequence[Subject], settings: Sequence[Setting], *, repeats: int, seed: int
) -> tuple[PlannedTask, ...]:
    """Make the tasks that measure each network once in each setting, in random order.

    Random order keeps a drift of the machine from being mistaken for a difference between networks.

    Args:
        subjects: The networks.
        settings: The settings; the exporter is replaced by that of the network.
        repeats: Number of networks, from the first on, that are measured twice.
        seed: Seed of the order.
    """
    rng = np.random.default_rng([seed, _ORDER_STREAM])
    ranked: list[tuple[float, PlannedTask]] = []
    for setting in settings:
        for index, subject in enumerate(subjects):
            exporter = exporter_for(setting.runtime, subject)
            task = PlannedTask(subject=subject, setting=replace(setting, exporter=exporter))
            ranks = rng.uniform(size=2).tolist()
            if index < repeats:  # the repeat comes at any time after the first measurement
                ranked += [(min(ranks), task), (max(ranks), replace(task, repeat=True))]
            else:
                ranked.append((ranks[0], task))
    return tuple(task for _, task in sorted(ranked, key=lambda pair: pair[0]))


def new_session(command: tuple[str, ...], software: Environment) -> CampaignSession:
    """Return a session that begins now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return CampaignSession(started_utc=now, command=command, commit=software.commit, modified=software.modified)


def require_space(name: str) -> None:
    """Require that a space exists."""
    if name not in SPACES:
        raise unknown("space", name, SPACES, hint="hwnas profile --space {}")


def write_plan(options: CampaignOptions, path: Path) -> WrittenPlan:
    """Write the plan of a campaign to a file, to be measured on a machine with the device.

    Raises:
        UsageError: The options give a time instead of a number of networks, or leave a batch size open.
        InputError: The folder of the file does not exist, or the path is that of a folder.
    """
    if options.minutes is not None:
        raise UsageError("a plan needs a number of networks", got="--minutes", hint="--samples 100")
    if options.peak_batch:
        raise UsageError("a plan needs batch sizes: the peak is found on the device", got="peak", hint="--batch 1,64")
    require_space(options.space)
    with file_errors(path, "written"):
        is_folder = path.is_dir()
    if is_folder or not path.name:
        raise InputError(f"{printable(path)} must be a file to write the plan to", got="a folder", hint="plan.jsonl")
    plan = make_plan(options, resolve(options.device), num_samples=options.num_samples)
    if is_foreign(options.runtime, plan.device):
        message = f"{options.runtime} cannot use {plan.device}, for which this plan is"
        raise UsageError(message, got=f"--runtime {options.runtime}", hint=f"--runtime {AUTO}")
    if not path.parent.is_dir():
        raise InputError(f"{path} must be in a folder that exists", got=path.parent)
    save_plan(plan, path)
    networks = {task.subject.network_id for task in plan.tasks}
    return WrittenPlan(path=path, device=plan.device, num_tasks=len(plan.tasks), num_networks=len(networks))


def is_foreign(runtime: str, device: str) -> bool:
    """Return True for a runtime that cannot use a device of another machine, whatever is installed there."""
    gpu = device.partition("-mig-")[0]
    return runtime == "openvino" and gpu in DEVICES and DEVICES.get(gpu).has_cuda


@dataclass(frozen=True, kw_only=True)
class _Head:
    schema: str = SCHEMA
    device: FileName
    space: FileName | None
    seed: Seed
    pairs: Annotated[int, Between(MIN_RUNS, MAX_PAIRS)] = PAIRS
    num_tasks: Annotated[int, Between(1, 100_000_000)]
    origin: CampaignSession


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan atomically."""
    values = {field.name: getattr(plan, field.name) for field in fields(plan) if field.name != "tasks"}
    rows = [_Head(**values, num_tasks=len(plan.tasks)), *plan.tasks]
    lines = (json.dumps(to_mapping(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomic(path, "".join(line + "\n" for line in lines))


def load_plan(path: Path) -> Plan:
    """Read the plan of one campaign.

    Raises:
        InputError: The file cannot be read or is incomplete, a line is invalid, a network is not one of the space, or
            the tasks are not those of one campaign, which differ in nothing but the batch of their deployment.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty, but it must hold a plan")
    lines = text.removesuffix("\n").split("\n")
    head = _parse_head(lines[0], source=f"{path}, line 1")
    if len(lines) - 1 != head.num_tasks:
        raise InputError(f"{path} must hold {head.num_tasks} tasks", got=len(lines) - 1, hint="copy it again")
    sources = [f"{path}, line {number}" for number in range(2, len(lines) + 1)]
    tasks = tuple(
        from_mapping(PlannedTask, parse_json(line, source=source), where=f"{source}: task")
        for source, line in zip(sources, lines[1:], strict=True)
    )
    values = {name: value for name, value in vars(head).items() if name not in ("schema", "num_tasks")}
    plan = Plan(**values, tasks=tasks)
    _require_one_campaign(plan, path)
    _require_networks(plan, path)
    return plan


def _require_one_campaign(plan: Plan, path: Path) -> None:
    shared = replace(plan.tasks[0].setting.deployment, device=plan.device, batch=None)
    for line, task in enumerate(plan.tasks, start=2):
        deployment = task.setting.deployment
        if not shared.matches(deployment):
            message = f"{path}, line {line}: the deployment must be that of the whole plan but for the batch"
            raise InputError(message, got=deployment, known=[str(shared)])


def _require_networks(plan: Plan, path: Path) -> None:
    """Require that the space is known, and that each network is the one that its id names."""
    if plan.space is not None and plan.space not in SPACES:
        raise unknown(f"{path}, line 1: head.space", plan.space, SPACES)
    checked: set[str] = set()
    for line, task in enumerate(plan.tasks, start=2):
        subject, where = task.subject, f"{path}, line {line}: task.subject"
        if subject.source == "timm":
            if subject.network_id not in (f"timm:{subject.name}", f"timm:{subject.name}@{subject.image_size}"):
                raise InputError(f"{where}.network_id must be that of the model", got=subject.network_id)
        # A front of one size is measured with its model at other sizes.
        elif plan.space is None or SPACES.resolve(plan.space) not in (subject.name, subject.name.removesuffix(SIZES)):
            known = [plan.space or "models of timm alone"]
            raise InputError(f"{where}.name must be the space of the plan", got=subject.name, known=known)
        elif subject.network_id not in checked:
            try:
                space_network(subject)
            except InputError as error:
                raise InputError(f"{where}: {error.message}", got=error.got, known=error.known) from error
            checked.add(subject.network_id)


def _parse_head(line: str, *, source: str) -> _Head:
    data = parse_json(line, source=source)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must be the head of a plan", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source, hint="write it again with --plan-only")
    return from_mapping(_Head, data, where=f"{source}: head")
