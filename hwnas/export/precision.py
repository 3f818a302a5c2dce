"""The number formats that a network can be exported in."""

import copy

import torch
from torch import Tensor, nn

from hwnas.errors import unknown

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Names to torch's types."""


def precision_type(name: str) -> torch.dtype:
    """The torch type of a precision by its name."""
    if name not in TORCH_DTYPES:
        raise unknown("precision", name, TORCH_DTYPES)
    return TORCH_DTYPES[name]


class InPrecision(nn.Module):
    """A network that computes in a precision of its own and has float32 images and logits.

    So graphs of all precisions are fed and compared alike, and nobody has to hand over bfloat16, which numpy lacks; the
    price is a cast at either end.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits, both float32."""
        logits: Tensor = self.module(images.to(self.dtype))
        return logits.float()


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """A copy of a module for a precision, in evaluation mode and on the CPU; the module itself is left as it is."""
    own = copy.deepcopy(module).to("cpu").eval()
    if precision == "fp32":
        return own.float()
    dtype = precision_type(precision)
    return InPrecision(own.to(dtype), dtype).eval()
