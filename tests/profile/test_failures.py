import pytest
import torch

from hwnas.errors import InputError, MissingError
from hwnas.profile.failures import failure_of
from hwnas.profile.runners.runner import MeasurementError


@pytest.mark.parametrize(
    ("error", "stage", "reason"),
    [
        (MeasurementError("nan", "no number"), "check", "nan"),
        (MemoryError(), "prepare", "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "time", "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "build", "memory"),
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"), "check", "memory"),
        (NotImplementedError("no such layer"), "prepare", "unsupported"),
        (MissingError("no provider"), "prepare", "unsupported"),
        (
            RuntimeError(
                "nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled"
            ),
            "prepare",
            "unsupported",
        ),
        (RuntimeError("No ONNX function found for <OpOverload(op='aten.foo')>"), "prepare", "unsupported"),
        (RuntimeError("\"addmm\" not implemented for 'Half'"), "check", "unsupported"),
        (InputError("timm model 'x' is not known"), "build", "export"),
        (ValueError("a cycle"), "prepare", "export"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "time", "crash"),
    ],
)
def test_errors_are_sorted(error: Exception, stage: str, reason: str) -> None:
    assert failure_of(error, stage=stage).reason == reason


def test_messages_are_one_line_and_not_pages() -> None:
    assert failure_of(ValueError("a\n  b"), stage="build").message == "ValueError: a b"
    assert failure_of(InputError("a", got="b", hint="c"), stage="build").message == "a, got b"
    long = failure_of(ValueError("word " * 1000), stage="build").message
    assert len(long) < 700
    assert long.endswith("…")
