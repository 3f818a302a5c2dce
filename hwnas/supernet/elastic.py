"""The supernet of an elastic space: a pretrained ViT whose blocks are sliced to some of their heads and hidden units.

Heads and hidden units of a sub-network are the first ones of the model's, so what comes first must matter most. At its
largest the supernet is the model. A block that skips its attention or its MLP has no weights of it.

Shape suffixes: B images, N tokens, D channels, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.space.elastic import Activation, Elastic, ElasticArch, ElasticConfig, Pooling
from hwnas.supernet.features import TokenGrid
from hwnas.supernet.layers import DropPath, attend, drop_path_rates, init_linears, join_heads, split_heads
from hwnas.supernet.network import Network, SegmentConfig, resized
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.sharing import Axes, Part, Resampled, linear_axes, prefix, thirds
from hwnas.supernet.sorting import UnitGroup, UnitWeights
from hwnas.supernet.supernet import Supernet, SupernetConfig


@dataclass(frozen=True, kw_only=True)
class ElasticSupernetConfig(SupernetConfig):
    """Options of an elastic supernet."""


@dataclass(frozen=True, kw_only=True)
class ElasticStemConfig:
    """Config of the stem: patches, the tokens in front of them, positions, and a norm if the model has one there."""

    channels: int
    patch_size: int
    grid: int
    embed_dim: int
    patch_bias: bool
    prefix_tokens: int
    positions: Literal["all", "patches", "none"]
    pre_norm: bool
    norm_eps: float
    image_size: int | None = None
    """Side that images are resized to; None: they are taken as they come."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        stem = ElasticStem(self)
        for table in (stem.prefix, stem.position):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        return stem

    def token_grid(self, image_size: int) -> TokenGrid:
        """Return the grid of its tokens."""
        return TokenGrid(side=self.grid, channels=self.embed_dim, prefix_tokens=self.prefix_tokens)


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Config of rotary positions."""

    kind: Literal["index", "centered"]
    grid: int
    prefix_tokens: int
    head_dim: int
    temperature: float
    scaled_grid: int | None
    """Patches along one side that indices are scaled to; None: not scaled."""


@dataclass(frozen=True, kw_only=True)
class ElasticBlockConfig:
    """Config of a block; 0 heads or hidden units if it skips that part."""

    embed_dim: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool
    attention_norm: bool
    attention_scale: bool
    rotary: RotaryConfig | None
    activation: Activation
    mlp_norm: bool
    mlp_scale: bool
    drop_path: float = 0.0

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        block = ElasticTransformerBlock(self)
        init_linears(block)
        return block


@dataclass(frozen=True, kw_only=True)
class ElasticHeadConfig:
    """Config of the head: final norm, pooling and classifier."""

    embed_dim: int
    num_classes: int
    prefix_tokens: int
    norm_eps: float
    final_norm: Literal["tokens", "pooled", "none"]
    pooling: Pooling
    pool_prefix: bool
    pool_heads: int
    pool_hidden_dim: int
    activation: Activation

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        head = ElasticHead(self)
        init_linears(head)
        return head


class ElasticStem(nn.Module):
    """Patch embedding, the tokens in front of the patches, and learned positions."""

    def __init__(self, config: ElasticStemConfig) -> None:
        super().__init__()
        self.covers_prefix = config.positions == "all"
        self.image_size = config.image_size
        self.patch_embed = nn.Conv2d(
            config.channels, config.embed_dim, config.patch_size, config.patch_size, bias=config.patch_bias
        )
        self.prefix: nn.Parameter | None = None
        if config.prefix_tokens:
            self.prefix = nn.Parameter(torch.zeros(1, config.prefix_tokens, config.embed_dim))
        self.position: nn.Parameter | None = None
        if config.positions != "none":
            tokens = config.grid**2 + (config.prefix_tokens if self.covers_prefix else 0)
            self.position = nn.Parameter(torch.zeros(1, tokens, config.embed_dim))
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if config.pre_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Turn images into tokens; those of another size, as the networks of a supernet share them, are resized."""
        if self.image_size is not None:
            images = resized(images, self.image_size)
        x_BND = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.position is not None and not self.covers_prefix:
            x_BND = x_BND + self.position
        if self.prefix is not None:
            x_BND = torch.cat([self.prefix.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        if self.position is not None and self.covers_prefix:
            x_BND = x_BND + self.position
        normed: Tensor = self.norm(x_BND)
        return normed


class ElasticTransformerBlock(nn.Module):
    """A pre-norm block with attention, an MLP, or both; each branch may have a scale per channel (LayerScale)."""

    def __init__(self, config: ElasticBlockConfig) -> None:
        super().__init__()
        embed_dim, eps = config.embed_dim, config.norm_eps
        self.norm1: nn.Module | None = None
        if config.num_heads:
            self.norm1, self.attention = nn.LayerNorm(embed_dim, eps=eps), ElasticAttention(config)
        self.norm2: nn.Module | None = None
        if config.hidden_dim:
            self.norm2, self.mlp = nn.LayerNorm(embed_dim, eps=eps), ElasticMlp(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply the residual branches that the block has."""
        if self.norm1 is not None:
            x_BND = x_BND + self.drop_path(self.attention(self.norm1(x_BND)))
        if self.norm2 is not None:
            x_BND = x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))
        return x_BND


class ElasticAttention(nn.Module):
    """Multi-head attention with the optional norms, scale and rotary positions of timm's models."""

    def __init__(self, config: ElasticBlockConfig) -> None:
        super().__init__()
        width, eps = config.num_heads * config.head_dim, config.norm_eps
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * width, bias=config.qkv_bias)
        self.q_norm, self.k_norm, self.norm = None, None, None
        if config.qk_norm:
            self.q_norm, self.k_norm = (nn.LayerNorm(config.head_dim, eps=eps) for _ in range(2))
        if config.attention_norm:
            self.norm = nn.LayerNorm(width, eps=eps)
        self.rotary: Tensor | None
        self.register_buffer("rotary", None if config.rotary is None else rotary_table(config.rotary))
        self.proj = nn.Linear(width, config.embed_dim)
        self.scale = nn.Parameter(torch.ones(config.embed_dim)) if config.attention_scale else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend from all tokens to all tokens."""
        q, k, v = split_heads(self.qkv(x_BND), parts=3, num_heads=self.num_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            q, k = _rotated(torch.stack([q, k]), self.rotary).to(v.dtype).unbind(0)
        attended = join_heads(attend(q, k, v))
        if self.norm is not None:
            attended = self.norm(attended)
        out: Tensor = self.proj(attended)
        return out if self.scale is None else out * self.scale


class ElasticMlp(nn.Module):
    """Two linears with an activation between them, which a third linear gates in a SwiGLU."""

    def __init__(self, config: ElasticBlockConfig) -> None:
        super().__init__()
        embed_dim, hidden_dim = config.embed_dim, config.hidden_dim
        self.activation = config.activation
        self.gate = nn.Linear(embed_dim, hidden_dim) if config.activation == "swiglu" else None
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim, eps=config.norm_eps) if config.mlp_norm else None
        self.fc2 = nn.Linear(hidden_dim, embed_dim)
        self.scale = nn.Parameter(torch.ones(embed_dim)) if config.mlp_scale else None

    def hidden(self, x_BND: Tensor) -> Tensor:
        """Return the hidden units after the activation."""
        x = self.fc1(x_BND)
        return activated(x, self.activation) if self.gate is None else F.silu(self.gate(x_BND)) * x

    def forward(self, x_BND: Tensor) -> Tensor:
        """Apply the layers."""
        x = self.hidden(x_BND)
        if self.norm is not None:
            x = self.norm(x)
        out: Tensor = self.fc2(x)
        return out if self.scale is None else out * self.scale


class ElasticOutputs(NamedTuple):
    """The outputs of a network that a student learns: its logits and the features behind them."""

    logits: Tensor
    features: Tensor
    """The pooled features, the input of the classifier."""
    tokens: Tensor
    """The tokens of the patches, behind the final norm if that is applied to tokens."""


class ElasticHead(nn.Module):
    """Final norm, pooling and classifier."""

    def __init__(self, config: ElasticHeadConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.norm_first = config.final_norm == "tokens"
        self.prefix_tokens = config.prefix_tokens
        self.first_pooled = 0 if config.pool_prefix else config.prefix_tokens
        self.norm: nn.Module = nn.Identity()
        if config.final_norm != "none":
            self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.pool = AttentionPool(config) if config.pooling == "attention" else None
        self.classifier = nn.Linear(config.embed_dim, config.num_classes)
        self.distilled: nn.Module | None = None
        if config.pooling == "distilled":
            self.distilled = nn.Linear(config.embed_dim, config.num_classes)

    def forward(self, x_BND: Tensor, *, detailed: bool = False) -> Tensor | ElasticOutputs:
        """Turn tokens into logits, or into logits and features if `detailed`."""
        if self.norm_first:
            x_BND = self.norm(x_BND)
        features = self._pooled(x_BND)
        logits: Tensor = self.classifier(features)
        if self.distilled is not None:
            logits = (logits + self.distilled(x_BND[:, 1])) / 2
        return ElasticOutputs(logits, features, x_BND[:, self.prefix_tokens :]) if detailed else logits

    @property
    def token_norm(self) -> nn.Module:
        """The norm of tokens, which a head that norms pooled features does not have."""
        return self.norm if self.norm_first else nn.Identity()

    def features(self, x_BND: Tensor) -> Tensor:
        """Return the pooled features, the input of the classifier."""
        return self._pooled(self.norm(x_BND) if self.norm_first else x_BND)

    def _pooled(self, x_BND: Tensor) -> Tensor:
        if self.pool is not None:
            pooled: Tensor = self.pool(x_BND[:, self.first_pooled :])
        elif self.pooling == "average":
            pooled = x_BND[:, self.first_pooled :].mean(dim=1)
        else:
            pooled = x_BND[:, 0]
        return pooled if self.norm_first else self.norm(pooled)


class AttentionPool(nn.Module):
    """Attention of one learned query over the tokens, followed by an MLP."""

    def __init__(self, config: ElasticHeadConfig) -> None:
        super().__init__()
        embed_dim = config.embed_dim
        self.num_heads, self.activation = config.pool_heads, config.activation
        self.query = nn.Parameter(torch.zeros(1, 1, embed_dim))
        nn.init.trunc_normal_(self.query, std=embed_dim**-0.5)
        self.q = nn.Linear(embed_dim, embed_dim)
        self.kv = nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim, eps=config.norm_eps)
        self.fc1 = nn.Linear(embed_dim, config.pool_hidden_dim)
        self.fc2 = nn.Linear(config.pool_hidden_dim, embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn tokens into one vector."""
        (q,) = split_heads(self.q(self.query.expand(x_BND.shape[0], -1, -1)), parts=1, num_heads=self.num_heads)
        k, v = split_heads(self.kv(x_BND), parts=2, num_heads=self.num_heads)
        x = self.proj(join_heads(attend(q, k, v)))
        x = x + self.fc2(activated(self.fc1(self.norm(x)), self.activation))
        pooled: Tensor = x[:, 0]
        return pooled


def activated(x: Tensor, name: Activation) -> Tensor:
    """Apply an activation."""
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def rotary_table(config: RotaryConfig) -> Tensor:
    """Return cosines and signed sines of all tokens, of shape (2, tokens, width of a head).

    Channels i and i + width / 2 of a head are rotated by one angle (Su et al. 2021, arXiv 2104.09864): a quarter of the
    width by rows and a quarter by columns, at frequencies in geometric progression. The tokens in front of the patches
    are not rotated.
    """
    quarter = config.head_dim // 4
    frequencies = config.temperature ** -(torch.arange(quarter, dtype=torch.float32) / quarter)
    steps = torch.arange(config.grid, dtype=torch.float32)
    if config.kind == "centered":
        positions = 2 * torch.pi * (2 * (steps + 0.5) / config.grid - 1)
    else:
        positions = steps * ((config.scaled_grid or config.grid) / config.grid)
    by_step = positions[:, None] * frequencies
    rows, columns = by_step[:, None].expand(-1, config.grid, -1), by_step[None].expand(config.grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    angles = torch.cat([angles.new_zeros(config.prefix_tokens, 2 * quarter), angles])
    return torch.stack(
        [torch.cat([angles.cos(), angles.cos()], dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1)]
    )


@dataclass(frozen=True)
class RotaryTable(Part):
    """The rotary table of a grid, in place of the shared one."""

    config: RotaryConfig | None = None

    def take(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Return the table, on the device of the shared one."""
        assert self.config is not None
        return _rotary_table_on(self.config, shared[self.name].device)


@lru_cache(maxsize=64)
def _rotary_table_on(config: RotaryConfig, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.device("cpu"):
        return rotary_table(config).to(device)


def _rotated(x: Tensor, table: Tensor) -> Tensor:
    cosines, sines = table.unbind(0)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines


def detailed_outputs(network: Network, images: Tensor) -> ElasticOutputs:
    """Run a network of an elastic space and return its logits and features."""
    *blocks, head = network.segments().values()
    x = images
    for block in blocks:
        x = block(x)
    outputs: ElasticOutputs = head(x, detailed=True)
    return outputs


def outline(config: ElasticConfig, arch: ElasticArch, *, drop_path: float = 0.0) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network; `drop_path` is the rate of the last block.

    Blocks that skip attention and MLP are left out.
    """
    rates = drop_path_rates(drop_path, slots=config.depth)
    patch_size = arch.patch_size or config.patch_size
    grid = (arch.image_size or config.image_size) // patch_size
    rotary = None
    if config.rotary != "none":
        rotary = RotaryConfig(
            kind=config.rotary,
            grid=grid,
            prefix_tokens=config.prefix_tokens,
            head_dim=config.head_dim,
            temperature=config.rotary_temperature,
            scaled_grid=config.rotary_grid,
        )
    stem = ElasticStemConfig(
        channels=config.channels,
        patch_size=patch_size,
        grid=grid,
        embed_dim=config.embed_dim,
        patch_bias=config.patch_bias,
        prefix_tokens=config.prefix_tokens,
        positions=config.positions,
        pre_norm=config.pre_norm,
        norm_eps=config.norm_eps,
        image_size=arch.image_size,
    )
    blocks = {
        f"blocks.{slot}": ElasticBlockConfig(
            embed_dim=config.embed_dim,
            num_heads=block.num_heads,
            head_dim=config.head_dim,
            hidden_dim=block.hidden_dim,
            norm_eps=config.norm_eps,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            attention_norm=config.attention_norm,
            attention_scale=config.attention_scale,
            rotary=rotary,
            activation=config.activation,
            mlp_norm=config.mlp_norm,
            mlp_scale=config.mlp_scale,
            drop_path=rates[slot],
        )
        for slot, block in enumerate(arch.blocks)
        if block.num_heads or block.hidden_dim
    }
    head = ElasticHeadConfig(
        embed_dim=config.embed_dim,
        num_classes=config.num_classes,
        prefix_tokens=config.prefix_tokens,
        norm_eps=config.norm_eps,
        final_norm=config.final_norm,
        pooling=config.pooling,
        pool_prefix=config.pool_prefix,
        pool_heads=config.pool_heads,
        pool_hidden_dim=config.pool_hidden_dim,
        activation=config.activation,
    )
    return {"stem": stem, **blocks, "head": head}


_HEAD_TENSORS = (
    UnitWeights(name="attention.qkv.weight", parts=3),
    UnitWeights(name="attention.qkv.bias", parts=3),
    UnitWeights(name="attention.norm.weight"),
    UnitWeights(name="attention.norm.bias"),
    UnitWeights(name="attention.proj.weight", axis=1),
)
_HIDDEN_TENSORS = (
    UnitWeights(name="mlp.gate.weight"),
    UnitWeights(name="mlp.gate.bias"),
    UnitWeights(name="mlp.fc1.weight"),
    UnitWeights(name="mlp.fc1.bias"),
    UnitWeights(name="mlp.norm.weight"),
    UnitWeights(name="mlp.norm.bias"),
    UnitWeights(name="mlp.fc2.weight", axis=1),
)
"""Tensors that hold the weights of heads and of hidden units, where a block has them."""


class ElasticSupernet(Supernet[ElasticConfig, ElasticArch, ElasticSupernetConfig]):
    """The weights of a model, of which every network of its elastic space is a part."""

    space_type = Elastic
    config_type = ElasticSupernetConfig

    def __init__(self, space: Elastic, config: ElasticSupernetConfig | None = None) -> None:
        super().__init__(space, config or ElasticSupernetConfig(), Network(outline(space.config, space.original)))
        self._names = frozenset(dict(self.shared.named_parameters()))

    def path(self, arch: ElasticArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network: heads and hidden units are prefixes."""
        segments = outline(self.space.config, arch, drop_path=self.config.drop_path)
        sliced = {name: sliced_segment(name, config, self._axes(config)) for name, config in segments.items()}
        return {name: self._resampled(name, segment) for name, segment in sliced.items()}

    def _resampled(self, name: str, segment: SlicedSegment) -> SlicedSegment:
        """Resample what belongs to images or patches of one size, in a segment of a network of another one."""
        own, config, found = self.space.config, segment.config, dict(segment.sources)
        if isinstance(config, ElasticStemConfig):
            if config.patch_size != own.patch_size:
                part = Resampled(f"{name}.patch_embed.weight", mode="patches", size=config.patch_size)
                found["patch_embed.weight"] = (part,)
            if config.grid != own.grid and "position" in found:
                front = own.prefix_tokens if own.positions == "all" else 0
                part = Resampled(f"{name}.position", mode="positions", size=config.grid, prefix_tokens=front)
                found["position"] = (part,)
        rotary = getattr(config, "rotary", None)
        if rotary is not None and rotary.grid != own.grid and "attention.rotary" in found:
            found["attention.rotary"] = (RotaryTable(f"{name}.attention.rotary", config=rotary),)
        return replace(segment, sources=found)

    def outputs(self, images: Tensor, arch: ElasticArch) -> ElasticOutputs:
        """Run one network and return its logits and features."""
        *blocks, head = self._prepared(self._checked(arch).values())
        tensors = self._tensors()
        outputs: ElasticOutputs = head.run(self._run(blocks, images, tensors), tensors, detailed=True)
        return outputs

    def sortable(self) -> tuple[UnitGroup, ...]:
        """Return the heads and the hidden units of each block, which can be sorted."""
        groups = []
        for slot in range(self.space.config.depth):
            for heads, names in ((True, _HEAD_TENSORS), (False, _HIDDEN_TENSORS)):
                members = tuple(replace(member, name=f"blocks.{slot}.{member.name}") for member in names)
                present = tuple(member for member in members if member.name in self._names)
                groups.append(UnitGroup(units=self.space.config.num_heads[-1] if heads else None, members=present))
        return tuple(groups)

    def _axes(self, config: SegmentConfig) -> Axes:
        if not isinstance(config, ElasticBlockConfig):
            return {}
        total = self.space.config.num_heads[-1] * config.head_dim
        width, hidden = config.num_heads * config.head_dim, prefix(config.hidden_dim)
        rows = thirds(3 * width, total=3 * total) if width < total else prefix(3 * total)
        return {
            "attention.qkv.weight": (rows,),
            "attention.qkv.bias": (rows,),
            "attention.norm.weight": (prefix(width),),
            "attention.norm.bias": (prefix(width),),
            "attention.proj.weight": (None, prefix(width)),
            **linear_axes("mlp.gate", prefix(config.embed_dim), hidden),
            **linear_axes("mlp.fc1", prefix(config.embed_dim), hidden),
            "mlp.norm.weight": (hidden,),
            "mlp.norm.bias": (hidden,),
            "mlp.fc2.weight": (None, hidden),
        }


SUPERNET = ElasticSupernet
SEGMENTS = {
    "elastic.StemConfig": ElasticStemConfig,
    "elastic.BlockConfig": ElasticBlockConfig,
    "elastic.HeadConfig": ElasticHeadConfig,
}
