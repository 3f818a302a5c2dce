"""Plans: what a campaign measures, made here and perhaps run on another machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hwnas.devices import resolve
from hwnas.errors import InputError, UsageError, unknown
from hwnas.profile.plan import Plan, PlannedTask, default_repeats, exporter, load_plan, make_tasks, save_plan
from hwnas.profile.request import AUTO, CampaignRequest
from hwnas.profile.runners.runner import RUNNERS
from hwnas.profile.selection import select
from hwnas.profile.statistics import MIN_RUNS
from hwnas.records import Session, Setting, Subject
from hwnas.runs import Environment, environment
from hwnas.space import SPACES

_FIRST_STAGE = 24
"""Networks of the first stage where a time is given; each stage after it has twice as many."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan that was written."""

    path: Path
    device: str
    num_tasks: int
    num_networks: int


def write_plan(request: CampaignRequest, path: Path) -> Planned:
    """Write what `measure` would do to a file, for a machine that has the device."""
    if request.minutes is not None:
        raise UsageError("a plan needs a number of networks", got="--minutes", hint="--samples 100")
    require_space(request.space)
    plan = make_plan(request, resolve(request.device), num_samples=request.num_samples)
    if not path.parent.is_dir():
        raise InputError(f"{path} must be in a folder that exists", got=path.parent)
    save_plan(plan, path)
    networks = {task.subject.network_id for task in plan.tasks}
    return Planned(path=path, device=plan.device, num_tasks=len(plan.tasks), num_networks=len(networks))


def read_plan(path: Path) -> Plan:
    """The plan in a file, which must be one campaign: one device, runtime and precision, and as many threads."""
    plan = load_plan(path)
    if not plan.tasks:
        raise InputError(f"{path} must hold at least one task", got="its head alone")
    if plan.pairs < MIN_RUNS:
        raise InputError(f"{path}, line 1: pairs must be at least {MIN_RUNS}", got=plan.pairs)
    first = replace(plan.tasks[0].setting, device=plan.device)
    for line, task in enumerate(plan.tasks, start=2):
        _require_alike(task.setting, first, where=f"{path}, line {line}")
    return plan


def _require_alike(setting: Setting, first: Setting, *, where: str) -> None:
    for name in ("device", "runtime", "precision", "threads"):
        found, wanted = getattr(setting, name), getattr(first, name)
        if found != wanted:
            raise InputError(f"{where}: setting.{name} must be that of the whole plan", got=found, known=[wanted])
    for name in ("batch", "threads"):
        if getattr(setting, name) < 1:
            raise InputError(f"{where}: setting.{name} must be at least 1", got=getattr(setting, name))


def stages(request: CampaignRequest, device: str) -> Iterator[Plan]:
    """One plan; where a time is given, plans that extend each other without end."""
    if request.minutes is None:
        yield make_plan(request, device, num_samples=request.num_samples)
        return
    number = _FIRST_STAGE
    while True:
        yield make_plan(request, device, num_samples=number)
        number *= 2


def make_plan(request: CampaignRequest, device: str, *, num_samples: int) -> Plan:
    """The plan of a request with so many networks of the space."""
    space = SPACES.get(request.space)
    subjects = select(space, num_samples, seed=request.seed, also=request.also, landmarks=request.landmarks)
    if not subjects:
        raise UsageError("there must be something to measure", got="--samples 0 --no-landmarks", hint="--samples 20")
    return plan_of(request, device, subjects, num_samples=num_samples)


def plan_of(
    request: CampaignRequest, device: str, subjects: Sequence[Subject], *, num_samples: int | None = None
) -> Plan:
    """The plan that measures these networks as a request says."""
    runtime = request.runtime if request.runtime == AUTO else RUNNERS.resolve(request.runtime)
    options = {"device": device, "runtime": runtime, "precision": request.precision, "threads": request.threads}
    settings = [Setting(**options, batch=batch) for batch in request.batches]  # type: ignore[arg-type]
    repeats = default_repeats(num_samples or len(subjects)) if request.repeats is None else request.repeats
    return Plan(
        device=device,
        space=SPACES.resolve(request.space),
        seed=request.seed,
        pairs=request.pairs,
        origin=session_now(request.command(), environment()),
        tasks=make_tasks(subjects, settings, repeats=repeats, seed=request.seed),
    )


def session_now(command: tuple[str, ...], software: Environment) -> Session:
    """A session that begins now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Session(started_utc=now, command=command, commit=software.commit, modified=software.modified)


def require_space(name: str) -> None:
    """The space must be one that there is."""
    if name not in SPACES:
        raise unknown("space", name, SPACES, hint="hwnas profile --space {}")


def with_runtime(plan: Plan, runtime: str) -> Plan:
    """The same plan with its runtime, and the exporters that follow from it."""
    return replace(plan, tasks=tuple(_task_with(task, runtime) for task in plan.tasks))


def _task_with(task: PlannedTask, runtime: str) -> PlannedTask:
    return replace(task, setting=replace(task.setting, runtime=runtime, exporter=exporter(runtime, task.subject)))
