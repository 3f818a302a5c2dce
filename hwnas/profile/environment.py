"""The environment of a campaign: this machine, its software and runtimes, and the profiles to write to."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hwnas.devices import Accelerator, Device, Gpu, Machine, detect
from hwnas.errors import InputError, MissingError
from hwnas.files import path_within
from hwnas.profile.crew import Crew, Measurer, WorkerPair
from hwnas.profile.lookup import free_name, numbered_profiles, profile_folder_name
from hwnas.profile.options import AUTO
from hwnas.profile.plan import Plan, new_session
from hwnas.profile.reference import REFERENCE
from hwnas.profile.runners.runner import RuntimeChecks, default_runtime, load_runner, supporting_runtimes
from hwnas.progress import Reporter
from hwnas.records import ProfileManifest, Setting, Store
from hwnas.records.manifest import read_manifest
from hwnas.records.store import manifest_differences
from hwnas.runs import Environment, environment

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
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13",
    "timm",
    "torch",
    "triton",
)
"""Packages whose versions affect measurements; the others only draw, print or search."""

_GPU_PACKAGES = ("nvidia-", "tensorrt", "triton")
"""Prefixes of the packages that only GPUs use."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CampaignEnvironment:
    """Machine, packages and worker factory; injectable."""

    machine: Machine
    software: Environment
    start: Callable[[str | None], Measurer]
    """Starts a worker process on the GPU of a UUID; None: on the CPU, or on whatever GPU CUDA lists first."""
    keeps_apart: bool = False
    """Profiles of several environments are put next to each other also in a folder that the user named."""

    @classmethod
    def of_this_machine(cls, *, limit_s: float | None = None) -> "CampaignEnvironment":
        """Return the environment of this machine, with worker processes.

        Args:
            limit_s: Time after which a network is given up; None: an hour.
        """
        from hwnas.profile.worker import Worker, WorkerLimits

        limits = WorkerLimits() if limit_s is None else WorkerLimits(task_s=limit_s)
        return cls(machine=detect(), software=environment(), start=lambda gpu: Worker(limits=limits, gpu=gpu))

    @property
    def find_runner(self) -> Callable[[str], RuntimeChecks]:
        """Returns what can be asked about a runtime of the machine."""
        return load_runner

    def worker_pairs(self, gpus: Sequence[str | None]) -> list[WorkerPair]:
        """Return the pairs of workers of a campaign.

        Args:
            gpus: UUIDs of the GPUs that measure at the same time; [None] for the device.
        """
        return [WorkerPair(partial(self.start, gpu), gpu=gpu) for gpu in gpus]

    def software_for(self, runtime: str) -> Environment:
        """Return the packages that measure with a runtime, and those that make its graphs."""
        return self.software


def choose_runtime(
    runtime: str, device: Device, reporter: Reporter, *, find: Callable[[str], RuntimeChecks] = load_runner
) -> str:
    """Return a runtime that is available, or the preferred one that is available for `AUTO`.

    Args:
        runtime: Name of a runtime, or `AUTO`.
        device: The device.
        reporter: Learns which runtime was chosen.
        find: Returns what can be asked about a runtime.

    Raises:
        MissingError: The runtime, or any runtime, is not available for the device.
    """
    if runtime == AUTO:
        runtime = default_runtime(device, find=find)
        reporter.message(f"runtime {runtime} on {device.name}")
        return runtime
    availability = find(runtime).available(device)
    if not availability.available:
        hint = f"pip install 'hwnas[{availability.extra}]'" if availability.extra else "hwnas doctor"
        message = f"runtime {runtime} cannot be used on this machine"
        raise MissingError(message, got=availability.reason, hint=hint)
    return runtime


def require_supported(setting: Setting, device: Device, *, find: Callable[[str], RuntimeChecks] = load_runner) -> None:
    """Require that the runtime of a setting runs its precision and batch; the error names a runtime that does."""
    support = find(setting.runtime).supports(setting)
    if not support.available:
        others = supporting_runtimes(setting, device, find=find)
        hint = f"--runtime {others[0]}" if others else None
        raise InputError(f"{setting.runtime} must be able to run in this setting", got=support.reason, hint=hint)


