"""Which devices are here, and what the names `cpu` and `auto` stand for."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwnas.devices.cpu import Cpu, detect_cpu
from hwnas.devices.datasheets import DEVICES
from hwnas.devices.device import Device, FileReader, read_system_file
from hwnas.devices.gpu import Gpu, detect_gpus
from hwnas.errors import MissingError, unknown
from hwnas.runs import CommandRunner, run_command

_CPU_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-\d+c(-[a-z0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices of this machine, and in `notes` what could not be looked at, and why."""

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Each model of device once, GPUs first."""
        found = {gpu.device.name: gpu.device for gpu in self.gpus}
        return (*found.values(), self.cpu.device)


def detect(
    *,
    run: CommandRunner = run_command,
    read: FileReader = read_system_file,
    environ: Mapping[str, str] = os.environ,
    num_cores: int | None = None,
    architecture: str | None = None,
) -> Machine:
    """Look at this machine, without torch; whatever cannot be seen is noted."""
    gpus, gpu_notes = detect_gpus(run=run, read=read, visible=environ.get("CUDA_VISIBLE_DEVICES"))
    cpu, cpu_notes = detect_cpu(
        read=read,
        run=run,
        num_cores=num_cores or usable_cores(),
        architecture=architecture or platform.machine(),
        fallback=platform.processor(),
    )
    return Machine(cpu=cpu, gpus=gpus, notes=(*gpu_notes, *cpu_notes))


def usable_cores() -> int:
    """The number of logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve(name: str, *, machine: Machine | None = None) -> str:
    """The name of a device behind a name or an alias, behind `cpu` and behind `auto`.

    `cpu` is the CPU here, `auto` the first GPU here, else the CPU. The name of a CPU that is elsewhere
    stands as it is; any other name that nothing has is an error.
    """
    if name in DEVICES:
        return DEVICES.resolve(name)
    here = (machine or detect()).devices
    special = {"auto": here[0].name, "cpu": here[-1].name}
    names = {device.name: device.name for device in here}
    found = (special | names).get(name.casefold())
    if found is not None:
        return found
    if _CPU_NAME.fullmatch(name):
        return name
    raise unknown("device", name, [*special, *names, *DEVICES.names()], hint="--device {}")


def require(name: str, *, machine: Machine | None = None) -> Device:
    """The device of that name, if it is in this machine; else an error that says what is."""
    here = machine or detect()
    wanted = resolve(name, machine=here)
    for device in here.devices:
        if device.name == wanted:
            return device
    raise _missing(name, wanted, here)


def _missing(name: str, wanted: str, machine: Machine) -> MissingError:
    meant = "" if wanted == name else f" ({wanted})"
    notes = f" ({'; '.join(machine.notes)})" if machine.notes else ""
    return MissingError(
        f"device {name!r}{meant} is not in this machine{notes}",
        got=name,
        known=[device.name for device in machine.devices],
        hint=f"--device {machine.devices[0].name}, or the same command on a machine with that device",
    )
