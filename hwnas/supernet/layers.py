"""Layers shared by several families: plain modules that know nothing of weight sharing.

Shape suffixes: B images, N tokens, D channels, H heads.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.supernet.features import TokenGrid
from hwnas.supernet.matmul import onednn_enabled

_FEW_TOKENS = 50
"""Below this, three plain operations beat torch's fused attention on a CPU."""


class PatchStem(nn.Module):
    """Patch embedding with a class token, or several tokens, in front and learned positions added to all tokens."""

    def __init__(self, *, channels: int, patch_size: int, grid: int, embed_dim: int, prefix_tokens: int = 1) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, embed_dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, prefix_tokens, embed_dim))
        self.position = nn.Parameter(torch.zeros(1, grid**2 + prefix_tokens, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Turn images into tokens, the class token first."""
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(x_BND.shape[0], -1, -1)  # len() would fix the batch of an export
        return torch.cat([class_token, x_BND], dim=1) + self.position


@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """Config of a `PatchStem`."""

    channels: int
    patch_size: int
    grid: int
    embed_dim: int
    init_std: float = 0.02
    """Standard deviation of the initial class token and positions; at 0 they start at 0."""
    prefix_tokens: int = 1
    """Tokens in front of those of the patches."""

    weight_sizes: ClassVar = ("embed_dim",)
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        stem = PatchStem(
            channels=self.channels,
            patch_size=self.patch_size,
            grid=self.grid,
            embed_dim=self.embed_dim,
            prefix_tokens=self.prefix_tokens,
        )
        if self.init_std:
            nn.init.trunc_normal_(stem.class_token, std=self.init_std)
            nn.init.trunc_normal_(stem.position, std=self.init_std)
        return stem

    def token_grid(self, image_size: int) -> TokenGrid:
        """Return the grid of its tokens."""
        return TokenGrid(side=self.grid, channels=self.embed_dim, prefix_tokens=self.prefix_tokens)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with one linear for q, k and v of `width` channels each: rows [q | k | v], heads within."""

    def __init__(self, *, embed_dim: int, num_heads: int, width: int, scale: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.qkv = nn.Linear(embed_dim, 3 * width)
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend from all tokens to all tokens."""
        q, k, v = split_heads(self.qkv(x_BND), parts=3, num_heads=self.num_heads)
        out: Tensor = self.proj(join_heads(attend(q, k, v, scale=self.scale)))
        return out


class Mlp(nn.Module):
    """Two linears with a GELU between them."""

    def __init__(self, *, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply the layers."""
        out: Tensor = self.fc2(self.gelu(self.fc1(x_BND)))
        return out


class TransformerBlock(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, *, embed_dim: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(embed_dim, eps=eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply both residual branches."""
        x_BND = x_BND + self.drop_path(self.attention(self.norm1(x_BND)))
        out: Tensor = x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))
        return out


class ClassifierHead(nn.Module):
    """Final norm, pooling and classifier."""

    def __init__(self, *, embed_dim: int, num_classes: int, eps: float, average: slice | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim, eps=eps)
        self.classifier = nn.Linear(embed_dim, num_classes)
        self.average = average
        """Tokens that are averaged; None: the first token, which is the class token."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn tokens into logits."""
        x_BND = self.norm(x_BND)
        pooled = x_BND[:, 0] if self.average is None else x_BND[:, self.average].mean(dim=1)
        logits: Tensor = self.classifier(pooled)
        return logits


class DropPath(nn.Module):
    """Stochastic depth: in training an image skips the branch at random, and the kept outputs are scaled up.

    Draws the same random numbers as timm's `DropPath`; importing timm would take seconds in every process that runs a
    network.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of a branch, 0 for the images that skip it."""
        if not (self.training and self.drop_prob):
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty(len(x), *(1 for _ in x.shape[1:])).bernoulli_(keep)
        return x * kept.div_(keep)


def attend(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, scale: float | None = None) -> Tensor:
    """Compute scaled dot-product attention with the kernel that suits device, precision and size.

    Args:
        q_BHND: Queries.
        k_BHND: Keys.
        v_BHND: Values.
        scale: Factor of the scores; None: the width of a head to the power of -1/2.

    Returns:
        The attended values, (B, H, N, D).
    """
    if _prefers_plain_attention(q_BHND):
        factor = q_BHND.shape[-1] ** -0.5 if scale is None else scale
        scores = (q_BHND * factor) @ k_BHND.transpose(-2, -1)
        return scores.softmax(dim=-1).to(v_BHND.dtype) @ v_BHND
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, scale=scale)


def _prefers_plain_attention(q_BHND: Tensor) -> bool:
    # Exporters, compilers and GPUs get torch's fused kernel. On a CPU that kernel is slow below float32 (about 2.6
    # times the three plain operations at 197 tokens), on few tokens (twice at 17), and where matrix products run on
    # oneDNN, which it calls in pieces too small for it.
    if q_BHND.device.type != "cpu":
        return False
    if q_BHND.dtype in (torch.bfloat16, torch.float16):
        return True
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False
    return q_BHND.shape[-2] < _FEW_TOKENS or onednn_enabled()


def split_heads(x_BND: Tensor, *, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Split the channels into equal parts and each part into heads: (B, H, N, width of a head) per part."""
    batch, tokens, channels = x_BND.shape
    heads = x_BND.reshape(batch, tokens, parts, num_heads, channels // parts // num_heads)
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x_BHND: Tensor) -> Tensor:
    """Concatenate the heads along the channels."""
    return x_BHND.transpose(1, 2).flatten(2)


def drop_path_rates(highest: float, *, slots: int) -> list[float]:
    """Return the rates of stochastic depth, growing linearly from 0 in the first slot to `highest` in the last."""
    return [highest * slot / max(slots - 1, 1) for slot in range(slots)]


def init_linears(module: nn.Module, *, std: float = 0.02) -> None:
    """Initialise all linears as a ViT does: weights from a truncated normal distribution, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
