"""The backend of float32 matrix products on a CPU.

torch has two, MKL and oneDNN, and sends float32 products to MKL. On CPUs of other vendors than Intel, MKL leaves vector
units unused and oneDNN takes about half the time for the same products; where MKL reaches the peak, nothing is gained.
Neither the vendor nor the model name tells which case applies, so both backends are timed once per process on the
shapes of a transformer, and oneDNN is chosen where it is exact and clearly faster.

The environment variable `HWNAS_MATMUL` (`default` or `onednn`) skips the timing; a backend that rounds is refused all
the same.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hwnas.errors import InputError

VARIABLE = "HWNAS_MATMUL"
BACKENDS = ("default", "onednn")
"""torch's own choice, and oneDNN."""

_CLEARLY_FASTER = 1.2
_TIMED_SHAPE = (1576, 192, 576)
"""Rows, inner size and columns: q, k and v of 8 images in the smallest DeiT."""
_REPEATS = 7
_EXACTNESS_SHAPES = ((1, 1576, 192, 576), (1, 300, 64, 192), (6, 197, 96, 197), (2, 17, 32, 17))
"""Number of products, rows, inner size, columns: linears and attention, large and small."""


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
def matmul_backend() -> str:
    """Choose the backend of float32 matrix products, once per process.

    Returns:
        'onednn' where it gives the same products clearly faster on this CPU, else 'default'.

    Raises:
        InputError: `HWNAS_MATMUL` names no backend, or names oneDNN on a CPU where it rounds to bfloat16.
    """
    requested = os.environ.get(VARIABLE, "")
    if requested not in ("", *BACKENDS):
        raise InputError(f"{VARIABLE} must be {' or '.join(BACKENDS)}", got=requested)
    if requested == "default":
        return requested
    with torch.inference_mode(mode=False), torch.no_grad():
        exact = _onednn_is_exact()
        if requested and not exact:
            hint = f"unset {VARIABLE}"
            raise InputError("oneDNN rounds float32 products to bfloat16 on this CPU", got=requested, hint=hint)
        return "onednn" if exact and (requested or _onednn_is_faster()) else "default"


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
