"""How far rounding alone takes a network's outputs from those in float32: the measure for a lower precision.

The network runs in float32, and what each operation gives is rounded, as are its weights. That costs little more than
a run in float32 anywhere, and does not depend on which kernels a machine has.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from hwnas.export.precision import in_precision

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""The most that a logit may differ by precision, as a share of the largest logit that torch gives in float32."""

_FACTOR = 4.0
"""Two ways of rounding differ from each other by up to twice what each is off, and single logits by more."""

_STEP = {"tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""Between 1 and the next number."""

_TF32_DROPPED_BITS = 13


def tolerance_of(module: nn.Module, images: Tensor, *, precision: str) -> float:
    """What the logits of a float32 module may differ by in a precision, as a share of the largest.

    It follows from what rounding does to this network on these images, and is never more than `TOLERANCE`.
    """
    if precision == "fp32":
        return TOLERANCE[precision]
    error = rounding_error(module, images, precision=precision)
    return min(TOLERANCE[precision], max(_FACTOR * error, 2 * _STEP[precision]))


def rounding_error(module: nn.Module, images: Tensor, *, precision: str) -> float:
    """The largest difference of a logit that rounding makes, as a share of the largest; infinite where it overflows."""
    with torch.no_grad():
        expected = module(images)
        with _Rounding(precision):
            found = rounded_weights(module, precision=precision)(rounded(images, precision))
    error = float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
    return error if error == error else float("inf")


def rounded_weights(module: nn.Module, *, precision: str) -> nn.Module:
    """A float32 copy of a module whose weights are those that a precision leaves of them."""
    own = in_precision(module, "fp32")
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(rounded(tensor, precision))
    return own


def rounded(tensor: Tensor, precision: str) -> Tensor:
    """A float32 tensor's nearest values in a precision, in float32 again."""
    if precision == "tf32":
        half = 1 << (_TF32_DROPPED_BITS - 1)
        bits = tensor.contiguous().view(torch.int32)
        return ((bits + half) >> _TF32_DROPPED_BITS << _TF32_DROPPED_BITS).view(torch.float32)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    return tensor if kind is None else tensor.to(kind).to(tensor.dtype)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what each operation gives."""

    def __init__(self, precision: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._precision = precision

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, rounded; views share the memory of what was rounded already."""
        found = func(*args, **(kwargs or {}))
        return found if func.is_view else tree_map(self._rounded, found)

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            value.copy_(rounded(value, self._precision))
        return value
