"""AutoFormer's supernet: weight entanglement, where every width is a prefix of the widest, with relative position."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from hwnas.space.autoformer import AutoFormer, AutoFormerArch, AutoFormerConfig
from hwnas.supernet.layers import (
    ClassifierHead,
    Mlp,
    StemConfig,
    TransformerBlock,
    attend,
    drop_path_rates,
    init_linears,
    join_heads,
    split_heads,
)
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.relative import RelativeAttention
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.sharing import Axes, attention_axes, head_axes, interleaved, mlp_axes, prefix, stem_axes
from hwnas.supernet.supernet import Supernet, SupernetConfig

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class AutoFormerSupernetConfig(SupernetConfig):
    """Options of an AutoFormer supernet."""

    embed_dim: int | None = None
    """Allocated embedding width; None: the widest choice. The released supernets allocate more than they use."""
    plain_bias: bool = False
    """Slice the bias of q, k and v as a prefix although its weight is interleaved, as the released checkpoints do."""


@dataclass(frozen=True, kw_only=True)
class AutoFormerBlockConfig:
    """Config of a block of attention with relative position and an MLP."""

    embed_dim: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    grid: int
    relative_clip: int | None
    drop_path: float = 0.0

    weight_sizes: ClassVar = ("hidden_dim",)
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        attention, mlp = AutoFormerAttention(self), Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        block = TransformerBlock(attention, mlp, embed_dim=self.embed_dim, eps=EPS, drop_path=self.drop_path)
        init_linears(block)
        return block


@dataclass(frozen=True, kw_only=True)
class AutoFormerHeadConfig:
    """Config of a head on the average of the patches or on the class token."""

    embed_dim: int
    num_classes: int
    average: bool

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        patches = slice(1, None) if self.average else None
        head = ClassifierHead(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=EPS, average=patches)
        init_linears(head)
        return head


class AutoFormerAttention(nn.Module):
    """Attention with heads of a fixed width, and with relative position if the config has it."""

    def __init__(self, config: AutoFormerBlockConfig) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * width)
        self.proj = nn.Linear(width, config.embed_dim)
        self.relative = None
        if config.relative_clip is not None:
            self.relative = RelativeAttention(grid=config.grid, clip=config.relative_clip, head_dim=config.head_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend from all tokens to all tokens."""
        q, k, v = split_heads(self.qkv(x_BND), parts=3, num_heads=self.num_heads)
        attended = attend(q, k, v) if self.relative is None else self.relative(q, k, v)
        out: Tensor = self.proj(join_heads(attended))
        return out


def outline(config: AutoFormerConfig, arch: AutoFormerArch, *, drop_path: float = 0.0) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network; `drop_path` is the rate of the last slot of the space."""
    rates = drop_path_rates(drop_path, slots=max(config.depths))
    stem = StemConfig(
        channels=config.channels, patch_size=config.patch_size, grid=config.grid, embed_dim=arch.embed_dim
    )
    blocks = {
        f"blocks.{slot}": AutoFormerBlockConfig(
            embed_dim=arch.embed_dim,
            num_heads=block.num_heads,
            head_dim=config.head_dim,
            hidden_dim=block.hidden_dim(arch.embed_dim),
            grid=config.grid,
            relative_clip=config.relative_clip,
            drop_path=rates[slot],
        )
        for slot, block in enumerate(arch.blocks)
    }
    head = AutoFormerHeadConfig(
        embed_dim=arch.embed_dim, num_classes=config.num_classes, average=config.pooling == "average"
    )
    return {"stem": stem, **blocks, "head": head}


class AutoFormerSupernet(Supernet[AutoFormerConfig, AutoFormerArch, AutoFormerSupernetConfig]):
    """The shared weights of an AutoFormer space."""

    space_type = AutoFormer
    config_type = AutoFormerSupernetConfig

    def __init__(self, space: AutoFormer, config: AutoFormerSupernetConfig | None = None) -> None:
        config = config or AutoFormerSupernetConfig()
        widest = space.largest()
        if config.embed_dim is not None:
            widest = replace(widest, embed_dim=config.embed_dim)
        super().__init__(space, config, Network(outline(space.config, widest)))

    def path(self, arch: AutoFormerArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network, every width a prefix."""
        segments = outline(self.space.config, arch, drop_path=self.config.drop_path)
        return {name: sliced_segment(name, config, self._axes(config)) for name, config in segments.items()}

    def _axes(self, config: SegmentConfig) -> Axes:
        match config:
            case StemConfig():
                return stem_axes(prefix(config.embed_dim))
            case AutoFormerBlockConfig():
                # Shared rows are interleaved as q0, k0, v0, q1, …: those of a narrower network are a prefix, and no
                # row serves as q in one network and as k in another.
                embed, width = prefix(config.embed_dim), config.num_heads * config.head_dim
                rows = interleaved(3 * width)
                bias = prefix(3 * width) if self.config.plain_bias else rows
                attention = attention_axes(embed, rows=rows, bias=bias, width=prefix(width))
                return {**attention, **mlp_axes(embed, hidden=prefix(config.hidden_dim))}
            case AutoFormerHeadConfig():
                return head_axes(prefix(config.embed_dim))
        raise AssertionError(config)


SUPERNET = AutoFormerSupernet
SEGMENTS = {
    "layers.StemConfig": StemConfig,
    "autoformer.BlockConfig": AutoFormerBlockConfig,
    "autoformer.HeadConfig": AutoFormerHeadConfig,
}
