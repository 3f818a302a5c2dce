"""How a training uses the machine: threads, the backend of float32 matrix products, precision, signals."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.supernet import matmul
from hwnas.supernet.network import Network

_SMALL_STEP_MACS = 2e9
"""Steps below it run on one thread: handing parts of products so small to threads takes longer than the products."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a training after its state was saved; the message says how to go on."""


class StopRequest:
    """Whether a signal has asked for the end."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within it, the first SIGINT or SIGTERM asks for the end; a second one has its usual effect."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def cpu_settings(*, threads: int, matmul_backend: str) -> Iterator[None]:
    """Within it, torch has this many threads, and float32 matrix products run on that backend."""
    before, wanted = torch.get_num_threads(), os.environ.get(matmul.VARIABLE)
    torch.set_num_threads(threads)
    os.environ[matmul.VARIABLE] = matmul_backend
    matmul.matmul_backend.cache_clear()
    try:
        with matmul.fast_matmul():
            yield
    finally:
        torch.set_num_threads(before)
        del os.environ[matmul.VARIABLE]
        if wanted is not None:
            os.environ[matmul.VARIABLE] = wanted
        matmul.matmul_backend.cache_clear()


def choose_threads(*, asked: int, macs: int) -> int:
    """The threads of a CPU: as asked for, here or by OMP_NUM_THREADS; else one for small steps, or torch's choice.

    `macs` are those of the forward of the largest part of a step; 0 where nobody knows.
    """
    if asked:
        return asked
    if "OMP_NUM_THREADS" in os.environ or not 0 < macs < _SMALL_STEP_MACS:
        return torch.get_num_threads()
    return 1


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward in a precision."""
    if precision == "fp32":
        return nullcontext()
    if precision == "fp16" and device.type != "cuda":
        message = "precision fp16 needs a CUDA device"
        raise InputError(message, got=f"a {device.type}", hint="precision=bf16 or precision=fp32")
    return torch.autocast(device.type, dtype=_DTYPES[precision])


@contextmanager
def compiled_blocks(model: nn.Module, *, wanted: str, device: torch.device) -> Iterator[None]:
    """Compile the segments of a network of its own; a supernet's networks change with every step and are not.

    Blocks share their code, which torch compiles only so many times: within it, at least once for each of them.
    """
    if isinstance(model, Network) and (wanted == "blocks" or (wanted == "auto" and device.type == "cuda")):
        import torch._dynamo.config as limits

        segments = list(model.segments().values())
        for segment in segments:
            segment.compile()
        with limits.patch(recompile_limit=max(limits.recompile_limit, len(segments))):
            yield
        return
    if wanted == "blocks":
        raise InputError("only the blocks of a network of a space can be compiled", got=type(model).__name__)
    yield
