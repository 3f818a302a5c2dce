"""Detect the devices of this machine, and resolve device names such as `cpu` and `auto`."""

import difflib
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwnas.devices.cpu import Cpu, detect_cpu
from hwnas.devices.datasheets import DEVICES
from hwnas.devices.device import Device, FileReader, read_system_file
from hwnas.devices.gpu import Gpu, detect_gpus
from hwnas.devices.intel import Accelerator, Core, detect_accelerators
from hwnas.errors import InputError, MissingError, unknown
from hwnas.runs import CommandRunner, run_command

_SLICE = r"[a-z0-9]+(-[a-z0-9]+)*-mig-(\d+c\.)?\d+g\.\d+gb(-[a-z]+)*"
_DETECTED_NAME = re.compile(rf"[a-z0-9]+(-[a-z0-9]+)*-\d+c(-[a-z0-9]+)?|intel-[gn]pu(-[a-z0-9]+)+|{_SLICE}")
"""Names of CPUs, of Intel's accelerators and of slices of GPUs, which have no datasheets."""

_ONE_CHARACTER = 0.95
"""Similarity of two such names that differ in one character."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices of this machine, with notes on what could not be detected."""

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    """The GPUs, and all slices in place of a GPU in multi-instance mode."""
    accelerators: tuple[Accelerator, ...] = ()
    """Intel's GPUs and NPUs."""
    notes: tuple[str, ...] = ()
    missing_gpu: str = ""
    """Number or UUID of a GPU or slice that CUDA_VISIBLE_DEVICES names and that cannot be found."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """Each device model once, GPUs first and the CPU last."""
        found = (*(gpu.device for gpu in self.gpus), *(item.device for item in self.accelerators))
        return (*{device.name: device for device in found}.values(), self.cpu.device)

    @property
    def default_device(self) -> Device:
        """The first GPU of NVIDIA, else the CPU: many a CPU has a small GPU of Intel in it that is slower.

        Raises:
            MissingError: The GPU that CUDA_VISIBLE_DEVICES names cannot be found, as a slice that was removed: the CPU
                is no substitute for it.
        """
        if self.missing_gpu and not self.gpus:
            kind = "slice" if self.missing_gpu.startswith("MIG-") else "GPU"
            raise MissingError(
                f"the {kind} that CUDA_VISIBLE_DEVICES names must be in this machine ({'; '.join(self.notes)})",
                got=self.missing_gpu,
                hint="nvidia-smi -L for those that there are, or --device cpu",
            )
        return self.gpus[0].device if self.gpus else self.cpu.device


def detect(
    *,
    run: CommandRunner = run_command,
    read: FileReader = read_system_file,
    environ: Mapping[str, str] = os.environ,
    num_cores: int | None = None,
    architecture: str | None = None,
    make_core: Callable[[], Core | None] | None = None,
) -> Machine:
    """Detect the devices of this machine, without torch.

    Args:
        run: Runs a command.
        read: Reads a system file.
        environ: The environment, for CUDA_VISIBLE_DEVICES.
        num_cores: Logical cores; None: those that this process may use.
        architecture: Architecture of the CPU; None: that of this machine.
        make_core: Creates OpenVINO's core, which knows Intel's GPUs and NPUs; None: `openvino_core`.

    Returns:
        The machine. It has a note on whatever could not be detected.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    gpus, gpu_notes = detect_gpus(run=run, read=read, visible=visible)
    cpu, cpu_notes = detect_cpu(
        read=read,
        run=run,
        num_cores=num_cores or usable_cores(),
        architecture=architecture or platform.machine(),
        fallback=platform.processor(),
    )
    intel, intel_notes = detect_accelerators(read=read, make_core=make_core)
    return Machine(
        cpu=cpu,
        gpus=gpus,
        accelerators=intel,
        notes=(*gpu_notes, *intel_notes, *cpu_notes),
        missing_gpu=_first_missing(visible, gpus),
    )


def _first_missing(visible: str | None, gpus: Sequence[Gpu]) -> str:
    """The first entry of CUDA_VISIBLE_DEVICES without a GPU; none and -1 are the usual ways of hiding all of them."""
    if visible is None:
        return ""
    # Each entry before it selects one GPU, and it ends the list.
    rest = [entry.strip() for entry in visible.split(",")][len(gpus) :]
    return rest[0] if rest and re.fullmatch(r"\d+|(GPU|MIG)-.*", rest[0]) else ""


