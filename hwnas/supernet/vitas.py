"""ViTAS's supernet for spaces based on DeiT: cyclic embedding channels, and private stems, q and k.

Embedding channels form a ring, of which every choice takes an arc (`hwnas.supernet.sharing.cyclic`). Each patch size
has a stem of its own, and each number of heads its own weights of q and k.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.vitas import Vitas, VitasArch, VitasBlock, VitasConfig
from hwnas.supernet.layers import (
    ClassifierHead,
    Mlp,
    MultiHeadAttention,
    StemConfig,
    TransformerBlock,
    drop_path_rates,
    init_linears,
)
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.sharing import (
    Index,
    Part,
    Pick,
    Source,
    Span,
    cyclic,
    head_axes,
    linear_axes,
    mlp_axes,
    norm_axes,
    prefix,
    stem_axes,
    suffix,
)
from hwnas.supernet.supernet import Supernet, SupernetConfig

BLOCK_EPS = 1e-6
HEAD_EPS = 1e-5

Side = Literal["left", "right"]
AttentionScale = Literal["head", "official-network", "official-supernet"]
"""Width whose power of -1/2 scales the products of q and k: that of a head; or, as in the official code, the embedding
width divided by the number of heads (retrained networks) or a third of the widest embedding (supernets)."""


@dataclass(frozen=True, kw_only=True)
class VitasSupernetConfig(SupernetConfig):
    """Options of a ViTAS supernet; the last three reproduce the official supernets and are otherwise off."""

    sharing: Literal["cyclic", "bilateral", "prefix"] = "cyclic"
    """cyclic: embedding channels are arcs of a ring, other widths prefixes. bilateral, the first version of ViTAS: all
    widths are prefixes, or suffixes where a network is run from its right side. prefix: all widths are prefixes."""
    private_qk: bool = True
    """Give each number of heads its own weights of q and k; v is shared."""
    attention_scale: AttentionScale = "head"
    joint_qk: bool = False
    """Slice the rows [q | k] as one range, so that a row is q in one network and k in another."""
    collapsed_positions: bool = False
    """Add the position vector of the last token to all tokens."""


@dataclass(frozen=True, kw_only=True)
class VitasBlockConfig:
    """Config of a block of attention, with q, k and v of `width` channels each, and an MLP."""

    embed_dim: int
    num_heads: int
    width: int
    hidden_dim: int
    scale: float | None = None
    drop_path: float = 0.0

    weight_sizes: ClassVar = ("width", "hidden_dim")
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        attention = MultiHeadAttention(
            embed_dim=self.embed_dim, num_heads=self.num_heads, width=self.width, scale=self.scale
        )
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        return _initialised(
            TransformerBlock(attention, mlp, embed_dim=self.embed_dim, eps=BLOCK_EPS, drop_path=self.drop_path)
        )


@dataclass(frozen=True, kw_only=True)
class VitasSharedBlockConfig:
    """Config of the shared weights of a slot, with `num_qk` sets of weights of q and k."""

    embed_dim: int
    width: int
    hidden_dim: int
    num_qk: int

    def build(self) -> nn.Module:
        """Build the fresh weights; the module is never run."""
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        return _initialised(
            TransformerBlock(VitasSharedAttention(self), mlp, embed_dim=self.embed_dim, eps=BLOCK_EPS, drop_path=0.0)
        )


@dataclass(frozen=True, kw_only=True)
class VitasHeadConfig:
    """Config of a head on the class token."""

    embed_dim: int
    num_classes: int

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        return _initialised(ClassifierHead(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=HEAD_EPS))


class VitasSharedAttention(nn.Module):
    """The shared weights of attention in a slot: rows [q | k] per set, and rows of v."""

    def __init__(self, config: VitasSharedBlockConfig) -> None:
        super().__init__()
        self.qk = nn.ModuleList(nn.Linear(config.embed_dim, 2 * config.width) for _ in range(config.num_qk))
        self.v = nn.Linear(config.embed_dim, config.width)
        self.proj = nn.Linear(config.width, config.embed_dim)


def outline(
    config: VitasConfig, arch: VitasArch, *, drop_path: float = 0.0, attention_scale: AttentionScale = "head"
) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network.

    Args:
        config: Config of the space.
        arch: The network. Blocks that are not identities are numbered without gaps.
        drop_path: Rate of stochastic depth in the last slot.
        attention_scale: Scale of the products of q and k.
    """
    rates = drop_path_rates(drop_path, slots=config.slots)
    blocks = [
        VitasBlockConfig(
            embed_dim=arch.embed_dim,
            num_heads=block.num_heads,
            width=block.qkv_dim // 3,
            hidden_dim=block.hidden_dim,
            scale=_scale(attention_scale, config, arch, block),
            drop_path=rates[slot],
        )
        for slot, block in live_slots(arch)
    ]
    return {
        "stem": _stem(config, patch_size=arch.patch_size, embed_dim=arch.embed_dim),
        **{f"blocks.{number}": block for number, block in enumerate(blocks)},
        "head": VitasHeadConfig(embed_dim=arch.embed_dim, num_classes=config.num_classes),
    }


