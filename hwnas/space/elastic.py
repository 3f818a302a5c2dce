"""Elastic spaces: the networks that a pretrained ViT contains, with fewer heads and narrower MLPs.

The embedding width and everything else stay those of the model. Each block keeps some of its heads and of its hidden
units, or skips its attention, its MLP or both; 0 stands for "skipped". At most half of the attentions and half of the
MLPs are skipped, and never two whole blocks in a row: a class token without any attention sees no image. Where the
config offers them, a network takes smaller images or larger patches than the model.

`hwnas.train.pretrained` makes the space of a model of timm.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.arguments import conform
from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block, per_network
from hwnas.space.layers import PIXELS, RESIDUAL, Operations, Traits, residual
from hwnas.space.space import (
    GenomeReader,
    Genomes,
    GenomeWriter,
    Mask,
    Space,
    SpaceConfig,
    require_choices,
    require_length,
    require_multiple,
    require_patches,
    require_positive,
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.workload import Attention, Convolution, Elementwise, Linear, Norm, Pool, Segment, Size, Table

PREFIXES = ("elastic:timm:", "elastic-")
"""Beginnings of the names of elastic spaces: as users write them, and as they are part of file names."""

SIZES = "-sizes"
"""Ending of the name of a space whose networks choose their images and patches."""

Pooling = Literal["token", "distilled", "average", "attention"]
"""The class token, the mean of the logits of class and distillation token, the mean of the patches, or a query's
attention over all tokens (SigLIP)."""

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
"""`swiglu` is a gated MLP: SiLU of one linear layer times another one."""

Rotary = Literal["none", "index", "centered"]
"""Rotary positions: none, of patch indices (EVA-02), or of coordinates from -1 to 1 (DINOv3)."""


@dataclass(frozen=True, kw_only=True)
class ElasticBlock:
    """The heads and hidden units that a block keeps; 0 if it skips its attention or its MLP."""

    num_heads: int
    hidden_dim: int


@dataclass(frozen=True, kw_only=True)
class ElasticArch(Arch):
    """A network: one entry for each block of the model, skipped ones included."""

    blocks: tuple[ElasticBlock, ...]
    image_size: int | None = None
    """Side of its images; None: the model's."""
    patch_size: int | None = None
    """Side of its patches; None: the model's."""


