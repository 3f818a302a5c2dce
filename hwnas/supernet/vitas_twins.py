"""ViTAS's supernet for spaces based on Twins: cyclic embedding channels per stage, all other widths are prefixes.

Shape suffixes: B images (or windows of images), N tokens, D channels, H heads, R rows and C columns of the grid.
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.space.vitas_twins import Twins, TwinsArch, TwinsConfig
from hwnas.supernet.features import TokenGrid
from hwnas.supernet.layers import (
    ClassifierHead,
    Mlp,
    TransformerBlock,
    attend,
    drop_path_rates,
    init_linears,
    join_heads,
    split_heads,
)
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.sharing import (
    Axes,
    Index,
    Part,
    Source,
    Span,
    cyclic,
    head_axes,
    linear_axes,
    mlp_axes,
    norm_axes,
    prefix,
    thirds,
)
from hwnas.supernet.supernet import Supernet, SupernetConfig

EPS = 1e-6
PATCH_EPS = 1e-5
"""Epsilon of the norms after a patch embedding and after the convolution that reduces keys and values."""


@dataclass(frozen=True, kw_only=True)
class TwinsSupernetConfig(SupernetConfig):
    """Options of a supernet based on Twins."""

    sharing: Literal["cyclic", "prefix"] = "cyclic"
    """Embedding channels are arcs of a ring or prefixes; all other widths are prefixes."""


@dataclass(frozen=True, kw_only=True)
class PatchEmbedConfig:
    """Config of the convolution and norm at the start of a stage; `grid` is that of its input, None for images."""

    inputs: int
    outputs: int
    patch_size: int
    grid: int | None = None

    weight_sizes: ClassVar = ("inputs",)
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        return _initialised(PatchConv(self.inputs, self.outputs, size=self.patch_size, grid=self.grid))

    def token_grid(self, image_size: int) -> TokenGrid:
        """Return the grid of its tokens."""
        return TokenGrid(side=(self.grid or image_size) // self.patch_size, channels=self.outputs)


@dataclass(frozen=True, kw_only=True)
class TwinsBlockConfig:
    """Config of a block of attention, an MLP and possibly a positional convolution.

    q, k and v have `width` channels each. Attention is local if there is a window, else global, with keys and values on
    a grid that is coarser by `reduction`.
    """

    embed_dim: int
    num_heads: int
    width: int
    hidden_dim: int
    grid: int
    window: int | None = None
    reduction: int = 1
    position: bool = False
    drop_path: float = 0.0

    weight_sizes: ClassVar = ("width", "hidden_dim")
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        return _initialised(TwinsBlock(self))


@dataclass(frozen=True, kw_only=True)
class TwinsHeadConfig:
    """Config of a head on the average of all tokens."""

    embed_dim: int
    num_classes: int

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        return _initialised(
            ClassifierHead(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=EPS, average=slice(None))
        )


class PatchConv(nn.Module):
    """A convolution with a stride as wide as its kernel, and a norm: from an image, or tokens of a grid, to tokens."""

    def __init__(self, inputs: int, outputs: int, *, size: int, grid: int | None) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(inputs, outputs, size, size)
        self.norm = nn.LayerNorm(outputs, eps=PATCH_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (B, D, R, C), or tokens (B, N, D), into fewer tokens."""
        image = x if self.grid is None else _as_image(x, self.grid)
        out: Tensor = self.norm(_as_tokens(self.conv(image)))
        return out


