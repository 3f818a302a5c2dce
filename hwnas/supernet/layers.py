"""Layers that networks of several families are built from: plain modules, no sharing in them.

Shape suffixes: B images, N tokens, D channels, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwnas.supernet.attention import attend


class PatchStem(nn.Module):
    """Patches to tokens, a class token before them, and a position embedding on all."""

    def __init__(self, *, channels: int, patch_size: int, grid: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, embed_dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.position = nn.Parameter(torch.zeros(1, grid**2 + 1, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Images to tokens, the class token first."""
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(x_BND.shape[0], -1, -1)  # len() would fix the batch of an export
        return torch.cat([class_token, x_BND], dim=1) + self.position


@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """Patch embedding, class token, position."""

    channels: int
    patch_size: int
    grid: int
    embed_dim: int
    init_std: float = 0.02
    """Of the class token and the position; 0: they start at 0."""

    def build(self) -> nn.Module:
        """The segment with fresh weights."""
        stem = PatchStem(channels=self.channels, patch_size=self.patch_size, grid=self.grid, embed_dim=self.embed_dim)
        if self.init_std:
            nn.init.trunc_normal_(stem.class_token, std=self.init_std)
            nn.init.trunc_normal_(stem.position, std=self.init_std)
        return stem


class Attention(nn.Module):
    """Multi-head attention with a joint linear for q, k and v, `width` each; rows are [q | k | v], heads within."""

    def __init__(self, *, embed_dim: int, num_heads: int, width: int, scale: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.qkv = nn.Linear(embed_dim, 3 * width)
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attention of all tokens to all tokens."""
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


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, *, embed_dim: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(embed_dim, eps=eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Both branches and their residual sums."""
        x_BND = x_BND + self.drop_path(self.attention(self.norm1(x_BND)))
        out: Tensor = x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))
        return out


class Head(nn.Module):
    """The last norm, a pool, and the classifier."""

    def __init__(self, *, embed_dim: int, num_classes: int, eps: float, average: slice | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim, eps=eps)
        self.classifier = nn.Linear(embed_dim, num_classes)
        self.average = average
        """The tokens that are averaged; None: the first token, which is the class token."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens to logits."""
        x_BND = self.norm(x_BND)
        pooled = x_BND[:, 0] if self.average is None else x_BND[:, self.average].mean(dim=1)
        logits: Tensor = self.classifier(pooled)
        return logits


class DropPath(nn.Module):
    """Stochastic depth: in training an image goes through the branch or not, and what goes is scaled up for it.

    As timm's, draw for draw; importing that takes seconds in every process that runs a network.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """A branch's output, 0 for the images that leave it out."""
        if not (self.training and self.drop_prob):
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty(len(x), *(1 for _ in x.shape[1:])).bernoulli_(keep)
        return x * kept.div_(keep)


def split_heads(x_BND: Tensor, *, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """The equal parts of the channels, each as (B, H, N, width of a head)."""
    batch, tokens, channels = x_BND.shape
    heads = x_BND.reshape(batch, tokens, parts, num_heads, channels // parts // num_heads)
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(x_BHND: Tensor) -> Tensor:
    """Heads side by side in the channels."""
    return x_BHND.transpose(1, 2).flatten(2)


def drop_path_rates(highest: float, *, slots: int) -> list[float]:
    """The rates of stochastic depth, from 0 in the first slot to the highest in the last."""
    return [highest * slot / max(slots - 1, 1) for slot in range(slots)]


def init_linears(module: nn.Module, *, std: float = 0.02) -> None:
    """The usual start of a ViT: linear weights normal, their biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            nn.init.zeros_(part.bias)
