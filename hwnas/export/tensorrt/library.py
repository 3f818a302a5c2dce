"""The TensorRT library: how it is loaded, what it logs, its errors, and the GPU that it uses.

TensorRT reports a failed call by returning nothing (None or False); the reason goes to its logger, of which a process
has one. `collect_messages` gathers what is logged during a call, and the functions below turn it into errors.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from hwnas.devices import detect, match
from hwnas.errors import InputError, MissingError

OLDEST_MAJOR = 10
"""The oldest major version that is supported."""

LibraryName = Literal["tensorrt", "tensorrt-rtx"]
"""TensorRT, or TensorRT for RTX: the same interface, for GeForce and RTX GPUs, which also builds without a GPU."""

FailureKind = Literal["unsupported", "memory", "build"]
"""An operator that TensorRT lacks, too little memory, or any other reason."""

# Parts of TensorRT's log messages, in lower case. The library has no error codes for these cases.
_OUT_OF_MEMORY = (
    *("out of memory", "outofmemory", "insufficient memory"),
    *("insufficient workspace", "cudaerrormemoryallocation"),
)
_NO_KERNEL = ("cannot compile operation",)
_NO_OPERATOR = ("plugin not found", "no importer registered")
_MAX_REASONS = 4
"""Messages quoted in one error."""


def module_name(name: LibraryName) -> str:
    """Return the name of the module of a library."""
    return name.replace("-", "_")


def load_tensorrt(name: LibraryName = "tensorrt") -> Any:
    """Import `tensorrt` or `tensorrt_rtx`, and check the version.

    Returns:
        The module.

    Raises:
        MissingError: The library is not installed, cannot be loaded or is older than TensorRT 10.
    """
    label, hint = ("TensorRT" if name == "tensorrt" else "TensorRT for RTX"), f"pip install 'hwnas[{name}]'"
    try:
        library = import_module(module_name(name))
    except ImportError as error:
        raise MissingError(f"{label} must be installed", got=error, hint=hint) from error
    except OSError as error:  # the bindings are installed, a shared library that they load is not
        raise MissingError(f"{label} is installed, but cannot be loaded", got=error, hint=hint) from error
    if name == "tensorrt" and major_version(library) < OLDEST_MAJOR:
        message = f"TensorRT must be version {OLDEST_MAJOR} or newer"
        raise MissingError(message, got=library.__version__, hint="pip install -U 'tensorrt>=10'")
    return library


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


def failure(requirement: str, messages: list[TensorRtMessage]) -> TensorRtError:
    """Return the error for a call that returned nothing.

    Args:
        requirement: What must hold, the first line of the error.
        messages: The messages logged during the call, which hold the reason.
    """
    reasons = [message.text for message in messages if message.is_error]
    got = "; ".join(reasons[:_MAX_REASONS]) or "TensorRT gave no reason"
    if any(part in reason.casefold() for reason in reasons for part in _OUT_OF_MEMORY):
        return TensorRtError("memory", requirement, got=got, hint="a smaller batch, or a lower workspace limit")
    if any(part in reason.casefold() for reason in reasons for part in _NO_KERNEL):
        hint = "another precision: Turing has no float32 products in TensorRT for RTX, for instance"
        return TensorRtError("unsupported", requirement, got=got, hint=hint)
    return TensorRtError("build", requirement, got=got)


def startup_failure(messages: list[TensorRtMessage], error: TypeError) -> MissingError:
    """Return the error for a library that finds no GPU or no driver and cannot create its objects."""
    got = "; ".join(message.text for message in messages if message.is_error) or str(error)
    hint = "hwnas doctor lists the driver and the GPUs"
    return MissingError("TensorRT must find an NVIDIA GPU with a matching driver", got=got, hint=hint)


def parser_failure(parser: Any, messages: list[TensorRtMessage]) -> TensorRtError:
    """Return the error for a graph that was rejected, with the operator and the node that the parser names."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return failure("TensorRT must be able to read the ONNX graph", messages)
    missing = [
        error
        for error in errors
        if error.code().name.startswith("UNSUPPORTED") or any(part in error.desc().casefold() for part in _NO_OPERATOR)
    ]
    got = "; ".join(_describe_parser_error(error) for error in (missing or errors)[:_MAX_REASONS])
    if missing:
        operators = ", ".join(sorted({_operator(error) for error in missing}))
        return TensorRtError("unsupported", f"TensorRT must support every operator, and lacks {operators}", got=got)
    return TensorRtError("build", "TensorRT must be able to read the ONNX graph", got=got)


def _operator(error: Any) -> str:
    # The parser of TensorRT for RTX leaves the operator empty, but says it in the description: "... : Foo. ...".
    return str(error.node_operator()) or "an operator"


def _describe_parser_error(error: Any) -> str:
    # A negative node number stands for an error of the graph as a whole.
    node = f"{_operator(error)} {error.node_name()!r} (node {error.node()})" if error.node() >= 0 else "the graph"
    return f"{node}: {error.desc()} [{error.code().name}]"
