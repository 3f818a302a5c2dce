"""Where a campaign runs: this machine, its runtimes, and the profiles that it writes to."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hwnas.devices import Device, Machine, detect
from hwnas.errors import InputError, MissingError
from hwnas.profile.campaign import Measurer, Processes
from hwnas.profile.facts import device_facts, environment_facts
from hwnas.profile.library import folder_name, folders_of, free_name
from hwnas.profile.plan import Plan
from hwnas.profile.planning import session_now
from hwnas.profile.request import AUTO
from hwnas.profile.runners.runner import DEFAULT_ORDER, Availability, load_runner
from hwnas.profile.subjects import REFERENCE
from hwnas.progress import Reporter
from hwnas.records import ProfileManifest, Setting, Store
from hwnas.records.manifest import read_manifest
from hwnas.records.store import differences
from hwnas.runs import Environment, environment


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a campaign runs; tests stand in for parts of it."""

    machine: Machine
    software: Environment
    start: Callable[[], Measurer]

    @classmethod
    def here(cls, *, limit_s: float | None = None) -> "Workplace":
        """This machine, with worker processes that measure and give a network up after `limit_s` in all."""
        from hwnas.profile.worker import Limits, Worker

        limits = Limits() if limit_s is None else Limits(task_s=limit_s)
        return cls(machine=detect(), software=environment(), start=lambda: Worker(limits=limits))


def choose_runtime(plan: Plan, device: Device, reporter: Reporter) -> str:
    """The runtime of a plan, known to be here; the best one present where the plan leaves it open."""
    asked = plan.tasks[0].setting.runtime
    if asked != AUTO:
        _require_available(asked, load_runner(asked).available(device))
        return asked
    reasons = []
    for name in DEFAULT_ORDER:
        found = load_runner(name).available(device)
        if found.available:
            reporter.say(f"runtime {name} on {device.name}")
            return name
        reasons.append(f"{name}: {found.reason}")
    raise MissingError(f"no runtime can use {device.name} here", got="; ".join(reasons), hint="hwnas doctor")


def _require_available(runtime: str, found: Availability) -> None:
    if not found.available:
        hint = f"pip install 'hwnas[{found.extra}]'" if found.extra else "hwnas doctor"
        raise MissingError(f"runtime {runtime} cannot be used here", got=found.reason, hint=hint)


@dataclass(frozen=True, kw_only=True)
class StoreOpener:
    """What it takes to open the stores of a campaign, one for each batch."""

    out: Path
    new: bool
    named: bool
    """Whether the user named `out`: then nothing is measured beside what stands there unless `new` says so."""
    device: Device
    place: Workplace
    processes: Processes
    reporter: Reporter

    def open(self, plan: Plan) -> dict[int, Store]:
        """The open stores by batch; all are closed again if one cannot be opened."""
        session = session_now(plan.origin.command, self.place.software)
        with ExitStack() as stack:
            stores: dict[int, Store] = {}
            for setting in _settings(plan):
                _require_supported(setting)
                manifest = self._manifest(plan, setting)
                store = stack.enter_context(Store(self._folder(manifest), manifest=manifest, session=session))
                stores[setting.batch] = store
                for note in store.notes:
                    self.reporter.say(note)
            stack.pop_all()
        return stores

    def _manifest(self, plan: Plan, setting: Setting) -> ProfileManifest:
        facts = self.processes.get(repeat=False).facts(setting)
        for note in facts.notes:
            self.reporter.say(note)
        place = self.place
        return ProfileManifest(
            space=plan.space,
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            setting=setting,
            reference=REFERENCE,
            environment=environment_facts(
                setting, machine=place.machine, software=place.software, runtime=facts.runtime
            ),
            device=device_facts(self.device),
        )

    def _folder(self, manifest: ProfileManifest) -> Path:
        """The newest profile of the same environment; else a new one, beside those of other environments."""
        parent, name = self.out / self.device.name, folder_name(manifest.space, manifest.setting)
        if self.new:
            return parent / free_name(parent, name)
        there = folders_of(parent, name)
        fitting = [folder for folder in there if not differences(read_manifest(folder), manifest)]
        if fitting:
            return fitting[-1]
        return parent / name if self.named or not there else self._beside(there[-1], parent / name, manifest)

    def _beside(self, there: Path, wanted: Path, manifest: ProfileManifest) -> Path:
        """The folder of a profile that begins beside those there, and a word on why it does."""
        free = wanted.parent / free_name(wanted.parent, wanted.name)
        pairs = differences(read_manifest(there), manifest)
        shown = "; ".join(f"{name}: there {one}, here {other}" for name, (one, other) in pairs.items())
        self.reporter.say(f"{there} was measured in another environment ({shown}); measuring into {free}")
        return free


def _settings(plan: Plan) -> list[Setting]:
    """One setting for each batch, with the exporter of the space's networks."""
    found: dict[int, Setting] = {}
    for setting in plan.settings:
        found.setdefault(setting.batch, setting)
    return list(found.values())


def _require_supported(setting: Setting) -> None:
    found = load_runner(setting.runtime).supports(setting)
    if not found.available:
        raise InputError(f"{setting.runtime} must be able to run in this setting", got=found.reason)
