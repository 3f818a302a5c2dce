"""Check what runtimes on NVIDIA GPUs depend on: driver, CUDA versions, compute capabilities, processes on the card."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from hwnas.devices import Gpu, Machine
from hwnas.runs import CommandRunner, run_command

GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "torch-graph", "torch-compile", "torch", "onnxruntime")

STATE_QUERY = (
    "nvidia-smi",
    "--query-gpu=uuid,compute_cap,mig.mode.current,clocks.current.sm,clocks.max.sm",
    "--format=csv,noheader,nounits",
)
PROCESS_QUERY = (
    "nvidia-smi",
    "--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory",
    "--format=csv,noheader,nounits",
)
DRIVER_QUERY = ("nvidia-smi", "-q", "-d", "COMPUTE")

_CUDA_OF_DRIVER = re.compile(r"^CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)", re.MULTILINE)
_CUDA_WHEEL = re.compile(r"-cu(\d\d)\b")

Version = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem of this machine: its consequence and its remedy."""

    subject: str
    problem: str
    cost: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """Settings of one GPU and the processes on it, as the driver reports them; None for what it does not report."""

    uuid: str
    compute_capability: str | None = None
    mig: bool = False
    """It is in multi-instance mode."""
    clock_mhz: int | None = None
    max_clock_mhz: int | None = None
    processes: tuple[str, ...] = ()
    """Those of others, such as `python (pid 12, 1,024 MiB)`."""


@dataclass(frozen=True, kw_only=True)
class RuntimeStatus:
    """The state of a runtime on a device of this machine, with the reason if it cannot be used."""

    runtime: str
    device: str
    available: bool
    reason: str = ""
    extra: str | None = None
    """The extra of hwnas that installs it."""


@dataclass(frozen=True, kw_only=True)
class GpuSoftware:
    """Versions of CUDA that the driver supports and that libraries were built for; None if one is missing."""

    driver_cuda: Version | None = None
    """The newest version that the driver supports."""
    torch: str | None = None
    torch_cuda: Version | None = None
    torch_architectures: tuple[str, ...] = ()
    """Those that torch has kernels for, such as `sm_90`."""
    onnxruntime_cuda: Version | None = None
    tensorrt_cuda: Mapping[str, int] | None = None
    """CUDA's major version of the wheels of TensorRT, by distribution."""


@dataclass(frozen=True, kw_only=True)
class GpuReport:
    """The GPUs of this machine and the software for them."""

    states: tuple[GpuState, ...] = ()
    software: GpuSoftware = GpuSoftware()
    runtimes: tuple[RuntimeStatus, ...] = ()
    notes: tuple[str, ...] = ()
    """Notes on facts that could not be read."""


def inspect_gpus(machine: Machine, *, run: CommandRunner = run_command) -> GpuReport:
    """Ask driver and libraries about the GPUs of this machine; this imports torch and the runtimes.

    Args:
        machine: The machine.
        run: Runs a command.
    """
    if not machine.gpus:
        return GpuReport()
    states, notes = read_states(run)
    driver = _CUDA_OF_DRIVER.search(run(DRIVER_QUERY).output)
    cuda = None if driver is None else (int(driver.group(1)), int(driver.group(2)))
    return GpuReport(states=states, software=installed_software(cuda), runtimes=_runtimes(machine), notes=notes)


def read_states(
    run: CommandRunner, *, is_own: Callable[[int], bool] | None = None
) -> tuple[tuple[GpuState, ...], tuple[str, ...]]:
    """Read the settings of all GPUs and the processes on them.

    Args:
        run: Runs a command.
        is_own: Returns True for processes that are not to be reported; None: for this one.

    Returns:
        The GPUs, and notes on what could not be read.
    """
    mine = is_own or (lambda pid: pid == os.getpid())
    settings, processes = run(STATE_QUERY), run(PROCESS_QUERY)
    by_gpu: dict[str, list[str]] = {}
    for cells in _rows(processes.output, columns=4):
        uuid, pid, name, memory = cells
        if not (pid.isdecimal() and mine(int(pid))):
            size = f", {int(memory):,} MiB" if memory.isdecimal() else ""
            by_gpu.setdefault(uuid, []).append(f"{Path(name).name} (pid {pid}{size})")
    states = tuple(
        GpuState(
            uuid=uuid,
            compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            mig=mig == "Enabled",
            clock_mhz=int(clock) if clock.isdecimal() else None,
            max_clock_mhz=int(max_clock) if max_clock.isdecimal() else None,
            processes=tuple(by_gpu.get(uuid, ())),
        )
        for uuid, capability, mig, clock, max_clock in _rows(settings.output, columns=5)
    )
    failures = (settings.failure, processes.failure)
    return states, tuple(f"the state of the GPUs is not known: {failure}" for failure in failures if failure)


def installed_software(driver_cuda: Version | None) -> GpuSoftware:
    """Read the versions of the installed libraries.

    Args:
        driver_cuda: The newest version of CUDA that the driver supports.
    """
    name: str | None = None
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    try:
        import torch

        name, cuda, architectures = torch.__version__, torch.version.cuda, tuple(torch.cuda.get_arch_list())
    except (ImportError, OSError):  # a library of it is missing: the runtimes say which
        pass
    names = [item.metadata["Name"] for item in metadata.distributions() if item.metadata["Name"]]
    wheels = {name.casefold().replace("_", "-") for name in names}  # metadata may say tensorrt_rtx_cu13
    majors = {
        wheel: int(found.group(1))
        for wheel in sorted(wheels)
        if wheel.startswith("tensorrt") and (found := _CUDA_WHEEL.search(wheel)) is not None
    }
    return GpuSoftware(
        driver_cuda=driver_cuda,
        torch=name,
        torch_cuda=_version(cuda),
        torch_architectures=architectures,
        onnxruntime_cuda=_version(_cuda_of_onnxruntime()),
        tensorrt_cuda=majors,
    )


