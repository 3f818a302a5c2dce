"""GLiT's supernet: blocks that split their channels between attention (the first) and convolution (the last).

With shared slices, attention grows from the first channel of a block and the locality module from the last one, so
that both use the same channels in every choice. The rows of q, k and v are nested twice: fewer groups take the first
heads, a smaller value ratio the first entries of each head. Inner and hidden widths are prefixes (values and gates of
the locality module separately), kernels the taps of the same offsets. Batch-norm statistics are prefixes too; they
average over all networks, and `hwnas.supernet.batch_norm` estimates those of one network.

Shape suffixes: B images, N tokens, D channels, I inner channels of the locality module.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.glit import GROUPS, Glit, GlitArch, GlitBlock, GlitConfig, value_dim
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
from hwnas.supernet.sharing import Axes, Index, Pick, centre, linear_axes, mlp_axes, prefix, suffix
from hwnas.supernet.supernet import Supernet, SupernetConfig

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class GlitSupernetConfig(SupernetConfig):
    """Options of a GLiT supernet."""

    share: Literal["slices", "none"] = "slices"
    """Choices of a block are slices of one set of weights or, as in the paper, have separate weights."""
    max_params: int = 1_000_000_000
    """Limit on the parameters of a supernet without sharing."""


@dataclass(frozen=True, kw_only=True)
class GlitBlockConfig:
    """Config of a block: attention on the first channels, convolution on the last, and an MLP; 0 for a missing part."""

    embed_dim: int
    attention_dim: int
    num_heads: int
    value_dim: int
    """Channels of each of q, k and v."""
    locality_dim: int
    inner_dim: int
    kernel_size: int
    hidden_dim: int
    drop_path: float = 0.0

    weight_sizes: ClassVar = ("value_dim", "hidden_dim")
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        block = TransformerBlock(GlobalLocal(self), mlp, embed_dim=self.embed_dim, eps=EPS, drop_path=self.drop_path)
        init_linears(block)
        return block


@dataclass(frozen=True, kw_only=True)
class GlitHeadConfig:
    """Config of a head on the class token."""

    embed_dim: int
    num_classes: int

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        head = ClassifierHead(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=EPS)
        init_linears(head)
        return head


class GlobalLocal(nn.Module):
    """Attention on the first channels and the locality module on the last, without mixing between them."""

    def __init__(self, config: GlitBlockConfig) -> None:
        super().__init__()
        self.split = config.attention_dim
        self.attention: nn.Module | None = None
        if config.attention_dim:
            self.attention = MultiHeadAttention(
                embed_dim=config.attention_dim, num_heads=config.num_heads, width=config.value_dim
            )
        self.locality: nn.Module | None = None
        if config.locality_dim:
            self.locality = Locality(
                channels=config.locality_dim, inner_dim=config.inner_dim, kernel_size=config.kernel_size
            )

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply both parts to their channels."""
        if self.attention is None or self.locality is None:
            alone: Tensor = (self.attention or self.locality)(x_BND)  # type: ignore[misc]
            return alone
        parts = self.attention(x_BND[..., : self.split]), self.locality(x_BND[..., self.split :])
        return torch.cat(parts, dim=-1)


