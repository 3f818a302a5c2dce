"""Networks that the claims compare with: without what a paper claims for, or scaled by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product

import torch
from torch import Tensor, nn

from hwnas.space import SPACES
from hwnas.space.autoformer import AutoFormer, AutoFormerArch, AutoFormerBlock, AutoFormerConfig
from hwnas.space.resnas import ResNasArch
from hwnas.supernet.autoformer import AutoFormerSupernet, AutoFormerSupernetConfig, outline
from hwnas.supernet.layers import init_linears
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.resnas import PatchLogits, Reduction, ReductionConfig, ResNasSupernet
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.supernet import Supernet

_HAND_DEPTH, _HAND_HEAD_DIM = 4, 16
_HAND_HEADS = tuple(range(1, 9))


class SeparateAutoFormer(AutoFormerSupernet):
    """AutoFormer's space with weights of its own for every choice of a block, of the stem and of the head."""

    def __init__(self, space: AutoFormer, config: AutoFormerSupernetConfig | None = None) -> None:
        choices: dict[str, dict[SegmentConfig, str]] = {}
        for arch in _uniform_archs(space.config):
            for name, segment in outline(space.config, arch).items():
                known = choices.setdefault(name, {})
                known.setdefault(segment, f"{name}.{len(known)}")
        weights = {shared: segment for known in choices.values() for segment, shared in known.items()}
        Supernet.__init__(self, space, config or AutoFormerSupernetConfig(), Network(weights))
        self._choices = choices

    def path(self, arch: AutoFormerArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network, each with the weights of its choice."""
        segments = outline(self.space.config, arch)
        return {name: sliced_segment(self._choices[name][config], config, {}) for name, config in segments.items()}


def _uniform_archs(config: AutoFormerConfig) -> Iterator[AutoFormerArch]:
    for embed_dim, num_heads, mlp_ratio in product(config.embed_dims, config.num_heads, config.mlp_ratios):
        block = AutoFormerBlock(num_heads=num_heads, mlp_ratio=mlp_ratio)
        yield AutoFormerArch(embed_dim=embed_dim, blocks=(block,) * max(config.depths))


class ResNasWithoutSkip(ResNasSupernet):
    """ViT-ResNAS's supernet whose spatial reductions are not residual."""

    def _path(self, arch: ResNasArch, patch_logits: PatchLogits) -> dict[str, SlicedSegment]:
        return {name: _without_skip(segment) for name, segment in super()._path(arch, patch_logits).items()}


@dataclass(frozen=True, kw_only=True)
class PlainReductionConfig(ReductionConfig):
    """Config of a spatial reduction without a skip."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        reduction = PlainReduction(self)
        init_linears(reduction)
        nn.init.trunc_normal_(reduction.position, std=0.02)
        return reduction


class PlainReduction(Reduction):
    """The convolution of the patches and the linear of the class token alone."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn the tokens of one stage into tokens of the next."""
        normed = self.norm(x_BND)
        patches = self.conv(self._image(normed)).flatten(2).transpose(1, 2) + self.position
        return torch.cat([self.class_token(normed[:, : self.prefix_tokens]), patches], dim=1)


def _without_skip(segment: SlicedSegment) -> SlicedSegment:
    if not isinstance(segment.config, ReductionConfig):
        return segment
    sizes = {field.name: getattr(segment.config, field.name) for field in fields(ReductionConfig)}
    return replace(segment, config=PlainReductionConfig(**sizes))


def hand_made(*, num_classes: int) -> dict[int, Network]:
    """Return DeiT scaled by hand, by number of heads: four blocks, heads of 16 channels, MLPs four times as wide.

    Patches and images are those of the micro spaces.
    """
    micro = SPACES.get("autoformer-micro").config
    assert isinstance(micro, AutoFormerConfig)
    widths = tuple(heads * _HAND_HEAD_DIM for heads in _HAND_HEADS)
    config = replace(
        micro,
        num_classes=num_classes,
        embed_dims=widths,
        num_heads=_HAND_HEADS,
        mlp_ratios=(4.0,),
        relative_clip=None,
        pooling="token",
    )
    found = {}
    for heads, width in zip(_HAND_HEADS, widths, strict=True):
        blocks = (AutoFormerBlock(num_heads=heads, mlp_ratio=4.0),) * _HAND_DEPTH
        arch = AutoFormerArch(embed_dim=width, blocks=blocks)
        found[heads] = Network(outline(config, arch), input_shape=config.input_shape)
    return found