@dataclass(frozen=True, kw_only=True)
class StoreOpener:
    """Opens the stores of a campaign, one for each batch."""

    out: Path
    new: bool
    """Always start a new profile."""
    explicit: bool
    """The user named the folder `out`. A profile of another environment in it is then an error unless `new` is set."""
    device: Device
    environment: CampaignEnvironment
    crew: Crew
    reporter: Reporter

    def open(self, plan: Plan) -> dict[int, Store]:
        """Open the stores of a plan.

        Returns:
            Stores by batch. All are closed again if one cannot be opened.

        Raises:
            InputError: The runtime does not support a setting, or a store is in use or of another environment.
        """
        session = new_session(plan.origin.command, self.environment.software)
        stores: dict[int, Store] = {}
        with ExitStack() as stack:
            for setting in plan.settings:
                if setting.batch in stores:  # settings of one batch differ in the exporter; the first is the space's
                    continue
                require_supported(setting, self.device, find=self.environment.find_runner)
                manifest = self._new_manifest(plan, setting)
                path = self._folder(manifest)
                path_within(self.out, path.relative_to(self.out))
                planned = sum(task.setting.batch == setting.batch for task in plan.tasks)
                store = Store(path, manifest=manifest, session=replace(session, planned=planned))
                stack.enter_context(store)
                stores[setting.batch] = store
                _log.info("profile %s: %d rows before", store.path, len(store.profile.measurements))
                for note in store.notes:
                    self.reporter.message(note)
            stack.pop_all()
        return stores

    def _new_manifest(self, plan: Plan, setting: Setting) -> ProfileManifest:
        facts = self.crew.facts(setting)
        for note in facts.notes:
            self.reporter.message(note)
        machine, software = self.environment.machine, self.environment.software_for(setting.runtime)
        return ProfileManifest(
            space=plan.space,
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            setting=setting,
            reference=REFERENCE,
            environment=environment_facts(setting, machine=machine, software=software, runtime=facts.runtime),
            device=device_facts(self.device),
        )

    def _folder(self, manifest: ProfileManifest) -> Path:
        """The newest profile of the same environment, else a new one next to those of other environments."""
        parent, name = self.out / self.device.name, profile_folder_name(manifest.space, manifest.setting)
        if self.new:
            return parent / free_name(parent, name)
        existing = numbered_profiles(parent, name)
        for folder in reversed(existing):
            if not manifest_differences(read_manifest(folder), manifest):
                return folder
        if self.explicit or not existing:
            return parent / name
        newest, free = existing[-1], parent / free_name(parent, name)
        differences = "; ".join(manifest_differences(read_manifest(newest), manifest))
        self.reporter.message(f"{newest} was measured in another environment ({differences}); measuring into {free}")
        return free


def environment_facts(
    setting: Setting, *, machine: Machine, software: Environment, runtime: Mapping[str, str]
) -> dict[str, str]:
    """Return the facts of an environment: everything but the network that affects its speed.

    The commit of hwnas is not among them: most changes of the code do not affect measurements. Its version is, and the
    manifest of a profile records the commit of every command.

    Args:
        setting: Device and runtime.
        machine: The machine.
        software: Versions of packages and system.
        runtime: Facts that the runner reports.
    """
    versions = dict(entry.split("==", 1) for entry in software.packages)
    on_cpu = setting.device == machine.cpu.slug
    unused = (*(_GPU_PACKAGES if on_cpu else ()), *(() if setting.runtime == "openvino" else ("openvino",)))
    packages = {name: versions[name] for name in PACKAGES if name in versions and not name.startswith(unused)}
    gpus: list[Gpu | Accelerator] = [gpu for gpu in machine.gpus if gpu.device.name == setting.device]
    gpus += [item for item in machine.accelerators if item.device.name == setting.device]
    hardware = {"model": gpus[0].reported, "driver": gpus[0].driver or "unknown"} if gpus else {}
    return {
        "device": setting.device,
        **({"model": machine.cpu.model} if on_cpu else hardware),
        "system": f"{software.system} {software.release} {software.machine}",
        "python": software.python,
        "hwnas": software.hwnas,
        **packages,
        **{f"{setting.runtime}.{name}": value for name, value in runtime.items()},
    }


def device_facts(device: Device) -> dict[str, object]:
    """Return the known properties of a device."""
    known = {name: value for name, value in vars(device).items() if value}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