class Locality(nn.Module):
    """GLiT's locality module: a gated 1-D convolution over the tokens, the class token included.

    Expands to values and gates, convolves each inner channel over the tokens, normalises and reduces. The convolution
    covers tokens from `kernel_size // 2` before to `(kernel_size - 1) // 2` after, and zeros beyond the ends.

    The released code has three 1-D convolutions. Linear layers compute the same as those of one tap, without moving
    the channels first, and runtimes have better kernels for the depthwise one over an image one pixel high.
    """

    def __init__(self, *, channels: int, inner_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * inner_dim)
        self.glu = nn.GLU(dim=-1)
        padding = (0, (kernel_size - 1) // 2)
        self.depthwise = nn.Conv2d(inner_dim, inner_dim, (1, kernel_size), padding=padding, groups=inner_dim)
        self.batch_norm = nn.BatchNorm2d(inner_dim)
        self.silu = nn.SiLU()
        self.reduce = nn.Linear(inner_dim, channels)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn tokens into as many tokens."""
        x_BI1N = self.glu(self.expand(x_BND)).transpose(1, 2).unsqueeze(2)
        if self.depthwise.kernel_size[1] % 2 == 0:  # an even kernel reaches one token farther back than ahead
            x_BI1N = F.pad(x_BI1N, (1, 0))
        x_BI1N = self.silu(self.batch_norm(self.depthwise(x_BI1N)))
        out: Tensor = self.reduce(x_BI1N.squeeze(2).transpose(1, 2))
        return out


def outline(config: GlitConfig, arch: GlitArch, *, drop_path: float = 0.0) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network; `drop_path` is the rate of the last block."""
    rates = drop_path_rates(drop_path, slots=config.depth)
    stem = StemConfig(
        channels=config.channels,
        patch_size=config.patch_size,
        grid=config.image_size // config.patch_size,
        embed_dim=config.embed_dim,
    )
    blocks = {
        f"blocks.{slot}": replace(block_config(config, block), drop_path=rates[slot])
        for slot, block in enumerate(arch.blocks)
    }
    return {"stem": stem, **blocks, "head": GlitHeadConfig(embed_dim=config.embed_dim, num_classes=config.num_classes)}


def block_config(config: GlitConfig, block: GlitBlock) -> GlitBlockConfig:
    """Return the config of a block."""
    attention_dim = config.embed_dim // GROUPS * block.groups
    locality_dim = config.embed_dim - attention_dim
    return GlitBlockConfig(
        embed_dim=config.embed_dim,
        attention_dim=attention_dim,
        num_heads=config.num_heads // GROUPS * block.groups,
        value_dim=int(value_dim(attention_dim, block.value_ratio or 0)),
        locality_dim=locality_dim,
        inner_dim=locality_dim * (block.expansion or 0),
        kernel_size=block.kernel_size or 0,
        hidden_dim=config.embed_dim * block.mlp_ratio,
    )


def block_choices(space: Glit, *, slot: int = 0) -> tuple[GlitBlock, ...]:
    """Return all choices of a block in this space, in the order of the genes."""
    columns = [column for column, dimension in enumerate(space.dimensions) if dimension.block == slot]
    choices = [range(len(space.dimensions[column].choices)) for column in columns]
    chosen = np.array(list(itertools.product(*choices)))
    genomes = np.zeros((len(chosen), len(space.dimensions)), dtype=np.int64)
    genomes[:, columns] = chosen
    return tuple(dict.fromkeys(arch.blocks[slot] for arch in space.decode(genomes)))


def _slot_choices(space: Glit) -> list[tuple[GlitBlockConfig, ...]]:
    """Return the configs of all choices of each block, which are the same for all unless a layout is given."""
    slots = range(space.config.depth)
    different = slots if space.config.layout is not None else slots[:1]
    choices = [
        tuple(block_config(space.config, block) for block in block_choices(space, slot=slot)) for slot in different
    ]
    return choices if len(choices) == len(slots) else choices * len(slots)


class GlitSupernet(Supernet[GlitConfig, GlitArch, GlitSupernetConfig]):
    """The shared weights of a GLiT space."""

    space_type = Glit
    config_type = GlitSupernetConfig

    def __init__(self, space: Glit, config: GlitSupernetConfig | None = None) -> None:
        config = config or GlitSupernetConfig()
        choices = _slot_choices(space)
        if config.share == "none":
            _require_max_params(choices, max_params=config.max_params)
        super().__init__(space, config, Network(_shared_outline(space.config, choices, share=config.share)))
        self._numbers = [{choice: number for number, choice in enumerate(slot)} for slot in choices]
        self._widest = [_widest(slot) for slot in choices]

    def path(self, arch: GlitArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network; stem and head are taken in full."""
        path = {}
        for name, config in outline(self.space.config, arch, drop_path=self.config.drop_path).items():
            shared: str = name
            axes: Axes = {}
            if isinstance(config, GlitBlockConfig):
                slot = int(name.rpartition(".")[2])
                if self.config.share == "slices":
                    axes = _block_axes(config, self._widest[slot])
                else:
                    shared = f"{name}.{self._numbers[slot][replace(config, drop_path=0.0)]}"
            path[name] = sliced_segment(shared, config, axes)
        return path


def _shared_outline(
    config: GlitConfig, choices: Sequence[Sequence[GlitBlockConfig]], *, share: str
) -> dict[str, SegmentConfig]:
    """Return the configs of the shared weights: per slot one block that contains all choices, or one per choice."""
    first, *_, last = outline(config, GlitArch(blocks=())).items()
    if share == "slices":
        blocks = {f"blocks.{slot}": _widest(own) for slot, own in enumerate(choices)}
    else:
        blocks = {
            f"blocks.{slot}.{number}": choice for slot, own in enumerate(choices) for number, choice in enumerate(own)
        }
    return dict([first, *blocks.items(), last])


def _widest(choices: Sequence[GlitBlockConfig]) -> GlitBlockConfig:
    """Return a block with the weights of all choices: attention and convolution on all channels; it is never run."""
    widths = {width.name: max(getattr(choice, width.name) for choice in choices) for width in fields(GlitBlockConfig)}
    return GlitBlockConfig(**widths)


def _block_axes(config: GlitBlockConfig, widest: GlitBlockConfig) -> Axes:
    axes = dict(mlp_axes(prefix(config.embed_dim), hidden=prefix(config.hidden_dim)))
    if config.attention_dim:
        axes |= _attention_axes(config, widest)
    if config.locality_dim:
        axes |= _locality_axes(config, widest)
    return axes


def _attention_axes(config: GlitBlockConfig, widest: GlitBlockConfig) -> Axes:
    channels = prefix(config.attention_dim)
    heads = (config.num_heads, widest.num_heads)
    width = (config.value_dim // config.num_heads, widest.value_dim // widest.num_heads)
    return {
        **linear_axes("attention.attention.qkv", channels, _leading((3, 3), heads, width)),
        **linear_axes("attention.attention.proj", _leading(heads, width), channels),
    }


def _locality_axes(config: GlitBlockConfig, widest: GlitBlockConfig) -> Axes:
    channels, inner = suffix(config.locality_dim, total=widest.locality_dim), prefix(config.inner_dim)
    values_and_gates = _leading((2, 2), (config.inner_dim, widest.inner_dim))
    taps = centre(config.kernel_size, total=widest.kernel_size)
    statistics = {f"batch_norm.{name}": (inner,) for name in ("weight", "bias", "running_mean", "running_var")}
    axes: Axes = {
        **linear_axes("expand", channels, values_and_gates),
        "depthwise.weight": (inner, None, None, taps),
        "depthwise.bias": (inner,),
        **statistics,
        **linear_axes("reduce", inner, channels),
    }
    return {f"attention.locality.{name}": indices for name, indices in axes.items()}


@cache
def _leading(*counts: tuple[int, int]) -> Index:
    """Select the first entries of several axes that are folded into one.

    Each pair is (selected, total) entries of an axis, the outermost first.
    """
    positions = [0]
    for taken, total in counts:
        positions = [position * total + entry for position in positions for entry in range(taken)]
    if positions[-1] == len(positions) - 1:
        return prefix(len(positions))
    return Pick(tuple(positions))


def _require_max_params(choices: Sequence[Sequence[GlitBlockConfig]], *, max_params: int) -> None:
    counts = {choice: _num_params(choice) for choice in {choice for slot in choices for choice in slot}}
    params = sum(counts[choice] for slot in choices for choice in slot)
    if params > max_params:
        most = max(map(len, choices))
        size = f"{params:,} in {most} choices for each block ({4 * params / 1e9:.1f} GB in float32)"
        message = f"blocks that share no weights must have at most {max_params:,} parameters (max_params)"
        raise InputError(message, got=size, hint='share="slices", or a space in the coded form')


def _num_params(choice: GlitBlockConfig) -> int:
    with torch.device("meta"):  # only to count; the weights may be larger than memory
        block = choice.build()
    return sum(tensor.numel() for tensor in block.parameters())


SUPERNET = GlitSupernet
SEGMENTS = {
    "layers.StemConfig": StemConfig,
    "glit.BlockConfig": GlitBlockConfig,
    "glit.HeadConfig": GlitHeadConfig,
}