@dataclass(frozen=True, kw_only=True)
class ElasticInput:
    """Images and patches of a network, or of a population with arrays as sizes."""

    image_size: Size
    patch_size: Size
    prefix_tokens: int

    @property
    def patches(self) -> Size:
        """Number of patches."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> Size:
        """Number of patches and of the tokens in front of them."""
        return self.patches + self.prefix_tokens


@dataclass(frozen=True, kw_only=True)
class ElasticConfig(SpaceConfig):
    """The model that all networks are parts of, and the choices of each block.

    Attributes:
        num_heads: Choices of heads, in ascending order; the last is the model's, 0 skips the attention.
        hidden_dims: Choices of the MLP's width, likewise.
        image_sizes: Choices of the images' side, multiples of `patch_size` in ascending order up to `image_size`; none:
            all networks take images of `image_size`.
        patch_sizes: Choices of the patches' side, in ascending order from `patch_size` on; none: all have `patch_size`.
            A network has patches that divide its images, at least two and half of the model's number along a side.
        prefix_tokens: Class token, distillation token and registers, in front of the patches.
        positions: Tokens that the table of learned positions covers.
        final_norm: Whether the final norm is applied to all tokens or after pooling.
        pool_heads: Heads of attention pooling.
        pool_hidden_dim: Width of the MLP of attention pooling.
        rotary_grid: Patches along one side that indices of rotary positions are scaled to; None: not scaled.
    """

    embed_dim: int
    depth: int
    head_dim: int
    num_heads: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    patch_size: int = 16
    image_sizes: tuple[int, ...] = ()
    patch_sizes: tuple[int, ...] = ()
    patch_bias: bool = True
    prefix_tokens: int = 1
    positions: Literal["all", "patches", "none"] = "all"
    pre_norm: bool = False
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    attention_norm: bool = False
    activation: Activation = "gelu"
    mlp_norm: bool = False
    attention_scale: bool = False
    mlp_scale: bool = False
    rotary: Rotary = "none"
    rotary_temperature: float = 100.0
    rotary_grid: int | None = None
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"
    pooling: Pooling = "token"
    pool_prefix: bool = False
    pool_heads: int = 1
    pool_hidden_dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "embed_dim", "depth", "head_dim", "patch_size", "pool_heads", "pool_hidden_dim")
        require_patches(self.image_size, self.patch_size)
        for name in ("num_heads", "hidden_dims"):
            _require_widths(name, getattr(self, name))
        self._require_inputs()
        if self.prefix_tokens < {"token": 1, "distilled": 2}.get(self.pooling, 0):
            message = f"prefix_tokens must include the tokens that {self.pooling} pooling reads"
            raise InputError(message, got=self.prefix_tokens)
        if self.rotary != "none":
            require_multiple("head_dim", self.head_dim, 4, "sine and cosine of rows and columns")
        if self.pooling == "attention":
            require_multiple("embed_dim", self.embed_dim, self.pool_heads, "heads of attention pooling")
        if not (0 < self.norm_eps < 1 and 1 < self.rotary_temperature < 1e9):
            got = f"{self.norm_eps} and {self.rotary_temperature}"
            raise InputError("norm_eps must lie between 0 and 1, rotary_temperature between 1 and 1e9", got=got)

    @property
    def grid(self) -> int:
        """Patches along one side of the model's images."""
        return self.image_size // self.patch_size

    @property
    def inputs(self) -> tuple[tuple[int, int], ...]:
        """Sides of images and patches that networks can have, by the number of patches; the model's are the last."""
        pairs = [
            (image, patch)
            for image in self.image_sizes or (self.image_size,)
            for patch in self.patch_sizes or (self.patch_size,)
            if _fits(image, patch, grid=self.grid)
        ]
        own = (self.image_size, self.patch_size)
        return (*sorted({*pairs} - {own}, key=lambda pair: (pair[0] // pair[1], pair)), own)

    def _require_inputs(self) -> None:
        images, patches = self.image_sizes, self.patch_sizes
        if images:
            require_choices(self, "image_sizes")
            if images[-1] != self.image_size:
                message = f"image_sizes must end with {self.image_size}, the image_size"
                raise InputError(message, got=images)
            for size in images:
                require_multiple("image_sizes", size, self.patch_size, "the size of a patch")
                if 2 * size < self.image_size:
                    raise InputError(f"image_sizes must be at least half of {self.image_size}", got=size)
        if patches:
            require_choices(self, "patch_sizes")
            if patches[0] != self.patch_size:
                raise InputError(f"patch_sizes must begin with {self.patch_size}, the patch_size", got=patches)
            unused = [size for size in patches[1:] if size not in {patch for _, patch in self.inputs}]
            if unused:
                message = "each of patch_sizes must divide an image size, into at least half the model's patches a side"
                raise InputError(message, got=unused, known=images or (self.image_size,))


class Elastic(Space[ElasticConfig, ElasticArch]):
    """The networks that one pretrained ViT contains."""

    family = "elastic"
    config_type = ElasticConfig
    arch_type = ElasticArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Images and patches, as an index into `inputs`, where there is a choice; heads and MLP width of each block."""
        config = self.config
        inputs = tuple(range(len(config.inputs)))
        return (
            *((per_network("input", inputs),) if len(inputs) > 1 else ()),
            *per_block("num_heads", config.num_heads, blocks=config.depth),
            *per_block("hidden_dim", config.hidden_dims, blocks=config.depth),
        )

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        # Dynamic programming over the blocks; the state is (attentions skipped, MLPs skipped, is this block skipped).
        heads, widths = self._choices
        options = [  # number of choices by what they skip
            (attention, mlp, (attention or len(heads) - (heads[0] == 0)) * (mlp or len(widths) - (widths[0] == 0)))
            for attention in range(1 + (heads[0] == 0))
            for mlp in range(1 + (widths[0] == 0))
        ]
        counts = {(0, 0, False): 1}
        for _ in range(self.config.depth):
            following: dict[tuple[int, int, bool], int] = {}
            for (attentions, mlps, whole), count in counts.items():
                for attention, mlp, number in options:
                    state = (attentions + attention, mlps + mlp, bool(attention and mlp))
                    if max(state[:2]) <= self._most_skipped and not (whole and state[2]):
                        following[state] = following.get(state, 0) + count * number
            counts = following
        return sum(counts.values()) * len(self.config.inputs)

    @property
    def original(self) -> ElasticArch:
        """The model itself."""
        heads, widths = self._choices
        block = ElasticBlock(num_heads=heads[-1], hidden_dim=widths[-1])
        return ElasticArch(blocks=(block,) * self.config.depth)

    def smallest(self) -> ElasticArch:
        """Return the network with the fewest MACs, then parameters, then the first genome."""
        # As much as is allowed is skipped, and the first genome skips the first blocks, as far as it may.
        heads, widths = self._choices
        most, blocks, skipped_whole = self._most_skipped, [], False
        left = most * (widths[0] == 0)
        for slot in range(self.config.depth):
            no_attention = heads[0] == 0 and slot < most
            no_mlp = left > 0 and not (no_attention and skipped_whole)
            left, skipped_whole = left - no_mlp, no_attention and no_mlp
            blocks.append(
                ElasticBlock(
                    num_heads=0 if no_attention else heads[heads[0] == 0],
                    hidden_dim=0 if no_mlp else widths[widths[0] == 0],
                )
            )
        archs = [self._network(index, blocks) for index in range(len(self.config.inputs))]
        costs = self.costs(self.encode(archs))
        return archs[int(np.lexsort([costs.params, costs.macs])[0])]

    def image_size_of(self, arch: ElasticArch) -> int:
        """Return the side of the images that a network takes."""
        return arch.image_size or self.config.image_size

    def adapted(
        self, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
    ) -> Self:
        """Return the same space for other images or classes, with choices of the same shares of the images' size."""
        config = self.config
        if image_size is not None and image_size != config.image_size and len(config.inputs) > 1:
            patch = config.patch_size
            shares = [size / config.image_size for size in config.image_sizes]
            images = scaled_sizes(conform(int, image_size, where="image_size"), patch, shares=shares)
            patches = fitting_patches(config.patch_sizes, images or (image_size,), image_size // patch)
            changed = replace(config, image_size=image_size, image_sizes=images, patch_sizes=patches)
            space = type(self)(name=self.name, config=changed, published=self.published)
            return space.adapted(channels=channels, num_classes=num_classes)
        return super().adapted(image_size=image_size, channels=channels, num_classes=num_classes)

    def fitted(self, values: Mapping[str, object], *, image_size: int) -> Self:
        """Return this space for the images of a network, which may be a choice of the network."""
        return self if values.get("image_size") == image_size else self.adapted(image_size=image_size)

    @property
    def _choices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.config.num_heads, self.config.hidden_dims

    @property
    def _most_skipped(self) -> int:
        """Number of attentions, and of MLPs, that a network may skip."""
        return self.config.depth // 2

    def _used(self, genomes: Genomes) -> Mask:
        return np.ones(genomes.shape, dtype=np.bool_)

    def _has_block(self, genomes: Genomes) -> Mask:
        """Return True for rows that do not skip too much."""
        skipped = self._skipped(genomes)
        whole = np.logical_and(skipped[:, :, 0], skipped[:, :, 1])
        in_a_row = (whole[:, 1:] & whole[:, :-1]).any(axis=1)
        allowed: Mask = (skipped.sum(axis=1) <= self._most_skipped).all(axis=1) & ~in_a_row
        return allowed

    def _give_block(self, genomes: Genomes) -> Genomes:
        """Keep the least of what is skipped beyond the limits, in the last blocks first."""
        rows, found = genomes.copy(), self._skipped(genomes)
        skipped: Mask = np.logical_and(found, np.cumsum(found, axis=1) <= self._most_skipped)
        for slot in range(1, self.config.depth):
            in_a_row = skipped[:, slot].all(axis=1) & skipped[:, slot - 1].all(axis=1)
            skipped[in_a_row, slot, 0] = False
        kept = found & ~skipped
        blocks = rows[:, -2 * self.config.depth :]
        blocks[kept.transpose(0, 2, 1).reshape(blocks.shape)] = 1  # the choice after "skipped"
        return rows

    def _skipped(self, genomes: Genomes) -> Mask:
        """Return which parts are skipped, of shape (rows, blocks, attention and MLP)."""
        heads, hidden = (self.values(genomes, name) for name in ("num_heads", "hidden_dim"))
        return np.stack([heads == 0, hidden == 0], axis=2)

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        config, size = self.config, self._input(genomes)
        heads, hidden = (self.values(genomes, name) for name in ("num_heads", "hidden_dim"))
        # Zero-wide layers would be counted with their biases: widths of skipped parts are any, `times` is 0.
        attention = _attention(config, size, times=(heads > 0).astype(np.int64), heads=np.maximum(heads, 1))
        mlp = _mlp(config, size, times=(hidden > 0).astype(np.int64), hidden=np.maximum(hidden, 1))
        return (
            Segment("stem", _stem(config, size)),
            Segment("blocks", (*attention, *mlp), slots=config.depth),
            Segment("head", _head(config, size)),
        )

    def _input(self, genomes: Genomes) -> ElasticInput:
        """Return the images and patches of canonical genomes."""
        inputs, prefix_tokens = self.config.inputs, self.config.prefix_tokens
        if len(inputs) == 1:
            (image_size, patch_size), *_ = inputs
            return ElasticInput(image_size=image_size, patch_size=patch_size, prefix_tokens=prefix_tokens)
        chosen = np.array(inputs, dtype=np.int64)[self.values(genomes, "input")[:, 0]]
        return ElasticInput(image_size=chosen[:, :1], patch_size=chosen[:, 1:], prefix_tokens=prefix_tokens)

    def _network(self, index: int, blocks: Iterable[ElasticBlock]) -> ElasticArch:
        """Return the network with one of the choices of images and patches."""
        image_size, patch_size = self.config.inputs[index]
        return ElasticArch(
            blocks=tuple(blocks),
            image_size=None if image_size == self.config.image_size else image_size,
            patch_size=None if patch_size == self.config.patch_size else patch_size,
        )

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        size = self._input(genomes)
        return (MapSizes(side=size.image_size // size.patch_size, channels=self.config.embed_dim),)

    def _decode(self, reader: GenomeReader) -> ElasticArch:
        pairs = zip(reader.values("num_heads"), reader.values("hidden_dim"), strict=True)
        blocks = [ElasticBlock(num_heads=heads, hidden_dim=hidden) for heads, hidden in pairs]
        has_choice = len(self.config.inputs) > 1
        return self._network(reader.value("input") if has_choice else -1, blocks)

    def _encode(self, arch: ElasticArch, writer: GenomeWriter) -> None:
        config = self.config
        require_length("blocks", len(arch.blocks), (config.depth,))
        chosen = (arch.image_size or config.image_size, arch.patch_size or config.patch_size)
        if chosen not in config.inputs:
            known = [f"{image}/{patch}" for image, patch in config.inputs]
            message = f"images and patches of a network of {self.name} must have sides that it offers"
            raise InputError(message, got=f"{chosen[0]}/{chosen[1]}", known=known)
        if len(config.inputs) > 1:
            writer.put("input", config.inputs.index(chosen), field="input")
        for index, block in enumerate(arch.blocks):
            writer.put("num_heads", block.num_heads, field=f"blocks[{index}].num_heads", index=index)
            writer.put("hidden_dim", block.hidden_dim, field=f"blocks[{index}].hidden_dim", index=index)

    def _structure(self, arch: ElasticArch) -> dict[str, Any]:
        choices = (
            *("image_size", "channels", "num_classes", "depth", "num_heads", "hidden_dims"),
            *("image_sizes", "patch_sizes"),
        )
        details = {name: value for name, value in vars(self.config).items() if name not in choices}
        details["patch_size"] = arch.patch_size or self.config.patch_size
        # Two blocks, one with attention alone and one with an MLP alone, compute what one block with both does.
        parts = [part for block in arch.blocks for part in vars(block).items() if part[1]]
        return {**details, "parts": [list(part) for part in parts]}


def uniform_cut(space: Space[ElasticConfig, ElasticArch], cut: float) -> ElasticArch:
    """Return the network that has one width in all blocks and lacks about a share of the model's MACs."""
    config = space.config
    heads, widths = (tuple(filter(None, choices)) for choices in (config.num_heads, config.hidden_dims))
    archs = [
        ElasticArch(blocks=(ElasticBlock(num_heads=number, hidden_dim=width),) * config.depth)
        for number in heads
        for width in widths
    ]
    macs = space.costs(space.encode([space.largest(), *archs])).macs
    # Among cuts that are about as good, that of heads and hidden units alike.
    misses = [
        abs(1 - value / macs[0] - cut) + 0.1 * abs(block.num_heads / heads[-1] - block.hidden_dim / widths[-1])
        for value, block in zip(macs[1:], (arch.blocks[0] for arch in archs), strict=True)
    ]
    return archs[misses.index(min(misses))]


def _require_widths(name: str, choices: tuple[int, ...]) -> None:
    if not choices or tuple(sorted(set(choices))) != choices or choices[0] < 0:
        raise InputError(f"{name} must have distinct choices in ascending order, from 0 on", got=choices)
    require_positive(f"the largest of {name}", choices[-1])
    if len(choices) > 1000 or choices[-1] > 2**24:
        raise InputError(f"{name} must have at most 1000 choices, up to {2**24}", got=choices[-1])


def scaled_sizes(image_size: int, patch_size: int, *, shares: Iterable[float]) -> tuple[int, ...]:
    """Return choices of the images' side: shares of it, in whole patches; none if there is no choice.

    Args:
        image_size: Side of the model's images.
        patch_size: Side of its patches.
        shares: The shares, of at least a half.
    """
    if image_size % patch_size:
        return ()
    grid = image_size // patch_size
    sides = {round(share * grid) for share in shares}
    sizes = tuple(sorted(side * patch_size for side in {*sides, grid} if 2 <= side <= grid <= 2 * side))
    return sizes if len(sizes) > 1 else ()


def fitting_patches(patch_sizes: Iterable[int], image_sizes: Iterable[int], grid: int) -> tuple[int, ...]:
    """Return those sizes of patches that divide an image into at least half of a grid; none if there is no choice."""
    sizes, images = sorted({*patch_sizes}), [*image_sizes]
    fits = tuple(patch for patch in sizes if any(_fits(image, patch, grid=grid) for image in images))
    return fits if len(fits) > 1 else ()


def _fits(image_size: int, patch_size: int, *, grid: int) -> bool:
    """Return True for patches that divide an image, into at least two and at least half of a grid along a side."""
    side = image_size // patch_size
    return image_size % patch_size == 0 and 2 * side >= grid and side >= 2


def _traits(config: ElasticConfig) -> Traits:
    """Return the traits of the residual stream of the blocks."""
    if config.pre_norm:
        return ()
    return _embedded_traits(config)


def _embedded_traits(config: ElasticConfig) -> Traits:
    """Return the traits of the tokens in front of the blocks and of a norm there."""
    has_table = config.positions != "none" or config.prefix_tokens > 0
    return (*(() if config.prefix_tokens else PIXELS), *(RESIDUAL if has_table else ()))


def _stem(config: ElasticConfig, size: ElasticInput) -> Operations:
    patches, embed = size.patches, config.embed_dim
    patch_embed = Convolution(
        name="patch_embed",
        positions_in=size.image_size**2,
        positions_out=patches,
        inputs=config.channels,
        outputs=embed,
        kernel=size.patch_size**2,
        bias=int(config.patch_bias),
    )
    operations: list[Any] = [patch_embed]
    if config.prefix_tokens:
        operations.append(Table(name="prefix", elements=config.prefix_tokens * embed))
    if config.positions != "none":
        elements = (size.tokens if config.positions == "all" else patches) * embed
        strided = config.positions == "patches" or not config.prefix_tokens
        traits = (*(PIXELS if strided else ()), *RESIDUAL)
        operations.append(Table(name="position", elements=elements))
        operations.append(Elementwise(name="add_position", variant="add", elements=elements, traits=traits))
    if config.pre_norm:
        operations.append(Norm(name="norm_pre", tokens=size.tokens, channels=embed, traits=_embedded_traits(config)))
    return tuple(operations)


def _attention(config: ElasticConfig, size: ElasticInput, *, times: Size, heads: Size) -> Operations:
    tokens, embed, width, traits = size.tokens, config.embed_dim, heads * config.head_dim, _traits(config)
    qkv_bias = int(config.qkv_bias)
    operations: list[Any] = [
        Norm(name="norm1", times=times, tokens=tokens, channels=embed, traits=traits),
        Linear(name="qkv", times=times, tokens=tokens, inputs=embed, outputs=3 * width, bias=qkv_bias),
    ]
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            operations.append(Norm(name=name, times=times, tokens=tokens * heads, channels=config.head_dim))
    if config.rotary != "none":
        # The table of one head is read for all heads of q and k: with a single head, half as much as they are.
        elements, operands = 2 * tokens * width, 1 + np.equal(heads, 1)
        operations += [
            *(
                Elementwise(
                    name=name, times=times, variant="mul", elements=elements, operands=operands, traits=RESIDUAL
                )
                for name in ("rotary_cosine", "rotary_sine")
            ),
            Elementwise(name="rotary_sum", times=times, variant="add", elements=elements, operands=2, traits=RESIDUAL),
        ]
    operations.append(Attention(name="attention", times=times, heads=heads, width=width, queries=tokens, keys=tokens))
    if config.attention_norm:
        operations.append(Norm(name="attention_norm", times=times, tokens=tokens, channels=width))
    operations.append(Linear(name="proj", times=times, tokens=tokens, inputs=width, outputs=embed))
    if config.attention_scale:
        operations += _layer_scale("scale1", times=times, tokens=tokens, embed=embed)
    return (*operations, residual("add1", times=times, elements=tokens * embed, traits=traits))


def _mlp(config: ElasticConfig, size: ElasticInput, *, times: Size, hidden: Size) -> Operations:
    tokens, embed, traits = size.tokens, config.embed_dim, _traits(config)
    norm = Norm(name="norm2", times=times, tokens=tokens, channels=embed, traits=traits)
    elements = tokens * hidden
    if config.activation == "swiglu":
        operations: list[Any] = [
            norm,
            Linear(name="gate", times=times, tokens=tokens, inputs=embed, outputs=hidden),
            Linear(name="fc1", times=times, tokens=tokens, inputs=embed, outputs=hidden),
            Elementwise(name="silu", times=times, variant="silu", elements=elements),
            Elementwise(name="product", times=times, variant="mul", elements=elements, operands=2),
        ]
    else:
        operations = [norm, Linear(name="fc1", times=times, tokens=tokens, inputs=embed, outputs=hidden)]
        operations += _activation(config.activation, times=times, elements=elements)
    if config.mlp_norm:
        operations.append(Norm(name="mlp_norm", times=times, tokens=tokens, channels=hidden))
    operations.append(Linear(name="fc2", times=times, tokens=tokens, inputs=hidden, outputs=embed))
    if config.mlp_scale:
        operations += _layer_scale("scale2", times=times, tokens=tokens, embed=embed)
    return (*operations, residual("add2", times=times, elements=tokens * embed, traits=traits))


def _activation(name: Activation, *, times: Size, elements: Size) -> Operations:
    if name != "quick_gelu":
        return (Elementwise(name="gelu", times=times, variant="gelu", elements=elements),)
    return (  # x * sigmoid(1.702 x)
        Elementwise(name="gelu_scale", times=times, variant="mul", elements=elements),
        Elementwise(name="gelu_sigmoid", times=times, variant="sigmoid", elements=elements),
        Elementwise(name="gelu_product", times=times, variant="mul", elements=elements, operands=2),
    )


def _layer_scale(name: str, *, times: Size, tokens: Size, embed: int) -> Operations:
    # One operand: the elements of the table are read as parameters.
    return (
        Table(name=name, times=times, elements=embed),
        Elementwise(name=f"mul_{name}", times=times, variant="mul", elements=tokens * embed, traits=RESIDUAL),
    )


def _head(config: ElasticConfig, size: ElasticInput) -> Operations:
    embed, traits = config.embed_dim, _traits(config)
    operations: list[Any] = []
    if config.final_norm == "tokens":
        operations.append(Norm(name="norm", tokens=size.tokens, channels=embed, traits=traits))
    pooled = size.tokens if config.pool_prefix else size.patches
    if config.pooling == "average":
        operations.append(Pool(name="pool", positions_in=pooled, positions_out=1, channels=embed))
    elif config.pooling == "attention":
        operations += _attention_pool(config, tokens=pooled)
    if config.final_norm == "pooled":
        float32 = tuple(trait for trait in traits if trait in RESIDUAL)  # a mean is never strided
        operations.append(Norm(name="norm", tokens=1, channels=embed, traits=float32))
    operations.append(Linear(name="classifier", tokens=1, inputs=embed, outputs=config.num_classes))
    if config.pooling == "distilled":
        classes: NDArray[Any] | int = config.num_classes
        operations += [
            Linear(name="distilled_classifier", tokens=1, inputs=embed, outputs=classes),
            Elementwise(name="add_logits", variant="add", elements=classes, operands=2),
            Elementwise(name="mean_logits", variant="div", elements=classes),
        ]
    return tuple(operations)


def _attention_pool(config: ElasticConfig, *, tokens: Size) -> Operations:
    embed, hidden = config.embed_dim, config.pool_hidden_dim
    return (
        Table(name="query", elements=embed),
        Linear(name="pool_q", tokens=1, inputs=embed, outputs=embed),
        Linear(name="pool_kv", tokens=tokens, inputs=embed, outputs=2 * embed),
        Attention(name="pool_attention", heads=config.pool_heads, width=embed, queries=1, keys=tokens),
        Linear(name="pool_proj", tokens=1, inputs=embed, outputs=embed),
        Norm(name="pool_norm", tokens=1, channels=embed),
        Linear(name="pool_fc1", tokens=1, inputs=embed, outputs=hidden),
        *_activation(config.activation, times=1, elements=hidden),
        Linear(name="pool_fc2", tokens=1, inputs=hidden, outputs=embed),
        residual("pool_add", times=1, elements=embed, traits=()),
    )


SPACES: tuple[Elastic, ...] = ()
"""No named spaces: each is made from a model."""