def live_slots(arch: VitasArch) -> list[tuple[int, VitasBlock]]:
    """Return the blocks that are not identities, each with its slot."""
    return [(slot, block) for slot, block in enumerate(arch.blocks) if block is not None]


class VitasSupernet(Supernet[VitasConfig, VitasArch, VitasSupernetConfig]):
    """The shared weights of a ViTAS space based on DeiT."""

    space_type = Vitas
    config_type = VitasSupernetConfig

    def __init__(self, space: Vitas, config: VitasSupernetConfig | None = None) -> None:
        config = config or VitasSupernetConfig()
        super().__init__(space, config, Network(_allocated(space.config, private_qk=config.private_qk)))
        self.side: Side = "left"
        """Side from which networks are taken; "right" makes prefixes suffixes, under bilateral sharing."""

    def from_side(self, side: Side) -> Self:
        """Return a view of the same weights that takes networks from a side.

        Raises:
            InputError: The side is "right" without bilateral sharing.
        """
        if side == self.side:
            return self
        if self.config.sharing != "bilateral":
            message = "networks are taken from the right side under bilateral sharing alone"
            raise InputError(message, got=f"sharing {self.config.sharing!r}", hint="sharing = 'bilateral'")
        other = copy.copy(self)  # shallow: both views hold the same parameters
        other.side = side
        return other

    def forward(self, images: Tensor, archs: VitasArch | Sequence[VitasArch], *, side: Side | None = None) -> Any:
        """Run one or several networks, taken from a side; bilateral training sums the logits of both sides.

        Args:
            images: A batch of the space's image shape.
            archs: One network, or several for the images in turn.
            side: Side from which the networks are taken; None: that of this view.
        """
        view = self if side is None else self.from_side(side)
        return super(VitasSupernet, view).forward(images, archs)

    def path(self, arch: VitasArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network: blocks numbered without gaps, with the weights of their slots."""
        settings = self.config
        segments = outline(
            self.space.config, arch, drop_path=settings.drop_path, attention_scale=settings.attention_scale
        )
        widths, stem = self.space.config.embed_dims, self.space.config.patch_sizes.index(arch.patch_size)
        cyclic_channels = settings.sharing == "cyclic"
        embed = cyclic(arch.embed_dim, widths=widths) if cyclic_channels else self._width(arch.embed_dim, max(widths))
        axes = stem_axes(embed)
        if settings.collapsed_positions:
            # The official supernet adds one position vector, the last, to all tokens.
            last = _grid(self.space.config, arch.patch_size) ** 2
            axes = {**axes, "position": (None, Pick((last,) * (last + 1)), embed)}
        blocks = {
            f"blocks.{number}": self._block(slot, segments[f"blocks.{number}"], block, embed=embed)
            for number, (slot, block) in enumerate(live_slots(arch))
        }
        return {
            "stem": sliced_segment(f"stems.{stem}", segments["stem"], axes),
            **blocks,
            "head": sliced_segment("head", segments["head"], head_axes(embed)),
        }

    def _block(self, slot: int, config: SegmentConfig, block: VitasBlock, *, embed: Index) -> SlicedSegment:
        width = self._width(block.qkv_dim // 3, total=self._widest)
        hidden = self._width(block.hidden_dim, total=max(self.space.config.hidden_dims))
        axes = {
            **norm_axes("norm1", embed),
            **linear_axes("attention.proj", width, embed),
            **mlp_axes(embed, hidden=hidden),
        }
        qkv = self._qkv(f"blocks.{slot}.attention", block, rows=width)
        sources: dict[str, Source] = {
            "attention.qkv.weight": tuple(Part(f"{name}.weight", (rows, embed)) for name, rows in qkv),
            "attention.qkv.bias": tuple(Part(f"{name}.bias", (rows,)) for name, rows in qkv),
        }
        segment = sliced_segment(f"blocks.{slot}", config, axes)
        return replace(segment, sources={**segment.sources, **sources})

    def _qkv(self, name: str, block: VitasBlock, *, rows: Span) -> list[tuple[str, Span]]:
        """Return the shared linears, and the rows of each, that the rows [q | k | v] are taken from."""
        number = self.space.config.num_heads.index(block.num_heads) if self.config.private_qk else 0
        qk, v = f"{name}.qk.{number}", f"{name}.v"
        if self.config.joint_qk:
            return [(qk, self._width(2 * rows.length, total=2 * self._widest)), (v, rows)]
        return [(qk, rows), (qk, Span(self._widest + rows.start, rows.length)), (v, rows)]

    @property
    def _widest(self) -> int:
        return max(self.space.config.qkv_dims) // 3

    def _width(self, width: int, total: int) -> Span:
        return prefix(width) if self.side == "left" else suffix(width, total=total)


def _allocated(config: VitasConfig, *, private_qk: bool) -> dict[str, SegmentConfig]:
    """Return the configs of the shared weights: a stem per patch size, slots and head at their widest."""
    embed_dim = max(config.embed_dims)
    block = VitasSharedBlockConfig(
        embed_dim=embed_dim,
        width=max(config.qkv_dims) // 3,
        hidden_dim=max(config.hidden_dims),
        num_qk=len(config.num_heads) if private_qk else 1,
    )
    return {
        **{
            f"stems.{number}": _stem(config, patch_size=patch_size, embed_dim=embed_dim)
            for number, patch_size in enumerate(config.patch_sizes)
        },
        **{f"blocks.{slot}": block for slot in range(config.slots)},
        "head": VitasHeadConfig(embed_dim=embed_dim, num_classes=config.num_classes),
    }


def _stem(config: VitasConfig, *, patch_size: int, embed_dim: int) -> StemConfig:
    grid = _grid(config, patch_size)
    return StemConfig(channels=config.channels, patch_size=patch_size, grid=grid, embed_dim=embed_dim, init_std=0.0)


def _grid(config: VitasConfig, patch_size: int) -> int:
    return config.image_size // patch_size


def _scale(kind: AttentionScale, config: VitasConfig, arch: VitasArch, block: VitasBlock) -> float | None:
    match kind:
        case "head":
            return None
        case "official-network":
            return float((arch.embed_dim // block.num_heads) ** -0.5)
        case "official-supernet":
            return float((max(config.embed_dims) // 3) ** -0.5)


def _initialised(module: nn.Module) -> nn.Module:
    """Initialise the linears as published: weights with standard deviation 0.02, biases with 1e-6."""
    init_linears(module)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.bias, std=1e-6)
    return module


SUPERNET = VitasSupernet
SEGMENTS = {
    "layers.StemConfig": StemConfig,
    "vitas.BlockConfig": VitasBlockConfig,
    "vitas.HeadConfig": VitasHeadConfig,
}
