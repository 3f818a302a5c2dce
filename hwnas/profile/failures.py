"""What went wrong with a network, sorted."""

import torch

from hwnas.errors import HwnasError, MissingError
from hwnas.profile.runners.runner import MeasurementError
from hwnas.records import Failure, Reason

_MEMORY = ("out of memory", "bad_alloc", "can't allocate memory", "failed to allocate", "cannot allocate memory")
_UNSUPPORTED = (
    "could not find an implementation",
    "no onnx function found",
    "not implemented for",
    "not_implemented",
    "fallback to cpu ep has been explicitly disabled",
)
_LENGTH = 600
"""Characters of a message that are kept: exporters write pages."""


def failure_of(error: Exception, *, stage: str) -> Failure:
    """The category of an error and its message; `stage` is what was being done."""
    return Failure(reason=_reason(error, stage=stage), message=_shortened(_text(error)))


def _reason(error: Exception, *, stage: str) -> Reason:
    text = str(error).casefold()
    if isinstance(error, MeasurementError):
        return error.reason
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _MEMORY):
        return "memory"
    if isinstance(error, (NotImplementedError, MissingError)) or any(words in text for words in _UNSUPPORTED):
        return "unsupported"
    return "export" if stage in ("build", "prepare") else "crash"


def _text(error: Exception) -> str:
    if not isinstance(error, HwnasError):
        return f"{type(error).__name__}: {error}"
    return error.message if error.got is None else f"{error.message}, got {error.got}"


def _shortened(text: str) -> str:
    lines = " ".join(text.split())
    return lines if len(lines) <= _LENGTH else f"{lines[: _LENGTH - 1]}…"
