"""Which backend runs a linear layer: the one place that decides.

On CPUs that are not Intel's, torch sends float32 matrix products to MKL's AVX2 path and convolutions to oneDNN, which
uses AVX-512: a linear written as a 1x1 convolution over channels-last tokens then takes about half the time, with the
same float32 result. It only pays from about a thousand token rows on, while weights stay small against them; elsewhere
(other precisions, devices, compilers and exporters) a linear is a linear.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.devices import detect

_MIN_ROWS = 1000


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, on the backend that is faster for this shape."""
    if _suits_convolution(x, weight):
        return _as_convolution(x, weight, bias)
    return F.linear(x, weight, bias)


def _suits_convolution(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 3:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.shape[0] * x.shape[1] >= _MIN_ROWS and _convolutions_are_faster()


def _as_convolution(x_BND: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    image = x_BND.transpose(1, 2).unsqueeze(-1)
    return F.conv2d(image, weight[:, :, None, None], bias).squeeze(-1).transpose(1, 2)


@functools.cache
def _convolutions_are_faster() -> bool:
    cpu = detect().cpu
    return cpu.vendor != "intel" and "avx512f" in cpu.instruction_sets and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
