"""Detect the devices of this machine, and resolve device names such as `cpu` and `auto`."""

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
    """The devices of this machine, with notes on what could not be detected."""

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Each device model once, GPUs first."""
        distinct = {gpu.device.name: gpu.device for gpu in self.gpus}
        return (*distinct.values(), self.cpu.device)


def detect(
    *,
    run: CommandRunner = run_command,
    read: FileReader = read_system_file,
    environ: Mapping[str, str] = os.environ,
    num_cores: int | None = None,
    architecture: str | None = None,
) -> Machine:
    """Detect the devices of this machine, without torch.

    Args:
        run: Runs a command.
        read: Reads a system file.
        environ: The environment, for CUDA_VISIBLE_DEVICES.
        num_cores: Logical cores; None: those that this process may use.
        architecture: Architecture of the CPU; None: that of this machine.

    Returns:
        The machine. It has a note on whatever could not be detected.
    """
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
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve(name: str, *, machine: Machine | None = None) -> str:
    """Resolve the name of a device.

    Args:
        name: A name, an alias, `cpu` for the CPU of this machine, or `auto` for its first GPU or else its CPU. The name
            of a CPU of another machine is returned as it is.
        machine: The machine; None: this one.

    Raises:
        UnknownNameError: No device has that name.
    """
    if name in DEVICES:
        return DEVICES.resolve(name)
    devices = (machine or detect()).devices
    special = {"auto": devices[0].name, "cpu": devices[-1].name}
    names = {device.name: device.name for device in devices}
    resolved = (special | names).get(name.casefold())
    if resolved is not None:
        return resolved
    if _CPU_NAME.fullmatch(name):
        return name
    raise unknown("device", name, [*special, *names, *DEVICES.names()], hint="--device {}")


def require(name: str, *, machine: Machine | None = None) -> Device:
    """Return a device of this machine by name.

    Args:
        name: A name as in `resolve`.
        machine: The machine; None: this one.

    Raises:
        MissingError: The device is not in the machine.
        UnknownNameError: No device has that name.
    """
    machine = machine or detect()
    resolved = resolve(name, machine=machine)
    for device in machine.devices:
        if device.name == resolved:
            return device
    raise _missing(name, resolved, machine)


def _missing(name: str, resolved: str, machine: Machine) -> MissingError:
    alias = "" if resolved == name else f" ({resolved})"
    notes = f" ({'; '.join(machine.notes)})" if machine.notes else ""
    return MissingError(
        f"device {name!r}{alias} is not in this machine{notes}",
        got=name,
        known=[device.name for device in machine.devices],
        hint=f"--device {machine.devices[0].name}, or the same command on a machine with that device",
    )
