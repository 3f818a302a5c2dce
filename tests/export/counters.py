"""Reference counts by torch: multiply-accumulates by its flop counter, used parameters by their gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counted:
    macs: int
    params: int


def counted(module: nn.Module, *shape: int) -> Counted:
    """Counted with gradients, without which the flop counter fails on some networks; the module is on meta."""
    example = torch.empty(shape, device="meta", dtype=next(module.parameters()).dtype)
    with FlopCounterMode(display=False) as counter:
        out: Any = module.eval()(example)
    torch.sum(out).backward()  # type: ignore[no-untyped-call]
    used = (parameter for parameter in module.parameters() if parameter.grad is not None)
    return Counted(macs=counter.get_total_flops() // 2, params=sum(parameter.numel() for parameter in used))
