"""Which backend runs a linear layer: the one place that decides.

On a CPU, torch sends float32 matrix products to MKL and convolutions to oneDNN. Where MKL leaves vector units unused
(it does not use AVX-512 on other vendors' CPUs), a linear written as a 1x1 convolution over channels-last tokens takes
about half the time with the same float32 arithmetic; where MKL is at the peak already, the convolution is slower. No
name of a CPU tells the two apart reliably, so both are timed once per process on a typical layer, and the convolution
is taken only if it is clearly faster. It needs about a thousand token rows; with fewer, with other precisions or
devices, and under compilers and exporters a linear is a linear.

`HWNAS_LINEAR=plain` or `HWNAS_LINEAR=convolution` skips the timing.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.errors import InputError

VARIABLE = "HWNAS_LINEAR"
_Function = Callable[[Tensor, Tensor, Tensor], Tensor]
_MIN_ROWS = 1000
_CLEARLY = 1.4
_TRIAL_ROWS, _TRIAL_INPUTS, _TRIAL_OUTPUTS, _TRIAL_REPEATS = 1576, 192, 576, 7


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, on the backend that is faster for this shape."""
    if _may_convolve(x) and convolution_is_faster():
        return as_convolution(x, weight, bias)
    return F.linear(x, weight, bias)


def as_convolution(x_BND: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same as a 1x1 convolution over an image of one row, channels last."""
    image_BD1N = x_BND[:, None].permute(0, 3, 1, 2)
    return F.conv2d(image_BD1N, weight[:, :, None, None], bias).permute(0, 2, 3, 1)[:, 0]


@functools.cache
def convolution_is_faster() -> bool:
    """Whether a forward and a backward through the convolution are clearly faster on this CPU."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", "plain", "convolution"):
        raise InputError(f"{VARIABLE} must be plain or convolution", got=chosen)
    if chosen:
        return chosen == "convolution"
    plain, convolution = _best_seconds((F.linear, as_convolution))
    return plain > _CLEARLY * convolution


def _may_convolve(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 3:
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch.is_autocast_enabled("cpu"):
        return False
    return x.shape[0] * x.shape[1] >= _MIN_ROWS


def _best_seconds(functions: Sequence[_Function]) -> list[float]:
    """CPU seconds of the fastest of a few forwards and backwards of each function, run in turn on this thread."""
    seconds: list[list[float]] = [[] for _ in functions]
    with torch.inference_mode(mode=False), torch.enable_grad():
        x = torch.ones(8, _TRIAL_ROWS // 8, _TRIAL_INPUTS, requires_grad=True)
        weight = torch.ones(_TRIAL_OUTPUTS, _TRIAL_INPUTS, requires_grad=True)
        bias = torch.ones(_TRIAL_OUTPUTS, requires_grad=True)
        gradient = torch.ones(8, _TRIAL_ROWS // 8, _TRIAL_OUTPUTS)
        for _ in range(_TRIAL_REPEATS):
            for function, found in zip(functions, seconds, strict=True):
                start = time.thread_time()
                torch.autograd.grad(function(x, weight, bias), (x, weight, bias), gradient)
                found.append(time.thread_time() - start)
    return [min(found) for found in seconds]
