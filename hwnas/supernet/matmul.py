"""The backend of float32 matrix products on a CPU.

torch has two, MKL and oneDNN, and sends float32 products to MKL. On CPUs of other vendors than Intel, MKL leaves vector
units unused and oneDNN takes about half the time for the same products; where MKL reaches the peak, nothing is gained.
Neither the vendor nor the model name tells which case applies, so both backends are timed on the shapes of a
transformer, and oneDNN is chosen where it is exact and clearly faster. A busy machine may be timed differently from
process to process, and the last bits of results depend on the backend: the choice of the first process is kept in a
file, so that the same command gives the same weights.

The environment variable `HWNAS_MATMUL` (`default` or `onednn`) skips the timing; a backend that rounds is refused all
the same.
"""

import functools
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hwnas.data_paths import cache_folder
from hwnas.devices.device import read_system_file
from hwnas.errors import InputError
from hwnas.files import file_errors, read_text

VARIABLE = "HWNAS_MATMUL"
Backend = Literal["default", "onednn"]
BACKENDS: tuple[Backend, Backend] = ("default", "onednn")
"""torch's own choice, and oneDNN."""

_CLEARLY_FASTER = 1.2
_TIMED_SHAPE = (1576, 192, 576)
"""Rows, inner size and columns: q, k and v of 8 images in the smallest DeiT."""
_REPEATS = 7
_EXACTNESS_SHAPES = ((1, 1576, 192, 576), (1, 300, 64, 192), (6, 197, 96, 197), (2, 17, 32, 17))
"""Number of products, rows, inner size, columns: linears and attention, large and small."""

_log = logging.getLogger(__name__)


@contextmanager
def fast_matmul() -> Iterator[str]:
    """Run float32 matrix products on the faster backend within the context, and yield its name."""
    backend = matmul_backend()
    if backend == "default":
        yield backend
        return
    with _onednn():
        yield backend


def onednn_enabled() -> bool:
    """Return True while float32 matrix products run on oneDNN."""
    return bool(_switch().fp32_precision == "bf16")


@functools.cache
def matmul_backend() -> Backend:
    """Choose the backend of float32 matrix products, once per machine and version of torch.

    Returns:
        'onednn' where it gives the same products clearly faster on this CPU, else 'default'.

    Raises:
        InputError: `HWNAS_MATMUL` names no backend, or names oneDNN on a CPU where it rounds to bfloat16.
    """
    requested = os.environ.get(VARIABLE, "")
    if requested not in ("", *BACKENDS):
        raise InputError(f"{VARIABLE} must be {' or '.join(BACKENDS)}", got=requested)
    if requested == "default":
        return "default"
    with torch.inference_mode(mode=False), torch.no_grad():
        exact = _onednn_is_exact()
        if requested and not exact:
            hint = f"unset {VARIABLE}"
            raise InputError("oneDNN rounds float32 products to bfloat16 on this CPU", got=requested, hint=hint)
        if requested or not exact:
            return "onednn" if exact else "default"
        return _choice_of_machine()


def _choice_of_machine() -> Backend:
    """Return the backend that the first process of this machine chose; without a cache folder, time both again."""
    try:
        file = cache_folder() / "matmul" / f"{_machine_digest()}.txt"
        kept = _read_choice(file)
        if kept is None:
            _keep_choice("onednn" if _onednn_is_faster() else "default", file)
            kept = _read_choice(file)  # of several processes that time at once, all take the choice that was kept
        if kept is not None:
            return kept
    except InputError as error:
        _log.info("the choice of the matmul backend is not kept: %s", error)
    return "onednn" if _onednn_is_faster() else "default"


def _machine_digest() -> str:
    lines = (read_system_file("/proc/cpuinfo") or "").splitlines()
    model = next((line for line in lines if line.startswith("model name")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return hashlib.sha256(f"{model}\n{capability}\n{torch.__version__}".encode()).hexdigest()[:16]


def _read_choice(file: Path) -> Backend | None:
    if not file.is_file():
        return None
    text = read_text(file).strip()
    return next((backend for backend in BACKENDS if backend == text), None)


def _keep_choice(backend: Backend, file: Path) -> None:
    """Write the choice unless another process has written one."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    with file_errors(file, "written"):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(f"{backend}\n", encoding="ascii")
            if _read_choice(file) is None:
                file.unlink(missing_ok=True)  # a damaged one
            os.link(temporary, file)  # unlike a rename, this never replaces the file of another process
        except FileExistsError:
            return
        finally:
            temporary.unlink(missing_ok=True)


def _onednn_is_exact() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with _onednn():
        return all(_keeps_all_bits(*shape) for shape in _EXACTNESS_SHAPES)


def _keeps_all_bits(count: int, rows: int, inner: int, columns: int) -> bool:
    # A product with columns of the identity gives the values back, unless they are rounded on the way: these have 13
    # fractional bits, and bfloat16 keeps 7.
    values = 1 + torch.arange(count * rows * inner).reshape(count, rows, inner) % 8191 / 8192
    picked = torch.arange(columns) % inner
    identity = torch.eye(inner)[:, picked]
    batched = identity.expand(count, -1, -1)
    product = values @ batched if count > 1 else torch.nn.functional.linear(values, identity.T)
    return torch.equal(product, values[:, :, picked])


def _onednn_is_faster() -> bool:
    rows, inner, columns = _TIMED_SHAPE
    x, weight = torch.ones(rows, inner), torch.ones(columns, inner)
    default, onednn = [], []
    # In turns, and the fastest of each: a clock that changes or a busy core then meets both alike.
    for _ in range(_REPEATS):
        default.append(_seconds(x, weight))
        with _onednn():
            onednn.append(_seconds(x, weight))
    return min(default) > _CLEARLY_FASTER * min(onednn)


def _seconds(x: Tensor, weight: Tensor) -> float:
    start = time.thread_time()
    torch.nn.functional.linear(x, weight)
    return time.thread_time() - start


@contextmanager
def _onednn() -> Iterator[None]:
    # torch's switch permits rounding to bfloat16, which oneDNN does only on CPUs with matrix units for it (AMX). There
    # is no other way to have oneDNN multiply float32 matrices; `_onednn_is_exact` keeps those CPUs out.
    switch = _switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _switch() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
