"""The TensorRT libraries: where they differ, how they are loaded, what they log, their errors, and their GPU.

TensorRT reports a failed call by returning nothing (None or False); the reason goes to its logger, of which a process
has one. `collect_messages` gathers what is logged during a call, and the functions below turn it into errors.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from hwnas.devices import detect, match
from hwnas.errors import HwnasError, InputError, MissingError

if TYPE_CHECKING:
    import onnx

LibraryName = Literal["tensorrt", "tensorrt-rtx"]
"""TensorRT, or TensorRT for RTX: the same interface, for GeForce and RTX GPUs, which also builds without a GPU."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """One of the two libraries, and where it differs from the other."""

    name: LibraryName
    label: str
    module: str
    oldest_major: int
    """The oldest major version that is supported."""
    is_portable: bool
    """True if engines are compiled in two steps: for compute capabilities on any machine, and to kernels where they are
    loaded. Such a library times no kernels, so it has no timing cache, and it has no precision flags.

    False if kernels are chosen by timing them, on the GPU that will run them."""


LIBRARIES: Mapping[LibraryName, Library] = {
    "tensorrt": Library(name="tensorrt", label="TensorRT", module="tensorrt", oldest_major=10, is_portable=False),
    "tensorrt-rtx": Library(
        name="tensorrt-rtx", label="TensorRT for RTX", module="tensorrt_rtx", oldest_major=1, is_portable=True
    ),
}

FailureKind = Literal["unsupported", "memory", "crash", "build"]
"""An operator that TensorRT lacks, too little memory, an error of the GPU that its process does not survive, or any
other reason."""

# Parts of TensorRT's log messages, in lower case. The library has no error codes for these cases.
_OUT_OF_MEMORY = (
    *("out of memory", "outofmemory", "insufficient memory"),
    *("insufficient workspace", "cudaerrormemoryallocation"),
)
_NO_KERNEL = ("cannot compile operation",)
_NO_OPERATOR = ("plugin not found", "no importer registered")
_NO_DRIVER = ("cudaerror 35", "cudaerror 100", "driver version is insufficient", "no cuda-capable device")
_STICKY = (
    *(
        "illegal memory access",
        "misaligned address",
        "illegal instruction",
        "illegal address",
        "invalid program counter",
    ),
    *("unspecified launch failure", "launch timed out", "device-side assert", "uncorrectable ecc error"),
)
"""Errors after which CUDA's context is unusable, by the reference of its runtime API."""
_NOISE = ("catchcudaerror",)
"""The message that TensorRT for RTX logs after any other error where there is no driver, which no build needs."""

_IMPORTER = "import"
"""The function of the parser that reads an operator has its name: `importScatterElements`."""

_MAX_REASONS = 4
"""Messages quoted in one error."""


def load_tensorrt(name: LibraryName = "tensorrt") -> Any:
    """Import `tensorrt` or `tensorrt_rtx`, and check the version.

    Returns:
        The module.

    Raises:
        MissingError: The library is not installed, cannot be loaded or is too old.
    """
    library, hint = LIBRARIES[name], f"pip install 'hwnas[{name}]'"
    try:
        module = import_module(library.module)
    except ImportError as error:
        raise MissingError(f"{library.label} must be installed", got=error, hint=hint) from error
    except OSError as error:  # the bindings are installed, a shared library that they load is not
        raise MissingError(f"{library.label} is installed, but cannot be loaded", got=error, hint=hint) from error
    if major_version(module) < library.oldest_major:
        message = f"{library.label} must be version {library.oldest_major} or newer"
        raise MissingError(message, got=module.__version__, hint=f"pip install -U '{name}>={library.oldest_major}'")
    return module


def known_compute_capabilities(library: Any) -> dict[str, Any]:
    """Return the compute capabilities that a portable library builds for, such as '8.9', with its names of them."""
    members = {name: value for name, value in library.ComputeCapability.__members__.items() if name.startswith("SM")}
    return {f"{name[2:-1]}.{name[-1]}": members[name] for name in sorted(members, key=lambda name: int(name[2:]))}