def gpu_findings(machine: Machine, report: GpuReport) -> Iterator[Finding]:
    """Yield what keeps runtimes from the GPUs or disturbs measurements."""
    yield from _cuda_findings(report.software)
    yield from _capability_findings(machine, report)
    states = {state.uuid: state for state in report.states}
    for gpu in machine.gpus:
        state = states.get(gpu.uuid)
        if state is not None and state.mig:
            problem = f"GPU {gpu.index} ({gpu.reported}) is in multi-instance mode and has no slice"
            remedy = "sudo nvidia-smi mig -cgi PROFILE -C, or leave the mode: sudo nvidia-smi -mig 0"
            yield Finding(subject="gpu", problem=problem, cost="CUDA cannot use it", remedy=remedy)
        if state is not None and state.processes:
            problem = f"other processes are on GPU {gpu.index}: {', '.join(state.processes)}"
            remedy = "end them, or --gpus another"
            yield Finding(subject="gpu", problem=problem, cost="they disturb what is measured", remedy=remedy)
    for note in report.notes:
        cost = "what disturbs measurements goes unnoticed"
        yield Finding(subject="gpu", problem=note, cost=cost, remedy="look at what `nvidia-smi` says")


def is_incomplete(package: str) -> bool:
    """Return True if files of a package are there, but not its own: what an uninstalled other build left."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is None


def _cuda_findings(software: GpuSoftware) -> Iterator[Finding]:
    driver, torch_cuda, onnxruntime_cuda = software.driver_cuda, software.torch_cuda, software.onnxruntime_cuda
    needs = [("torch", torch_cuda), ("onnxruntime", onnxruntime_cuda)]
    needs += [(name, (major, 0)) for name, major in (software.tensorrt_cuda or {}).items()]
    # Within a major version, older drivers run what newer toolkits built (CUDA's minor version compatibility).
    for name, built in needs:
        if driver is not None and built is not None and built[0] > driver[0]:
            problem = f"is built for CUDA {_text(built)}, and the driver supports CUDA up to {_text(driver)}"
            remedy = f"a newer driver, or the build of {name} for CUDA {driver[0]}"
            yield Finding(subject=name, problem=problem, cost=f"{name} cannot use the GPU", remedy=remedy)
    if torch_cuda is not None and onnxruntime_cuda is not None and torch_cuda[0] != onnxruntime_cuda[0]:
        problem = f"is built for CUDA {_text(onnxruntime_cuda)}, and torch for CUDA {_text(torch_cuda)}"
        cost = "ONNX Runtime does not find the CUDA libraries that come with torch"
        remedy = f"the build of torch for CUDA {onnxruntime_cuda[0]}, see pytorch.org"
        yield Finding(subject="onnxruntime", problem=problem, cost=cost, remedy=remedy)


def _capability_findings(machine: Machine, report: GpuReport) -> Iterator[Finding]:
    from hwnas.profile.runners.cuda import unsupported_capability

    software, states = report.software, {state.uuid: state for state in report.states}
    for gpu in machine.gpus:
        state = states.get(gpu.uuid)
        capability = gpu.device.compute_capability or (None if state is None else state.compute_capability)
        if capability is not None and unsupported_capability(capability, software.torch_architectures):
            problem = (
                f"{software.torch} has no kernels for compute capability {capability} of GPU {gpu.index}, "
                f"{gpu.reported}, but for {', '.join(software.torch_architectures)}"
            )
            remedy = "a build of torch that lists it, see pytorch.org"
            yield Finding(subject="torch", problem=problem, cost="torch cannot use the GPU", remedy=remedy)


def _runtimes(machine: Machine) -> tuple[RuntimeStatus, ...]:
    from hwnas.metrics import RUNTIMES
    from hwnas.profile.runners.runner import load_runner

    devices: dict[str, Gpu] = {}
    for gpu in machine.gpus:
        devices.setdefault(gpu.device.name, gpu)
    statuses = []
    for gpu in devices.values():
        for name in (runtime for runtime in GPU_RUNTIMES if runtime in RUNTIMES):
            try:
                found = load_runner(name).available(gpu.device)
                status = (found.available, found.reason, found.extra)
            except (ImportError, OSError) as error:  # a shared library that the runtime loads is missing
                status = (False, f"it cannot be imported: {error}", None)
            statuses.append(
                RuntimeStatus(
                    runtime=name, device=gpu.device.name, available=status[0], reason=status[1], extra=status[2]
                )
            )
    return tuple(statuses)


def _rows(text: str, *, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == columns:
            yield cells


def _version(text: str | None) -> Version | None:
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return None if found is None else (int(found.group(1)), int(found.group(2)))


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _cuda_of_onnxruntime() -> str | None:
    """The version of CUDA that the installed ONNX Runtime was built for; None for a build without CUDA."""
    try:
        from onnxruntime.capi import build_and_package_info
    except (ImportError, OSError):
        return None
    cuda: str | None = getattr(build_and_package_info, "cuda_version", None)
    return cuda
