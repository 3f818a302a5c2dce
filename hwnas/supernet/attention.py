"""softmax(q kᵀ) v on the backend that suits device, precision and size.

Shape suffixes: B images, H heads, N tokens, D channels of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.supernet.matmul import onednn_enabled

_FEW_TOKENS = 50


def attend(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention; `scale` defaults to the head width to the power of -1/2.

    Exporters, compilers and GPUs get torch's fused kernel. On a CPU that kernel is slow below float32 (about 2.6 times
    the three plain operations at 197 tokens), on few tokens (twice at 17), and where products run on oneDNN, which it
    calls in pieces that are too small for it; there the three operations are used.
    """
    if _explicitly(q_BHND):
        return attend_explicitly(q_BHND, k_BHND, v_BHND, scale=scale)
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, scale=scale)


def attend_explicitly(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, scale: float | None = None) -> Tensor:
    """The same in three operations."""
    factor = q_BHND.shape[-1] ** -0.5 if scale is None else scale
    scores = (q_BHND * factor) @ k_BHND.transpose(-2, -1)
    return scores.softmax(dim=-1).to(v_BHND.dtype) @ v_BHND


def _explicitly(q_BHND: Tensor) -> bool:
    if q_BHND.device.type != "cpu":
        return False
    if q_BHND.dtype in (torch.bfloat16, torch.float16):
        return True
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False
    return q_BHND.shape[-2] < _FEW_TOKENS or onednn_enabled()
