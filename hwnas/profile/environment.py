"""Where a campaign runs: this machine, its runtimes, and the profiles that it writes to."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hwnas.devices import Device, Machine, detect
from hwnas.errors import InputError, MissingError
from hwnas.profile.campaign import Measurer, WorkerPair
from hwnas.profile.lookup import free_name, numbered_profiles, profile_folder_name
from hwnas.profile.options import AUTO
from hwnas.profile.plan import Plan, new_session
from hwnas.profile.runners.runner import RUNTIME_PREFERENCE, Availability, load_runner
from hwnas.profile.subjects import REFERENCE
from hwnas.progress import Reporter
from hwnas.records import ProfileManifest, Setting, Store
from hwnas.records.manifest import read_manifest
from hwnas.records.store import manifest_differences
from hwnas.runs import Environment, environment

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CampaignEnvironment:
    """Where a campaign runs; tests stand in for parts of it."""

    machine: Machine
    software: Environment
    start: Callable[[], Measurer]

    @classmethod
    def here(cls, *, limit_s: float | None = None) -> "CampaignEnvironment":
        """This machine, with worker processes that measure and give a network up after `limit_s` in all."""
        from hwnas.profile.worker import Worker, WorkerLimits

        limits = WorkerLimits() if limit_s is None else WorkerLimits(task_s=limit_s)
        return cls(machine=detect(), software=environment(), start=lambda: Worker(limits=limits))


def choose_runtime(plan: Plan, device: Device, reporter: Reporter) -> str:
    """The runtime of a plan, known to be here; the best one present where the plan leaves it open."""
    asked = plan.tasks[0].setting.runtime
    if asked != AUTO:
        _require_available(asked, load_runner(asked).available(device))
        return asked
    reasons = []
    for name in RUNTIME_PREFERENCE:
        found = load_runner(name).available(device)
        if found.available:
            reporter.message(f"runtime {name} on {device.name}")
            return name
        _log.debug("runtime %s cannot be used: %s", name, found.reason)
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
    place: CampaignEnvironment
    processes: WorkerPair
    reporter: Reporter

    def open(self, plan: Plan) -> dict[int, Store]:
        """The open stores by batch; all are closed again if one cannot be opened."""
        session = new_session(plan.origin.command, self.place.software)
        with ExitStack() as stack:
            stores: dict[int, Store] = {}
            for setting in _settings(plan):
                _require_supported(setting)
                manifest = self._manifest(plan, setting)
                store = stack.enter_context(Store(self._folder(manifest), manifest=manifest, session=session))
                stores[setting.batch] = store
                _log.info("profile %s: %d rows before", store.path, len(store.profile.measurements))
                for note in store.notes:
                    self.reporter.message(note)
            stack.pop_all()
        return stores

    def _manifest(self, plan: Plan, setting: Setting) -> ProfileManifest:
        facts = self.processes.get(repeat=False).facts(setting)
        for note in facts.notes:
            self.reporter.message(note)
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
        parent, name = self.out / self.device.name, profile_folder_name(manifest.space, manifest.setting)
        if self.new:
            return parent / free_name(parent, name)
        there = numbered_profiles(parent, name)
        fitting = [folder for folder in there if not manifest_differences(read_manifest(folder), manifest)]
        if fitting:
            return fitting[-1]
        return parent / name if self.named or not there else self._beside(there[-1], parent / name, manifest)

    def _beside(self, there: Path, wanted: Path, manifest: ProfileManifest) -> Path:
        """The folder of a profile that begins beside those there, and a word on why it does."""
        free = wanted.parent / free_name(wanted.parent, wanted.name)
        pairs = manifest_differences(read_manifest(there), manifest)
        shown = "; ".join(f"{name}: there {one}, here {other}" for name, (one, other) in pairs.items())
        self.reporter.message(f"{there} was measured in another environment ({shown}); measuring into {free}")
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


PACKAGES = (
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "timm",
    "torch",
    "triton",
)
"""The distributions whose versions count; the others only draw, print or search."""

_OF_GPUS = ("nvidia-", "tensorrt", "triton")
"""How the names of those begin that a CPU does not use."""


def environment_facts(
    setting: Setting, *, machine: Machine, software: Environment, runtime: Mapping[str, str]
) -> dict[str, str]:
    """The facts for one setting; `runtime` is what its runner says of itself.

    The commit of hwnas is not among them (the manifest has it for every command): most changes of the code do not
    touch a measurement, and its version is here.
    """
    versions = dict(entry.split("==", 1) for entry in software.packages)
    unused = () if setting.device != machine.cpu.slug else _OF_GPUS
    kept = {name: versions[name] for name in PACKAGES if name in versions and not name.startswith(unused)}
    return {
        "device": setting.device,
        **_hardware(setting.device, machine),
        "system": f"{software.system} {software.release} {software.machine}",
        "python": software.python,
        "hwnas": software.hwnas,
        **kept,
        **{f"{setting.runtime}.{name}": value for name, value in runtime.items()},
    }


def device_facts(device: Device) -> dict[str, object]:
    """What is known of a device, without what is not."""
    values = {name: getattr(device, name) for name in device.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}


def _hardware(device: str, machine: Machine) -> dict[str, str]:
    if device == machine.cpu.slug:
        return {"model": machine.cpu.model}
    gpus = [gpu for gpu in machine.gpus if gpu.device.name == device]
    return {"model": gpus[0].reported, "driver": gpus[0].driver} if gpus else {}
