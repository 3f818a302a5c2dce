"""Which library multiplies float32 matrices on a CPU: the one place that decides.

torch has two, MKL and oneDNN, and sends float32 products to MKL. On CPUs of other vendors than Intel, MKL leaves vector
units unused, and oneDNN takes about half the time for the same products; where MKL is at the peak, nothing is gained.
torch's switch between them is a permission to round to bfloat16, which oneDNN uses where the CPU has matrix units for
it (AMX) and not elsewhere. So oneDNN is taken only if products of values that bfloat16 cannot hold come out exact, and
if it is clearly faster; both are tried once per process, on the shapes of a transformer.

`HWNAS_PRODUCTS=plain` or `HWNAS_PRODUCTS=onednn` skips the timing; inexact products are refused all the same.
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

VARIABLE = "HWNAS_PRODUCTS"
CHOICES = ("plain", "onednn")
_CLEARLY = 1.2
_TRIAL = (1576, 192, 576)
_REPEATS = 7
_PROBES = ((1, 1576, 192, 576), (1, 300, 64, 192), (6, 197, 96, 197), (2, 17, 32, 17))
"""Number of products, rows, inner size, columns: linears and attention, large and small."""


@contextmanager
def fast_products() -> Iterator[str]:
    """Within it, float32 products run on the faster library; yields which one that is."""
    choice = products()
    if choice == "plain":
        yield choice
        return
    with _onednn():
        yield choice


def on_onednn() -> bool:
    """Whether float32 products run on oneDNN now."""
    return bool(_switch().fp32_precision == "bf16")


@functools.cache
def products() -> str:
    """'onednn' where that gives the same float32 products clearly faster on this CPU, else 'plain'."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", *CHOICES):
        raise InputError(f"{VARIABLE} must be plain or onednn", got=chosen)
    if chosen == "plain":
        return chosen
    with torch.inference_mode(mode=False), torch.no_grad():
        exact = _exact()
        if chosen and not exact:
            hint = f"leave {VARIABLE} away"
            raise InputError("oneDNN rounds float32 products to bfloat16 on this CPU", got=chosen, hint=hint)
        return "onednn" if exact and (chosen or _faster()) else "plain"


def _exact() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with _onednn():
        return all(_keeps_all_bits(*probe) for probe in _PROBES)


def _keeps_all_bits(count: int, rows: int, inner: int, columns: int) -> bool:
    """Products with columns of the identity repeat the values themselves, unless they are rounded on the way."""
    values = 1 + torch.arange(count * rows * inner).reshape(count, rows, inner) % 8191 / 8192
    identity = torch.eye(inner)[:, torch.arange(columns) % inner]
    return torch.equal(_product(values, identity.expand(count, -1, -1)), values[:, :, torch.arange(columns) % inner])


def _product(x: Tensor, y: Tensor) -> Tensor:
    if len(x) == 1:
        return torch.nn.functional.linear(x, y[0].T)
    return x @ y


def _faster() -> bool:
    rows, inner, columns = _TRIAL
    x, weight = torch.ones(rows, inner), torch.ones(columns, inner)
    plain, onednn = [], []
    for _ in range(_REPEATS):
        plain.append(_seconds(x, weight))
        with _onednn():
            onednn.append(_seconds(x, weight))
    return min(plain) > _CLEARLY * min(onednn)


def _seconds(x: Tensor, weight: Tensor) -> float:
    start = time.thread_time()
    torch.nn.functional.linear(x, weight)
    return time.thread_time() - start


@contextmanager
def _onednn() -> Iterator[None]:
    switch = _switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _switch() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