class PositionConv(nn.Module):
    """Positional encoding: a depthwise convolution over the grid, added to the tokens."""

    def __init__(self, embed_dim: int, *, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Add the positions to the tokens."""
        return x_BND + _as_tokens(self.conv(_as_image(x_BND, self.grid)))


class LocalAttention(nn.Module):
    """Attention within windows; a grid that they do not divide is padded with zeros, which take part as in timm."""

    def __init__(self, config: TwinsBlockConfig, *, window: int) -> None:
        super().__init__()
        self.num_heads, self.grid, self.window = config.num_heads, config.grid, window
        self.qkv = nn.Linear(config.embed_dim, 3 * config.width)
        self.proj = nn.Linear(config.width, config.embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend from all tokens of a window to all tokens of the same window."""
        windows = _to_windows(x_BND, grid=self.grid, window=self.window)
        attended = join_heads(attend(*split_heads(self.qkv(windows), parts=3, num_heads=self.num_heads)))
        out: Tensor = self.proj(_from_windows(attended, grid=self.grid, window=self.window))
        return out


class GlobalAttention(nn.Module):
    """Attention of all tokens to keys and values on a coarser grid."""

    def __init__(self, config: TwinsBlockConfig) -> None:
        super().__init__()
        embed, size = config.embed_dim, config.reduction
        self.num_heads = config.num_heads
        self.q = nn.Linear(embed, config.width)
        self.kv = nn.Linear(embed, 2 * config.width)
        self.proj = nn.Linear(config.width, embed)
        self.reduce = PatchConv(embed, embed, size=size, grid=config.grid) if size > 1 else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend from all tokens to the tokens of the coarser grid."""
        coarse = x_BND if self.reduce is None else self.reduce(x_BND)
        (q,) = split_heads(self.q(x_BND), parts=1, num_heads=self.num_heads)
        k, v = split_heads(self.kv(coarse), parts=2, num_heads=self.num_heads)
        out: Tensor = self.proj(join_heads(attend(q, k, v)))
        return out


class TwinsBlock(TransformerBlock):
    """A pre-norm block, followed by a positional convolution if it is the first of a stage."""

    def __init__(self, config: TwinsBlockConfig) -> None:
        window = config.window
        attention = GlobalAttention(config) if window is None else LocalAttention(config, window=window)
        mlp = Mlp(embed_dim=config.embed_dim, hidden_dim=config.hidden_dim)
        super().__init__(attention, mlp, embed_dim=config.embed_dim, eps=EPS, drop_path=config.drop_path)
        self.position = PositionConv(config.embed_dim, grid=config.grid) if config.position else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply both residual branches, then add the positions."""
        x_BND = super().forward(x_BND)
        out: Tensor = x_BND if self.position is None else self.position(x_BND)
        return out


def outline(config: TwinsConfig, arch: TwinsArch, *, drop_path: float = 0.0) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network; `drop_path` is the rate of the last slot of the space."""
    segments: dict[str, SegmentConfig] = {}
    inputs, grid = config.channels, None
    for number, stage in enumerate(arch.stages):
        patch_size = config.stages[number].patch_size
        segments[f"patch_embeds.{number}"] = PatchEmbedConfig(
            inputs=inputs, outputs=stage.embed_dim, patch_size=patch_size, grid=grid
        )
        segments |= _stage(config, arch, number=number, drop_path=drop_path)
        inputs, grid = stage.embed_dim, config.grids[number]
    return {**segments, "head": TwinsHeadConfig(embed_dim=inputs, num_classes=config.num_classes)}


def _stage(config: TwinsConfig, arch: TwinsArch, *, number: int, drop_path: float) -> dict[str, SegmentConfig]:
    stage, choices, grid = arch.stages[number], config.stages[number], config.grids[number]
    slots = [other.slots for other in config.stages]
    rates = drop_path_rates(drop_path, slots=sum(slots))[sum(slots[:number]) :]
    return {
        f"stages.{number}.{slot}": TwinsBlockConfig(
            embed_dim=stage.embed_dim,
            num_heads=block.num_heads,
            width=block.qkv_dim // 3,
            hidden_dim=block.hidden_dim,
            grid=grid,
            window=config.window if slot % 2 == 0 else None,
            reduction=1 if slot % 2 == 0 else choices.reduction,
            position=slot == 0,
            drop_path=rates[slot],
        )
        for slot, block in enumerate(stage.blocks)
    }


class TwinsSupernet(Supernet[TwinsConfig, TwinsArch, TwinsSupernetConfig]):
    """The shared weights of a space based on Twins."""

    space_type = Twins
    config_type = TwinsSupernetConfig

    def __init__(self, space: Twins, config: TwinsSupernetConfig | None = None) -> None:
        config = config or TwinsSupernetConfig()
        super().__init__(space, config, Network(outline(space.config, space.largest())))

    def path(self, arch: TwinsArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network: the first slots of each stage."""
        segments = outline(self.space.config, arch, drop_path=self.config.drop_path)
        embeds: list[Index] = [prefix(stage.embed_dim) for stage in arch.stages]
        if self.config.sharing == "cyclic":
            stages = zip(arch.stages, self.space.config.stages, strict=True)
            embeds = [cyclic(stage.embed_dim, widths=choices.embed_dims) for stage, choices in stages]
        path = {}
        for number, embed in enumerate(embeds):
            name = f"patch_embeds.{number}"
            inputs = embeds[number - 1] if number else None
            path[name] = sliced_segment(name, segments[name], _patch_axes("", inputs, embed))
            for slot in range(len(arch.stages[number].blocks)):
                name = f"stages.{number}.{slot}"
                path[name] = self._block(name, segments[name], stage=number, embed=embed)
        return {**path, "head": sliced_segment("head", segments["head"], head_axes(embeds[-1]))}

    def _block(self, name: str, config: SegmentConfig, *, stage: int, embed: Index) -> SlicedSegment:
        assert isinstance(config, TwinsBlockConfig)
        widest = max(self.space.config.stages[stage].qkv_dims)
        qkv = thirds(3 * config.width, total=widest)
        axes = {
            **_attention_axes(embed, width=prefix(config.width), qkv=qkv),
            **mlp_axes(embed, hidden=prefix(config.hidden_dim)),
            "position.conv.weight": (embed,),
            "position.conv.bias": (embed,),
        }
        segment = sliced_segment(name, config, axes)
        if config.window is not None:
            return segment
        # Global attention has rows [k | v], of which each half is a prefix.
        halves = (Span(0, config.width), Span(widest // 3, config.width))
        kv = f"{name}.attention.kv"
        sources: dict[str, Source] = {
            "attention.kv.weight": tuple(Part(f"{kv}.weight", (rows, embed)) for rows in halves),
            "attention.kv.bias": tuple(Part(f"{kv}.bias", (rows,)) for rows in halves),
        }
        return replace(segment, sources={**segment.sources, **sources})


def _patch_axes(name: str, inputs: Index | None, outputs: Index) -> Axes:
    """Return the axes of a `PatchConv`; its name is empty or ends with a dot."""
    return {
        f"{name}conv.weight": (outputs, inputs),
        f"{name}conv.bias": (outputs,),
        **norm_axes(f"{name}norm", outputs),
    }


def _attention_axes(embed: Index, *, width: Index, qkv: Index) -> Axes:
    """Return the axes of the attention branch of both kinds of block, without k and v of global attention."""
    return {
        **norm_axes("norm1", embed),
        **linear_axes("attention.qkv", embed, qkv),
        **linear_axes("attention.q", embed, width),
        **linear_axes("attention.proj", width, embed),
        **_patch_axes("attention.reduce.", embed, embed),
    }


def _as_image(x_BND: Tensor, grid: int) -> Tensor:
    batch, _, channels = x_BND.shape
    return x_BND.transpose(1, 2).reshape(batch, channels, grid, grid)


def _as_tokens(x_BDRC: Tensor) -> Tensor:
    return x_BDRC.flatten(2).transpose(1, 2)


def _to_windows(x_BND: Tensor, *, grid: int, window: int) -> Tensor:
    """Reshape the tokens of a grid to (B · windows, tokens of a window, D)."""
    batch, _, channels = x_BND.shape
    x_BRCD = x_BND.reshape(batch, grid, grid, channels)
    padding = -grid % window
    if padding:
        x_BRCD = F.pad(x_BRCD, (0, 0, 0, padding, 0, padding))
    count = (grid + padding) // window
    split = x_BRCD.reshape(batch, count, window, count, window, channels)
    return split.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _from_windows(x_BND: Tensor, *, grid: int, window: int) -> Tensor:
    """Reshape windows back to the tokens of a grid, without the padding."""
    count, channels = -(-grid // window), x_BND.shape[-1]
    split = x_BND.reshape(-1, count, count, window, window, channels).transpose(2, 3)
    return split.flatten(3, 4).flatten(1, 2)[:, :grid, :grid].flatten(1, 2)


def _initialised(module: nn.Module) -> nn.Module:
    """Initialise a module as Twins-SVT is: convolutions by the fan-out, biases 0."""
    init_linears(module)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.weight[0, 0].numel() * part.out_channels // part.groups
            nn.init.normal_(part.weight, std=sqrt(2 / fan_out))
            assert part.bias is not None
            nn.init.zeros_(part.bias)
    return module


SUPERNET = TwinsSupernet
SEGMENTS = {
    "vitas_twins.PatchEmbedConfig": PatchEmbedConfig,
    "vitas_twins.BlockConfig": TwinsBlockConfig,
    "vitas_twins.HeadConfig": TwinsHeadConfig,
}
