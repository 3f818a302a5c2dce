"""The naive way to train ViT-ResNAS: the whole super-network computed, channels of each sub-network masked.

Only for comparison (`supernet_step.py`). Several networks share a batch, image i going through network i modulo their
number, as in `hwnas.supernet`; here every image pays for the largest network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.space.resnas import ResNas, ResNasArch, ResNasBlock
from hwnas.supernet.layers import Mlp, MultiHeadAttention, TransformerBlock, attend, join_heads, split_heads
from hwnas.supernet.network import Network
from hwnas.supernet.resnas import Reduction, outline


class MaskedResNas(nn.Module):
    def __init__(self, space: ResNas, *, drop_path: float) -> None:
        super().__init__()
        self.space = space
        widest = outline(space.config, space.largest(), drop_path=drop_path, patch_logits="training")
        self.network = Network(widest)

    def forward(self, images: Tensor, archs: Sequence[ResNasArch]) -> tuple[Tensor, Tensor]:
        segments = self.network.segments()
        per_image = [archs[index % len(archs)] for index in range(len(images))]
        x = segments["tokens"](segments["stem"](images))
        before: list[int] = []
        for number, stage in enumerate(self.space.config.stages):
            widths = [arch.stages[number].embed_dim for arch in per_image]
            if number:
                x = self._reduced(segments[f"reductions.{number - 1}"], x, before, widths)
            before, mask = widths, _mask(widths, x.shape[-1])
            x = x * mask
            for slot in range(stage.slots):
                blocks = [arch.stages[number].blocks[slot] for arch in per_image]
                block = segments[f"stages.{number}.{slot}"]
                assert isinstance(block, TransformerBlock)
                x = _block(block, x, mask, blocks, head_dim=stage.head_dim)
        head = self.network.get_submodule("head")
        normed = _norm(head.get_submodule("norm"), x, mask)
        logits, patch_logits = (head.get_submodule(name) for name in ("classifier", "patch_classifier"))
        return logits(normed[:, 0]), patch_logits(normed[:, 1:])

    def _reduced(self, reduction: nn.Module, x: Tensor, before: list[int], after: list[int]) -> Tensor:
        assert isinstance(reduction, Reduction)
        normed = _norm(reduction.norm, x, _mask(before, x.shape[-1]))
        patches = reduction.conv(reduction._image(normed)).flatten(2).transpose(1, 2) + reduction.position
        pooled = nn.functional.avg_pool2d(reduction._image(x), 2).flatten(2).transpose(1, 2)
        skip = nn.functional.pad(torch.cat([x[:, :1], pooled], dim=1), (0, reduction.widening))
        out = torch.cat([reduction.class_token(normed[:, :1]), patches], dim=1) + skip
        return out * _mask(after, out.shape[-1])


def _block(
    block: TransformerBlock, x: Tensor, mask: Tensor, choices: Sequence[ResNasBlock | None], *, head_dim: int
) -> Tensor:
    exists = torch.tensor([float(choice is not None) for choice in choices]).view(-1, 1, 1)
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, MultiHeadAttention)
    assert isinstance(mlp, Mlp)
    q, k, v = split_heads(attention.qkv(_norm(block.norm1, x, mask)), parts=3, num_heads=attention.num_heads)
    heads = _mask([choice.num_heads * head_dim if choice else 1 for choice in choices], attention.proj.in_features)
    branch = attention.proj(join_heads(attend(q, k, v)) * heads)
    x = x + block.drop_path(branch * mask * exists)
    units = _mask([choice.hidden_dim if choice else 1 for choice in choices], mlp.fc1.out_features)
    branch = mlp.fc2(mlp.gelu(mlp.fc1(_norm(block.norm2, x, mask))) * units)
    out: Tensor = x + block.drop_path(branch * mask * exists)
    return out


def _mask(widths: Sequence[int], total: int) -> Tensor:
    """Ones for the first channels of each image, (B, 1, total)."""
    return (torch.arange(total) < torch.tensor(widths)[:, None]).float()[:, None]


def _norm(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Layer norm over the channels that the mask leaves; the others are 0 in `x`."""
    assert isinstance(norm, nn.LayerNorm)
    active = mask.sum(dim=-1, keepdim=True)
    x = x.float()
    mean = x.sum(dim=-1, keepdim=True) / active
    variance = x.square().sum(dim=-1, keepdim=True) / active - mean.square()
    normed = (x - mean) * (variance + norm.eps).rsqrt()
    return (normed * norm.weight + norm.bias) * mask
