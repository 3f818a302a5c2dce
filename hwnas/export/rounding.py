"""Simulated rounding: the effect of a lower precision on the outputs of a network, and the tolerance that follows.

A fixed tolerance for float16 is too wide for some networks and too narrow for others: a deep network accumulates more
rounding than a shallow one. So rounding is simulated for the network at hand. It runs in float32, its weights and the
result of each operation are rounded to the precision, and the change of its logits is measured. This costs little more
than a run in float32 and does not depend on the kernels of a machine.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from hwnas.export.precision import copy_in_precision

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""Upper limit of the tolerance in each precision, as a share of the largest logit that torch computes in float32."""

_FACTOR = 4.0
"""Tolerance divided by the simulated error. A runtime rounds at other places than the simulation, so the two may differ
by twice the error, and single logits by more than that."""

_STEP = {"tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""Distance of 1 from the next number in each precision."""

_TF32_DROPPED_BITS = 13
"""TF32 keeps 10 of the 23 bits of a float32 fraction."""


def rounding_tolerance(module: nn.Module, images: Tensor, *, precision: str) -> float:
    """Return the difference of logits that rounding explains, as a share of the largest logit.

    Args:
        module: A float32 module in evaluation mode.
        images: Images to simulate rounding with.
        precision: The lower precision; the tolerance of 'fp32' is constant.

    Returns:
        Four times the simulated error, at least two steps of the precision and at most `TOLERANCE`.
    """
    if precision == "fp32":
        return TOLERANCE[precision]
    with torch.no_grad():
        expected = module(images)
        with _Rounding(precision):
            outputs = with_rounded_weights(module, precision=precision)(rounded(images, precision))
    error = float((outputs - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
    if math.isnan(error):  # an overflow in float16: the upper limit applies
        error = float("inf")
    return min(TOLERANCE[precision], max(_FACTOR * error, 2 * _STEP[precision]))


def with_rounded_weights(module: nn.Module, *, precision: str) -> nn.Module:
    """Return a float32 copy of a module whose weights are rounded to a precision."""
    own = copy_in_precision(module, "fp32")
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(rounded(tensor, precision))
    return own


def rounded(tensor: Tensor, precision: str) -> Tensor:
    """Round a float32 tensor to a precision and return it as float32."""
    if precision == "tf32":
        # torch has no TF32 type. On the bits: add half of the last bit that is kept, and clear those behind it.
        half = 1 << (_TF32_DROPPED_BITS - 1)
        bits = tensor.contiguous().view(torch.int32)
        return ((bits + half) >> _TF32_DROPPED_BITS << _TF32_DROPPED_BITS).view(torch.float32)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    return tensor if kind is None else tensor.to(kind).to(tensor.dtype)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds the result of each torch operation."""

    def __init__(self, precision: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._precision = precision

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and round its result; a view shares the memory of a result that is rounded already."""
        result = func(*args, **(kwargs or {}))
        return result if func.is_view else tree_map(self._round, result)

    def _round(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            value.copy_(rounded(value, self._precision))
        return value
