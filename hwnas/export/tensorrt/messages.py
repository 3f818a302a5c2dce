"""What TensorRT says while it works, and the errors that are made of it.

TensorRT answers a failure with nothing (None, False) and tells the reason to its logger, of which a process has one.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hwnas.errors import InputError, MissingError

Kind = Literal["unsupported", "memory", "build"]
"""An operator that TensorRT lacks, too little memory, or another reason."""

_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "insufficient workspace", "cudaerrormemoryallocation")
_NO_OPERATOR = ("plugin not found", "no importer registered")
_MOST_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Message:
    """A warning or an error of the library."""

    severity: str
    text: str

    @property
    def is_error(self) -> bool:
        """Whether it is more than a warning."""
        return self.severity in ("ERROR", "INTERNAL_ERROR")


class TensorRtError(InputError):
    """TensorRT cannot build or run a network; `kind` says why."""

    def __init__(self, kind: Kind, message: str, *, got: object = None, hint: str | None = None) -> None:
        super().__init__(message, got=got, hint=hint)
        self.kind: Kind = kind


@functools.cache
def logger(library: Any) -> Any:
    """The one logger of this process; it keeps warnings and errors until they are collected."""

    class Collector(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # the bindings refuse an object whose base was not initialised
            self.messages: list[Message] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(library.ILogger.Severity.WARNING):
                self.messages.append(Message(severity=severity.name, text=msg))

    return Collector()


@contextlib.contextmanager
def collected(library: Any) -> Iterator[list[Message]]:
    """The messages of what is done inside."""
    messages: list[Message] = logger(library).messages
    messages.clear()
    yield messages


def failure(what: str, messages: list[Message]) -> TensorRtError:
    """The error for work that gave nothing, from what was said meanwhile."""
    reasons = [message.text for message in messages if message.is_error]
    said = "; ".join(reasons[:_MOST_SHOWN]) or "TensorRT gave no reason"
    if any(word in reason.casefold() for reason in reasons for word in _MEMORY):
        return TensorRtError("memory", what, got=said, hint="a smaller batch, or a lower workspace limit")
    return TensorRtError("build", what, got=said)


def not_started(messages: list[Message], error: TypeError) -> MissingError:
    """The error for a library that finds no GPU or no driver: its objects cannot be made."""
    said = "; ".join(message.text for message in messages if message.is_error) or str(error)
    hint = "hwnas doctor shows the driver and the GPUs that can be seen"
    return MissingError("TensorRT must find an NVIDIA GPU with a driver that fits it", got=said, hint=hint)


def parser_failure(parser: Any, messages: list[Message]) -> TensorRtError:
    """The error for a graph that was not taken, with the operator and the node that the parser names."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return failure("TensorRT must be able to read the ONNX graph", messages)
    missing = [error for error in errors if _lacks_operator(error)]
    said = "; ".join(_described(error) for error in (missing or errors)[:_MOST_SHOWN])
    if missing:
        operators = ", ".join(sorted({error.node_operator() for error in missing}))
        return TensorRtError("unsupported", f"TensorRT must know every operator, and lacks {operators}", got=said)
    return TensorRtError("build", "TensorRT must be able to read the ONNX graph", got=said)


def _lacks_operator(error: Any) -> bool:
    unsupported = error.code().name.startswith("UNSUPPORTED")
    return unsupported or any(word in error.desc().casefold() for word in _NO_OPERATOR)


def _described(error: Any) -> str:
    node = f"{error.node_operator()} {error.node_name()!r} (node {error.node()})" if error.node() >= 0 else "the graph"
    return f"{node}: {error.desc()} [{error.code().name}]"
