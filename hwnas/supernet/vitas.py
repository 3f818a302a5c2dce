"""ViTAS's supernet on the DeiT skeleton: a ring of embedding channels, private stems, and private q and k."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.vitas import Vitas, VitasArch, VitasBlock, VitasConfig
from hwnas.supernet.layers import Attention, Block, Head, Mlp, StemConfig, drop_path_rates, init_linears
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.rules import Axes, head_axes, linear_axes, mlp_axes, norm_axes, stem_axes
from hwnas.supernet.sharing import Index, Part, Pick, Source, Span, cyclic, prefix, suffix
from hwnas.supernet.supernet import Piece, Supernet, SupernetConfig, whole_piece

BLOCK_EPS = 1e-6
HEAD_EPS = 1e-5

Side = Literal["left", "right"]
AttentionScale = Literal["head", "official-network", "official-supernet"]
"""What the products of q and k are scaled with, to the power of -1/2: the width of a head; or as in the official code
the embedding width by the number of heads (networks of their own), or a third of the widest embedding (supernets)."""


@dataclass(frozen=True, kw_only=True)
class VitasSupernetConfig(SupernetConfig):
    """How the weights are shared. The last three are off in our supernets and on in the official ones."""

    sharing: Literal["cyclic", "bilateral", "prefix"] = "cyclic"
    """Embedding channels as arcs of a ring, other widths as prefixes; all widths as prefixes, and as suffixes too where
    a network is run from its right side (the first version of ViTAS); or all widths as prefixes."""
    private_qk: bool = True
    """Weights of q and k of their own for each number of heads; v is shared."""
    attention_scale: AttentionScale = "head"
    joint_qk: bool = False
    """Slice the rows [q | k] as one, so that rows change their role with the width."""
    collapsed_positions: bool = False
    """Add the position vector of the last token to all tokens."""


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Attention with q, k and v of `width` each, and an MLP."""

    embed_dim: int
    num_heads: int
    width: int
    hidden_dim: int
    scale: float | None = None
    drop_path: float = 0.0

    def build(self) -> nn.Module:
        """The segment with fresh weights."""
        attention = Attention(embed_dim=self.embed_dim, num_heads=self.num_heads, width=self.width, scale=self.scale)
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        return _started(Block(attention, mlp, embed_dim=self.embed_dim, eps=BLOCK_EPS, drop_path=self.drop_path))


