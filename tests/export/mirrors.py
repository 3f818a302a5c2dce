"""Small hand-written networks with the operations that networks of `hwnas.space` have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stem(nn.Module):
    """Patches, a class token, positions."""

    def __init__(self, *, image_size: int, patch_size: int, embed: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, embed, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed))
        self.position = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2 + 1, embed))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.position


class SelfAttention(nn.Module):
    def __init__(self, embed: int, *, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(embed, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, embed)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, _ = tokens.shape
        query, key, value = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.proj(out.transpose(1, 2).reshape(batch, length, -1))
        return joined


class Locality(nn.Module):
    """GLiT's convolution over the tokens, as an image one pixel high, between linear layers."""

    def __init__(self, channels: int, *, inner: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * inner)
        self.depthwise = nn.Conv2d(inner, inner, (1, kernel), padding=(0, kernel // 2), groups=inner)
        self.batch_norm = nn.BatchNorm2d(inner)
        self.silu = nn.SiLU()
        self.reduce = nn.Linear(inner, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        line = F.glu(self.expand(tokens), dim=-1).mT[:, :, None]
        reduced: Tensor = self.reduce(self.silu(self.batch_norm(self.depthwise(line)))[:, :, 0].mT)
        return reduced


class Mixed(nn.Module):
    """Attention on the first channels, the locality module on the others; either may be None."""

    def __init__(self, attention: nn.Module | None, locality: nn.Module | None, *, split: int) -> None:
        super().__init__()
        self.attention, self.locality, self.split = attention, locality, split

    def forward(self, tokens: Tensor) -> Tensor:
        parts = (tokens[..., : self.split], tokens[..., self.split :])
        branches = (self.attention, self.locality)
        outs = [branch(part) for branch, part in zip(branches, parts, strict=True) if branch is not None]
        return torch.cat(outs, dim=-1) if len(outs) > 1 else outs[0]


class Block(nn.Module):
    """Norm, a mixer of tokens, sum; norm, MLP, sum."""

    def __init__(self, embed: int, *, mixer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(embed), mixer
        self.norm2, self.fc1 = nn.LayerNorm(embed), nn.Linear(embed, hidden)
        self.gelu, self.fc2 = nn.GELU(), nn.Linear(hidden, embed)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mixer(self.norm1(tokens))
        out: Tensor = tokens + self.fc2(self.gelu(self.fc1(self.norm2(tokens))))
        return out


class Head(nn.Module):
    """The last norm, the mean of the patches or the class token, the classifier."""

    def __init__(self, embed: int, *, num_classes: int, average: bool) -> None:
        super().__init__()
        self.norm, self.classifier, self.average = nn.LayerNorm(embed), nn.Linear(embed, num_classes), average

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        logits: Tensor = self.classifier(tokens[:, 1:].mean(dim=1) if self.average else tokens[:, 0])
        return logits
