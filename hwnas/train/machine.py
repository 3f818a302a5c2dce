"""Use of the machine by a training: threads and matmul backend, precision, compilation and signals."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn

from hwnas.devices import detect
from hwnas.errors import STOP_SIGNALS, InputError, MissingError
from hwnas.supernet import matmul
from hwnas.supernet.network import Network
from hwnas.train.machine_settings import MachineSettings

_SINGLE_THREAD_MACS = 2e9
"""Smaller steps run on one thread: distributing such small matrix products takes longer than computing them."""
Precision = Literal["fp32", "bf16", "fp16"]
"""Autocast precision of a training."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def torch_device(name: str) -> torch.device:
    """Return the device to run networks on.

    Args:
        name: `cpu`, `cuda`, or `auto` for the GPU if there is one.

    Raises:
        MissingError: The name is `cuda`, and torch finds no GPU.
    """
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        built = "no GPU that torch can use" if torch.version.cuda else "a torch that was built without CUDA"
        raise MissingError("device cuda needs a GPU with its driver", got=built, hint="--device cpu, or hwnas doctor")
    return torch.device("cuda" if has_gpu else "cpu")


class StopRequest:
    """Set by a signal that asks the training to stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        """True after a signal."""
        return self.number is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request to stop; a second one has its usual effect.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
        yield stop
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def request(number: int, frame: FrameType | None) -> None:
        stop.number = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def current_cpu_settings() -> MachineSettings:
    """Return the settings that torch has in this process now."""
    return MachineSettings(
        threads=torch.get_num_threads(), matmul_backend="onednn" if matmul.onednn_enabled() else "default"
    )


@contextmanager
def cpu_settings(*, threads: int, matmul_backend: str) -> Iterator[None]:
    """Set torch's number of threads and the backend of float32 matrix products within the context.

    Both change the order of floating-point sums, so a training must keep them to resume bit for bit.
    """
    threads_before, backend_before = torch.get_num_threads(), os.environ.get(matmul.VARIABLE)
    torch.set_num_threads(threads)
    os.environ[matmul.VARIABLE] = matmul_backend
    matmul.matmul_backend.cache_clear()
    try:
        with matmul.fast_matmul():
            yield
    finally:
        torch.set_num_threads(threads_before)
        del os.environ[matmul.VARIABLE]
        if backend_before is not None:
            os.environ[matmul.VARIABLE] = backend_before
        matmul.matmul_backend.cache_clear()


@contextmanager
def plain_attention(*models: nn.Module | None, precision: str, device: torch.device) -> Iterator[None]:
    """Compute the attention of timm's models without torch's fused kernel within the context, where that is slow.

    These are the cases in which `hwnas.supernet.layers.attend` does without it: below float32 on a CPU, and where
    matrix products run on oneDNN.
    """
    changed: list[Any] = []
    if device.type == "cpu" and (precision != "fp32" or matmul.onednn_enabled()):
        parts = (part for model in models if model is not None for part in model.modules())
        changed = [part for part in parts if getattr(part, "fused_attn", False) is True]
    for part in changed:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in changed:
            part.fused_attn = True


def choose_threads(*, requested: int, macs: int) -> int:
    """Choose the number of CPU threads.

    Args:
        requested: Number to use; 0: choose it, unless OMP_NUM_THREADS is set.
        macs: Multiply-accumulates of the largest forward pass of a step; 0 if unknown.

    Returns:
        The requested number, 1 for small steps, or else torch's own choice.
    """
    if requested:
        return requested
    if "OMP_NUM_THREADS" in os.environ or not 0 < macs < _SINGLE_THREAD_MACS:
        return torch.get_num_threads()
    return 1


def device_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision in which a device trains fastest what a recipe trains in 16 bits.

    A GPU that multiplies bf16 does so in place of fp16, which needs losses to be scaled; another one computes in the
    recipe's own. A CPU computes in bf16 if it multiplies that, without which it is slower than fp32.
    """
    if precision == "fp16" and device.type == "cuda" and _multiplies_bf16(device):
        return "bf16"
    if precision == "fp32" or device.type != "cpu":
        return precision
    return "bf16" if detect().cpu.has_bf16 else "fp32"


def _multiplies_bf16(device: torch.device) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in a precision.

    Raises:
        InputError: fp16 is requested on a CPU.
    """
    if precision == "fp32":
        return nullcontext()
    if precision == "fp16" and device.type != "cuda":
        message = "precision fp16 needs a CUDA device"
        raise InputError(message, got=f"a {device.type}", hint="--set precision=fp32")
    return torch.autocast(device.type, dtype=_DTYPES[precision])


@contextmanager
def compiled_blocks(model: nn.Module, *, mode: str, device: torch.device) -> Iterator[None]:
    """Compile the segments of a single network within the context.

    A supernet is not compiled: its networks change with every step.

    Args:
        model: Model to train.
        mode: `auto` compiles on a GPU, `blocks` always, `never` never.
        device: Device of the training.

    Raises:
        InputError: `blocks` is requested of a model that is no network of a space.
    """
    if isinstance(model, Network) and (mode == "blocks" or (mode == "auto" and device.type == "cuda")):
        import torch._dynamo.config as limits

        segments = list(model.segments().values())
        for segment in segments:
            segment.compile()
        # Blocks share the code of their forward, and torch gives up on code that it has compiled too often.
        with limits.patch(recompile_limit=max(limits.recompile_limit, len(segments))):
            yield
        return
    if mode == "blocks":
        raise InputError("only the blocks of a network of a space can be compiled", got=type(model).__name__)
    yield