@dataclass(frozen=True, kw_only=True)
class SharedBlockConfig:
    """The weights that all choices of a slot are taken from; `num_qk` sets of weights of q and k."""

    embed_dim: int
    width: int
    hidden_dim: int
    num_qk: int

    def build(self) -> nn.Module:
        """The weights, fresh; no network runs this module."""
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        return _started(Block(SharedAttention(self), mlp, embed_dim=self.embed_dim, eps=BLOCK_EPS, drop_path=0.0))


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Norm, class token, classifier."""

    embed_dim: int
    num_classes: int

    def build(self) -> nn.Module:
        """The segment with fresh weights."""
        return _started(Head(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=HEAD_EPS))


class SharedAttention(nn.Module):
    """The weights of attention in a slot: rows [q | k] per set, rows of v."""

    def __init__(self, config: SharedBlockConfig) -> None:
        super().__init__()
        self.qk = nn.ModuleList(nn.Linear(config.embed_dim, 2 * config.width) for _ in range(config.num_qk))
        self.v = nn.Linear(config.embed_dim, config.width)
        self.proj = nn.Linear(config.width, config.embed_dim)


def outline(
    config: VitasConfig, arch: VitasArch, *, drop_path: float = 0.0, attention_scale: AttentionScale = "head"
) -> dict[str, SegmentConfig]:
    """The segments of a network, its live blocks numbered without gaps; `drop_path` is the rate of the last slot."""
    rates = drop_path_rates(drop_path, slots=config.slots)
    blocks = [
        BlockConfig(
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
        "head": HeadConfig(embed_dim=arch.embed_dim, num_classes=config.num_classes),
    }


def live_slots(arch: VitasArch) -> list[tuple[int, VitasBlock]]:
    """The blocks that are no identity, each with its slot."""
    return [(slot, block) for slot, block in enumerate(arch.blocks) if block is not None]


class VitasSupernet(Supernet[VitasConfig, VitasArch, VitasSupernetConfig]):
    """Weights of a space of ViTAS networks on the DeiT skeleton."""

    space_type = Vitas
    config_type = VitasSupernetConfig

    def __init__(self, space: Vitas, config: VitasSupernetConfig | None = None) -> None:
        config = config or VitasSupernetConfig()
        super().__init__(space, config, Network(_allocated(space.config, private_qk=config.private_qk)))
        self.side: Side = "left"
        """Where prefixes begin; "right" makes them suffixes, under bilateral sharing."""

    def from_side(self, side: Side) -> Self:
        """The same weights, networks taken from that side."""
        if side == self.side:
            return self
        if self.config.sharing != "bilateral":
            message = "networks are taken from the right side under bilateral sharing alone"
            raise InputError(message, got=f"sharing {self.config.sharing!r}", hint="sharing = 'bilateral'")
        other = copy.copy(self)
        other.side = side
        return other

    def forward(self, images: Tensor, archs: VitasArch | Sequence[VitasArch], *, side: Side | None = None) -> Any:
        """Run networks, from one side; bilateral training sums the logits of both."""
        view = self if side is None else self.from_side(side)
        return super(VitasSupernet, view).forward(images, archs)

    def path(self, arch: VitasArch) -> dict[str, Piece]:
        """The segments of a network; its blocks are numbered without gaps and take the weights of their slots."""
        settings = self.config
        segments = outline(
            self.space.config, arch, drop_path=settings.drop_path, attention_scale=settings.attention_scale
        )
        stem = self.space.config.patch_sizes.index(arch.patch_size)
        embed = self._embed(arch.embed_dim)
        blocks = {
            f"blocks.{number}": self._block(slot, segments[f"blocks.{number}"], block, embed=embed)
            for number, (slot, block) in enumerate(live_slots(arch))
        }
        return {
            "stem": whole_piece(f"stems.{stem}", segments["stem"], self._stem_axes(arch, embed=embed)),
            **blocks,
            "head": whole_piece("head", segments["head"], head_axes(embed)),
        }

    def _stem_axes(self, arch: VitasArch, *, embed: Index) -> Axes:
        axes = stem_axes(embed)
        if not self.config.collapsed_positions:
            return axes
        last = _grid(self.space.config, arch.patch_size) ** 2
        return {**axes, "position": (None, Pick((last,) * (last + 1)), embed)}

    def _block(self, slot: int, config: SegmentConfig, block: VitasBlock, *, embed: Index) -> Piece:
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
        piece = whole_piece(f"blocks.{slot}", config, axes)
        return replace(piece, sources={**piece.sources, **sources})

    def _qkv(self, name: str, block: VitasBlock, *, rows: Span) -> list[tuple[str, Span]]:
        """The shared linears that the rows [q | k | v] come from, and which rows of each."""
        number = self.space.config.num_heads.index(block.num_heads) if self.config.private_qk else 0
        qk, v = f"{name}.qk.{number}", f"{name}.v"
        if self.config.joint_qk:
            return [(qk, self._width(2 * rows.length, total=2 * self._widest)), (v, rows)]
        return [(qk, rows), (qk, Span(self._widest + rows.start, rows.length)), (v, rows)]

    @property
    def _widest(self) -> int:
        return max(self.space.config.qkv_dims) // 3

    def _embed(self, width: int) -> Index:
        widths = self.space.config.embed_dims
        return cyclic(width, widths=widths) if self.config.sharing == "cyclic" else self._width(width, max(widths))

    def _width(self, width: int, total: int) -> Span:
        return prefix(width) if self.side == "left" else suffix(width, total=total)


def _allocated(config: VitasConfig, *, private_qk: bool) -> dict[str, SegmentConfig]:
    """The shared weights: a stem for each patch size, slots and head at their widest."""
    embed_dim = max(config.embed_dims)
    block = SharedBlockConfig(
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
        "head": HeadConfig(embed_dim=embed_dim, num_classes=config.num_classes),
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


def _started(module: nn.Module) -> nn.Module:
    """The module with its linears started as published: weights of deviation 0.02, biases all but 0."""
    init_linears(module)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.bias, std=1e-6)
    return module


SUPERNET = VitasSupernet
SEGMENTS = (StemConfig, BlockConfig, HeadConfig)