def require_compute_capability(library: Any, capability: str) -> Any:
    """Return the library's name of a compute capability.

    Raises:
        InputError: The library does not build for it.
    """
    known = known_compute_capabilities(library)
    if capability not in known:
        message = "TensorRT for RTX builds engines for RTX GPUs, and must know their compute capability"
        raise InputError(message, got=capability, known=list(known), hint="TensorRT itself, on that GPU")
    return known[capability]


def major_version(library: Any) -> int:
    """Return the major version, such as 10 for `10.16.1.11`."""
    return int(str(library.__version__).partition(".")[0])


# ------------------------------------------------------------------------------------------------- the GPU


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """A GPU model and its software. An engine runs only on the model that it was built on."""

    device: str
    """The device name in hwnas, such as 'h200'."""
    reported: str
    """The name that the driver reports."""
    compute_capability: str
    driver: str
    """'unknown' if nvidia-smi does not report it."""
    cuda: str
    """The CUDA version that torch was built with; its libraries are loaded in the same process as TensorRT's."""

    def is_same_model(self, other: "GpuFacts") -> bool:
        """Return True if both are the same GPU model; drivers and CUDA may differ."""
        return (self.reported, self.compute_capability) == (other.reported, other.compute_capability)


@functools.cache
def gpu_facts() -> GpuFacts:
    """Describe the GPU that torch uses in this process. The result is cached."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            "TensorRT needs an NVIDIA GPU, and torch sees none",
            got=f"torch {torch.__version__}",
            hint="TensorRT for RTX builds without one: --format tensorrt-rtx --for rtx4090",
        )
    reported = torch.cuda.get_device_name()
    gpus = detect().gpus
    known = match(reported) or next((gpu.device for gpu in gpus if gpu.reported == reported), None)  # a slice, say
    drivers = {gpu.driver for gpu in gpus}  # one driver serves all GPUs
    return GpuFacts(
        device=known.name if known else reported,
        reported=reported,
        compute_capability=".".join(map(str, torch.cuda.get_device_capability())),
        driver=drivers.pop() if drivers else "unknown",
        cuda=str(torch.version.cuda),
    )


# ------------------------------------------------------------------------------------- messages and errors


@dataclass(frozen=True, kw_only=True)
class TensorRtMessage:
    """A warning or an error that TensorRT logged."""

    severity: str
    text: str

    @property
    def is_error(self) -> bool:
        """True for errors, False for warnings."""
        return self.severity in ("ERROR", "INTERNAL_ERROR")


class TensorRtError(InputError):
    """TensorRT cannot build or run a network; `kind` is the category of the reason."""

    def __init__(self, kind: FailureKind, message: str, *, got: object = None, hint: str | None = None) -> None:
        super().__init__(message, got=got, hint=hint)
        self.kind: FailureKind = kind


@functools.cache
def process_logger(library: Any) -> Any:
    """Return the logger of this process, which keeps warnings and errors.

    TensorRT keeps the first logger that it is given for the whole process, so there must never be a second one.
    """

    class Collector(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # the bindings refuse an object whose base was not initialised by name
            self.messages: list[TensorRtMessage] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(library.ILogger.Severity.WARNING):
                self.messages.append(TensorRtMessage(severity=severity.name, text=msg))

    return Collector()


@contextlib.contextmanager
def collect_messages(library: Any) -> Iterator[list[TensorRtMessage]]:
    """Collect the messages that are logged inside the block."""
    messages: list[TensorRtMessage] = process_logger(library).messages
    messages.clear()
    yield messages


def failure(requirement: str, messages: list[TensorRtMessage]) -> HwnasError:
    """Return the error for a call that returned nothing.

    Args:
        requirement: What must hold, the first line of the error.
        messages: The messages logged during the call, which hold the reason.

    Returns:
        A `TensorRtError`, or a `MissingError` if the driver is missing or too old.
    """
    errors = [message.text for message in messages if message.is_error]
    sticky = [text for text in errors if _mentions(text, _STICKY)]
    if sticky:
        return TensorRtError("crash", "the GPU must survive the work of TensorRT", got="; ".join(sticky[:_MAX_REASONS]))
    reasons = [text for text in errors if not (_mentions(text, _NOISE) and _mentions(text, _NO_DRIVER))] or errors
    if any(_mentions(reason, _NO_DRIVER) for reason in reasons):
        return _no_driver("; ".join(reasons[:_MAX_REASONS]))
    got = "; ".join(reasons[:_MAX_REASONS]) or "TensorRT gave no reason"
    if any(_mentions(reason, _OUT_OF_MEMORY) for reason in reasons):
        return TensorRtError("memory", requirement, got=got, hint="a smaller batch, or a lower workspace limit")
    if any(_mentions(reason, _NO_KERNEL) for reason in reasons):
        hint = "another precision: Turing has no float32 products in TensorRT for RTX, for instance"
        return TensorRtError("unsupported", requirement, got=got, hint=hint)
    return TensorRtError("build", requirement, got=got)


def startup_failure(messages: list[TensorRtMessage], error: TypeError) -> MissingError:
    """Return the error for a library that finds no GPU or no driver and cannot create its objects."""
    return _no_driver("; ".join(message.text for message in messages if message.is_error) or str(error))


def _no_driver(reason: str) -> MissingError:
    hint = "hwnas doctor lists the driver and the GPUs"
    return MissingError("TensorRT must find an NVIDIA GPU with a matching driver", got=reason, hint=hint)


def _mentions(text: str, phrases: Sequence[str]) -> bool:
    return any(phrase in text.casefold() for phrase in phrases)


def parser_failure(parser: Any, messages: list[TensorRtMessage], nodes: Sequence["onnx.NodeProto"] = ()) -> HwnasError:
    """Return the error for a graph that was rejected, with the operators and nodes that cannot be read.

    Args:
        parser: The parser that rejected it.
        messages: The messages logged meanwhile.
        nodes: The nodes of the graph, to which the parser's errors refer by number or name.
    """
    errors = [_describe_parser_error(parser.get_error(index), nodes) for index in range(parser.num_errors)]
    if not errors:
        return failure("TensorRT must be able to read the ONNX graph", messages)
    missing = [error for error in errors if error.is_unsupported]
    got = "; ".join(error.text for error in (missing or errors)[:_MAX_REASONS])
    if missing:
        operators = ", ".join(sorted({error.operator for error in missing}))
        return TensorRtError("unsupported", f"TensorRT must support every operator, and lacks {operators}", got=got)
    return TensorRtError("build", "TensorRT must be able to read the ONNX graph", got=got)


@dataclass(frozen=True, kw_only=True)
class _ParserError:
    operator: str
    text: str
    is_unsupported: bool


def _describe_parser_error(error: Any, nodes: Sequence["onnx.NodeProto"]) -> _ParserError:
    code, description, index, name = error.code().name, error.desc(), error.node(), error.node_name()
    operator = error.node_operator()
    # Some errors name neither operator nor node (those of attributes in TensorRT for RTX 1.7), but the function of the
    # parser that raised them. Inside a function of the graph, the number is not that of a node of the graph.
    if not operator and error.func().startswith(_IMPORTER):
        operator = error.func().removeprefix(_IMPORTER)
    if 0 <= index < len(nodes) and name in ("", nodes[index].name):
        operator, name = operator or nodes[index].op_type, nodes[index].name
    places = [repr(name)] if name else []
    if index >= 0:
        places.append(f"(node {index})")
    elif not name:
        candidates = [node.name for node in nodes if node.op_type == operator]
        if candidates:
            places.append(repr(candidates[0]) if len(candidates) == 1 else f"one of {len(candidates)}")
    where = " ".join((operator, *places)) if operator else "the graph"
    meaning = "" if description == "false" else f": {_first_line(description)}"  # the condition of an assertion
    return _ParserError(
        operator=operator or "an operator",
        text=f"{where}{meaning} [{code}]",
        is_unsupported=code.startswith("UNSUPPORTED") or _mentions(description, _NO_OPERATOR),
    )


def _first_line(description: str) -> str:
    """Return the reason alone; the lines after it repeat it or are about the missing driver."""
    lines = [line for line in description.splitlines() if line.strip() and not line.startswith("Invalid Node")]
    return lines[0] if lines else description.strip()


# ---------------------------------------------------------------------------------- signs of life of a build


def progress_monitor(library: Any, on_progress: Callable[[], None]) -> Any:
    """Return a monitor that calls a function at each step of a build, from any thread."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)  # as for a logger

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            on_progress()

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_progress()
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            on_progress()

    return Monitor()
