"""Check what this machine can do, what is missing, and how to fix it (`hwnas doctor`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from hwnas.arguments import checked_arguments
from hwnas.devices import Machine, detect
from hwnas.errors import MissingError
from hwnas.pipeline.gpu_check import Finding, GpuReport, gpu_findings, inspect_gpus, is_incomplete
from hwnas.runs import Environment, environment

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True, kw_only=True)
class PackageStatus:
    """Status of a package that hwnas can use; `installed` is None if it is missing."""

    name: str
    distribution: str
    installed: str | None
    required: str | None
    """Versions that hwnas accepts; None if any is accepted."""
    accepted: bool
    """It is installed in a version that hwnas accepts."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """State of this machine as far as it matters to hwnas."""

    environment: Environment
    machine: Machine
    default_device: str
    """The device that `--device auto` selects; empty if it is an error."""
    packages: tuple[PackageStatus, ...]
    gpus: GpuReport
    """State of the GPUs, and the runtimes that can use them; empty without a GPU."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Tool:
    name: str
    distributions: tuple[str, ...]
    """Alternatives, any of which is sufficient."""
    cost: str
    extra: str | None = None
    """The extra of hwnas that installs it; None if hwnas itself requires it."""
    gpu_extra: str | None = None
    """The extra to use instead where there is a GPU."""


_TOOLS = (
    _Tool("torch", ("torch",), "networks cannot be built, trained, timed or exported"),
    _Tool("timm", ("timm",), "there is no training, and no reference model"),
    _Tool("numpy", ("numpy",), "nothing works"),
    _Tool("onnx", ("onnx",), "networks cannot be exported to ONNX"),
    _Tool("onnxscript", ("onnxscript",), "torch cannot export to ONNX"),
    _Tool(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "networks cannot be exported to ONNX, which needs it for the check, nor timed with ONNX Runtime",
        "cpu",
        "gpu",
    ),
    _Tool("openvino", ("openvino",), "CPUs are timed with ONNX Runtime, without bf16", "openvino"),
    _Tool("scikit-learn", ("scikit-learn",), "latency predictors cannot be fitted"),
    _Tool("xgboost", ("xgboost",), "boosted predictors cannot be fitted or used"),
    _Tool("pymoo", ("pymoo",), "there is no search"),
    _Tool("moocore", ("moocore",), "hypervolumes cannot be computed"),
    _Tool("pyarrow", ("pyarrow",), "data in Parquet files cannot be read"),
    _Tool("safetensors", ("safetensors",), "checkpoints cannot be read or written"),
    _Tool("plotly", ("plotly",), "there is no HTML report"),
    _Tool("jinja2", ("jinja2",), "there is no HTML report"),
    _Tool("matplotlib", ("matplotlib",), "there are no PNG or SVG figures"),
)
_GPU_TOOLS = (
    _Tool(
        "tensorrt",
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        "TensorRT engines cannot be built or timed",
        "tensorrt",
    ),
    _Tool(
        "tensorrt-rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
        "engines of TensorRT for RTX cannot be built or timed",
        "tensorrt-rtx",
    ),
    _Tool(
        "nvidia-ml-py",
        ("nvidia-ml-py",),
        "clocks, temperature, throttling and energy are not recorded with GPU timings",
        "gpu",
    ),
)

_REINSTALL = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'hwnas[{}]'"
"""Remedy for the wrong build of ONNX Runtime: uninstalling one of two builds removes files of the other."""


@checked_arguments
def doctor(
    *,
    machine: Machine | None = None,
    software: Environment | None = None,
    requires: Sequence[str] | None = None,
    gpus: GpuReport | None = None,
) -> DoctorReport:
    """Check this machine and its packages, without importing them unless there is an NVIDIA GPU.

    Args:
        machine: The machine; None: this one.
        software: Installed packages and system; None: those of this machine.
        requires: Requirements of hwnas; None: those of the installed distribution.
        gpus: State of the GPUs and their runtimes; None: ask driver and libraries.
    """
    here = machine or detect()
    env = software or environment()
    versions = dict(entry.split("==", 1) for entry in env.packages)
    lines = _own_requirements() if requires is None else tuple(requires)
    requirements, note = _parsed(lines)
    tools = _TOOLS + (_GPU_TOOLS if here.gpus else ())
    packages = tuple(_status(tool, versions, requirements) for tool in tools)
    gpu_report = inspect_gpus(here) if gpus is None else gpus
    findings = (
        *_package_findings(tools, packages, gpu=bool(here.gpus)),
        *_runtime_findings(here, versions),
        *_machine_findings(here),
        *gpu_findings(here, gpu_report),
        *note,
        *_checkout_findings(env),
    )
    return DoctorReport(
        environment=env,
        machine=here,
        default_device="" if _default_missing(here) else here.default_device.name,
        packages=packages,
        gpus=gpu_report,
        findings=findings,
    )


def _own_requirements() -> tuple[str, ...]:
    try:
        return tuple(metadata.requires("hwnas") or ())
    except metadata.PackageNotFoundError:
        return ()


