"""The precisions that a network can be exported in."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hwnas.errors import unknown
from hwnas.metrics import QUANTISED

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""torch's type of each precision."""


def exported_precision(name: str) -> str:
    """Return the precision that a module is exported in: a quantised graph is made from one in float32."""
    return "fp32" if name in QUANTISED else name


def precision_type(name: str) -> torch.dtype:
    """Return torch's type of a precision."""
    if name not in TORCH_DTYPES:
        raise unknown("precision", name, TORCH_DTYPES)
    return TORCH_DTYPES[name]


class InPrecision(nn.Module):
    """A network that computes in a lower precision, with float32 images and logits.

    All exported graphs can thus be fed and compared alike, and no caller has to provide bfloat16 arrays, which numpy
    lacks. The price is a cast at either end.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, images: Tensor) -> Any:
        """Return the logits of images, or several outputs, in float32 as the images are."""
        return tree_map(Tensor.float, self.module(images.to(self.dtype)))


def copy_in_precision(module: nn.Module, precision: str) -> nn.Module:
    """Return a copy of a module in a precision, in evaluation mode on the CPU."""
    own = copy.deepcopy(module).to("cpu").eval()
    if precision == "fp32":
        return own.float()
    dtype = precision_type(precision)
    return InPrecision(own.to(dtype), dtype).eval()