def usable_cores() -> int:
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_note() -> str | None:
    """Say that estimates of time are for a machine that is busy; None: at least half of its cores are idle."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # a system that has none, or does not say it here
        return None
    if load <= cores / 2:
        return None
    busy = f"the machine is busy (a load of {load:.1f} in the last minute, on {cores} cores)"
    return f"{busy}: estimates of time are for it as it is now, and on an idle one all takes less"


def resolve(name: str, *, machine: Machine | None = None) -> str:
    """Resolve the name of a device.

    Args:
        name: A name, an alias, `cpu` for the CPU of this machine, or `auto` for its first NVIDIA GPU or else its CPU.
            The name of a CPU, an Intel accelerator or a slice of a GPU of another machine is returned as it is.
        machine: The machine; None: this one.

    Raises:
        MissingError: It is `auto`, and the GPU that CUDA_VISIBLE_DEVICES names cannot be found.
        UnknownNameError: No device has that name.
    """
    if name in DEVICES:
        return DEVICES.resolve(name)
    machine = machine or detect()
    if name.casefold() == "auto":
        return machine.default_device.name
    names = {"cpu": machine.cpu.slug} | {device.name: device.name for device in machine.devices}
    resolved = names.get(name.casefold())
    if resolved is not None:
        return resolved
    if _DETECTED_NAME.fullmatch(name):
        return name
    raise unknown("device", name, ["auto", *names, *DEVICES.names()], hint="--device {}")


def misspelled(name: str, known: Iterable[str], *, machine: Machine | None = None) -> str | None:
    """Return the device that a name without a device differs from by a character; None: there is none.

    Args:
        name: A resolved name. Of a CPU it may be any, as that of another machine.
        known: Names of devices, besides those of the machine.
        machine: The machine; None: this one.
    """
    here = [device.name for device in (machine or detect()).devices]
    if name in DEVICES or name in here:
        return None
    return next(iter(difflib.get_close_matches(name, [*here, *known], n=1, cutoff=_ONE_CHARACTER)), None)


def require(name: str, *, machine: Machine | None = None) -> Device:
    """Return a device of this machine by name.

    Args:
        name: A name as in `resolve`.
        machine: The machine; None: this one.

    Raises:
        MissingError: The device is not in the machine, or it is `auto` and the GPU that CUDA_VISIBLE_DEVICES names
            cannot be found.
        UnknownNameError: No device has that name.
    """
    machine = machine or detect()
    resolved = resolve(name, machine=machine)
    for device in machine.devices:
        if device.name == resolved:
            return device
    raise _missing(name, resolved, machine)


def select_gpus(names: Sequence[str], *, device: str = "auto", machine: Machine | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs that names stand for. Measurements on them are of one device, so they must be equal.

    Args:
        names: Numbers as in `nvidia-smi -L`, and UUIDs of GPUs or slices or their beginnings; `all` for all GPUs and
            slices. The number of a GPU in multi-instance mode stands for its first slice, as in CUDA.
        device: The device that they must be; `auto` for any. `all` means all GPUs of the device.
        machine: The machine; None: this one.

    Raises:
        MissingError: A GPU is not in the machine, or hidden from this process.
        InputError: A name stands for several GPUs, two names for one, or the GPUs differ.
    """
    machine = machine or detect()
    wanted = None if device == "auto" else resolve(device, machine=machine)
    if tuple(names) == ("all",):
        gpus = tuple(gpu for gpu in machine.gpus if wanted in (None, gpu.device.name))
        if not gpus:
            raise _missing_gpu("all", machine)
    else:
        gpus = tuple(_named_gpu(name.strip(), machine) for name in names)
    if len({gpu.uuid for gpu in gpus}) < len(gpus) or not gpus:
        raise InputError("--gpus must name different GPUs", got=",".join(names), hint="--gpus all")
    kinds = {(gpu.device.name, gpu.reported, gpu.memory_bytes, gpu.driver): gpu for gpu in gpus}
    if len(kinds) > 1:
        known = [f"GPU {gpu.index}: {_gpu_kind(gpu)}" for gpu in gpus]
        equal = [gpu for gpu in gpus if gpu.device == gpus[0].device]
        hint = f"--gpus {','.join(gpu.uuid if gpu.uuid.startswith('MIG-') else str(gpu.index) for gpu in equal)}"
        raise InputError("the GPUs of one campaign must be equal", got="; ".join(known), hint=hint)
    if wanted not in (None, gpus[0].device.name):
        raise InputError(f"the GPUs must be the device {wanted}", got=_gpu_kind(gpus[0]), hint="leave out --device")
    return gpus


def _named_gpu(name: str, machine: Machine) -> Gpu:
    by_uuid = name.startswith(("GPU-", "MIG-"))
    found = [gpu for gpu in machine.gpus if name == str(gpu.index)][:1]
    found += [gpu for gpu in machine.gpus if by_uuid and gpu.uuid.startswith(name)]
    if not found:
        raise _missing_gpu(name, machine)
    if len(found) > 1:
        known = [gpu.uuid for gpu in found]
        raise InputError(f"--gpus {name} must stand for one GPU or slice", got=f"{len(found)} of them", known=known)
    return found[0]


def _missing_gpu(name: str, machine: Machine) -> MissingError:
    kind = "the slice" if name.startswith("MIG-") else "GPU"
    notes = f" ({'; '.join(machine.notes)})" if machine.notes else ""
    known = [f"{gpu.index} ({gpu.uuid}, {gpu.device.name})" for gpu in machine.gpus]
    message = "this machine must have a GPU" if name == "all" else f"{kind} {name} is not in this machine"
    return MissingError(f"{message}{notes}", got=f"--gpus {name}", known=known, hint="nvidia-smi -L")


def _gpu_kind(gpu: Gpu) -> str:
    memory = "" if gpu.memory_bytes is None else f" with {gpu.memory_bytes / 2**30:.0f} GiB"
    return f"{gpu.device.name} ({gpu.reported}{memory}, driver {gpu.driver})"


def _missing(name: str, resolved: str, machine: Machine) -> MissingError:
    alias = "" if resolved == name else f" ({resolved})"
    notes = f" ({'; '.join(machine.notes)})" if machine.notes else ""
    known = [device.name for device in machine.devices]
    if re.fullmatch(_SLICE, resolved):
        profile = resolved.partition("-mig-")[2].replace("-", "+")
        message = f"the slice {resolved} of a GPU does not exist on this machine (any more){notes}"
        hint = f"create it again: sudo nvidia-smi mig -cgi {profile} -C; nvidia-smi -L lists the slices"
        return MissingError(message, got=name, known=known, hint=hint)
    return MissingError(
        f"device {name!r}{alias} is not in this machine{notes}",
        got=name,
        known=known,
        hint=f"--device {machine.devices[0].name}, or the same command on a machine with that device",
        correction=None if (near := misspelled(resolved, (), machine=machine)) is None else (name, near),
    )