def _parsed(lines: Sequence[str]) -> tuple[dict[str, "Requirement"], tuple[Finding, ...]]:
    """The requirements by distribution, and a finding if they cannot be checked."""
    cost = "packages that are too old go unnoticed"
    if not lines:
        remedy = "pip install -e . in the checkout"
        return {}, (Finding(subject="hwnas", problem="is not installed", cost=cost, remedy=remedy),)
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        remedy = "pip install packaging"
        return {}, (Finding(subject="packaging", problem="is missing", cost=cost, remedy=remedy),)
    return {item.name.casefold(): item for item in map(Requirement, lines)}, ()


def _status(tool: _Tool, versions: Mapping[str, str], requirements: Mapping[str, "Requirement"]) -> PackageStatus:
    present = [name for name in tool.distributions if name in versions]
    distribution = present[0] if present else tool.distributions[0]
    installed = versions.get(distribution)
    requirement = requirements.get(distribution) or requirements.get(tool.name)
    accepted = installed is not None and (
        requirement is None or requirement.specifier.contains(installed, prereleases=True)
    )
    return PackageStatus(
        name=tool.name,
        distribution=distribution,
        installed=installed,
        required=str(requirement.specifier) if requirement else None,
        accepted=accepted,
    )


def _package_findings(tools: Sequence[_Tool], packages: Sequence[PackageStatus], *, gpu: bool) -> Iterator[Finding]:
    for tool, package in zip(tools, packages, strict=True):
        if package.accepted:
            continue
        if package.installed is None:
            extra = tool.gpu_extra if gpu and tool.gpu_extra else tool.extra
            name = f"hwnas[{extra}]" if extra else f"{package.distribution}{package.required or ''}"
            problem, remedy = "is missing", f"pip install '{name}'"
        else:
            problem = f"{package.installed} does not meet {package.required}"
            remedy = f"pip install '{package.distribution}{package.required}'"
        yield Finding(subject=package.name, problem=problem, cost=tool.cost, remedy=remedy)


def _runtime_findings(machine: Machine, versions: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are installed in a build that does not fit the machine."""
    both = {"onnxruntime", "onnxruntime-gpu"} <= versions.keys()
    if both:
        yield Finding(
            subject="onnxruntime",
            problem="is installed twice, as onnxruntime and as onnxruntime-gpu",
            cost="the two overwrite each other's files: ONNX Runtime may not see the GPU, or fail to load",
            remedy=_REINSTALL.format("gpu" if machine.gpus else "cpu"),
        )
    if not both and {"onnxruntime", "onnxruntime-gpu"} & versions.keys() and is_incomplete("onnxruntime"):
        yield Finding(
            subject="onnxruntime",
            problem="is incomplete: uninstalling another build of it removed files",
            cost="ONNX Runtime cannot be loaded",
            remedy=_REINSTALL.format("gpu" if machine.gpus else "cpu"),
        )
    if machine.gpus and not both and "onnxruntime" in versions:
        yield Finding(
            subject="onnxruntime",
            problem="is the CPU build, though a GPU is here",
            cost="ONNX Runtime cannot time networks on the GPU",
            remedy=_REINSTALL.format("gpu"),
        )
    if machine.gpus and versions.get("torch", "").endswith("+cpu"):
        yield Finding(
            subject="torch",
            problem="is the CPU build, though a GPU is here",
            cost="torch cannot train or time networks on the GPU",
            remedy="install the CUDA build of torch, see pytorch.org",
        )


def _default_missing(machine: Machine) -> MissingError | None:
    """The error of `--device auto` if the GPU that CUDA_VISIBLE_DEVICES names is gone."""
    try:
        machine.default_device  # noqa: B018 - it raises
    except MissingError as error:
        return error
    return None


def _machine_findings(machine: Machine) -> Iterator[Finding]:
    if (missing := _default_missing(machine)) is not None:
        yield Finding(
            subject="gpu",
            problem=f"{missing.message}, got {missing.got}",
            cost="--device auto is an error: the CPU does not stand in for that GPU",
            remedy=missing.hint or "",
        )
        return
    if not machine.gpus:
        why = f" ({'; '.join(machine.notes)})" if machine.notes else ""
        yield Finding(
            subject="gpu",
            problem=f"no NVIDIA GPU can be used{why}",
            cost="nothing can be timed on a GPU here, and training is slow",
            remedy="use --device cpu here, or run hwnas on the machine that has the GPU",
        )
        return
    for note in machine.notes:
        yield Finding(
            subject="machine",
            problem=note,
            cost="not everything in this machine can be used or described",
            remedy="look at what `nvidia-smi` says",
        )


def _checkout_findings(env: Environment) -> Iterator[Finding]:
    if env.commit_problem is not None:
        yield Finding(
            subject="git",
            problem=env.commit_problem,
            cost="runs do not record the commit that they were made with",
            remedy="make `git status` work in the checkout of hwnas",
        )
