"""GLiT (Chen et al. 2021, arXiv 2107.02960): ViT blocks that split their channels between attention and convolution.

A block splits its channels into three groups. The first `groups` of them go through attention, the others through a
locality module (1-D convolutions over the tokens, class token included); only the following MLP mixes the two. The
search has two levels: the distribution (attention groups of every block), then the details.

The details have two forms. In the form of the released code ("coded") a block has nine choices: kernel and expansion if
it is only convolution, value and MLP ratio if it is only attention, expansion and MLP ratio if it is mixed; the rest is
fixed. In the form of the paper, every detail of a block is chosen: 3·3·3·3 choices, fewer if a block lacks attention or
convolution. Both contain the released network, GLiT-T. GLiT-Small and GLiT-Base were never published layer by layer;
their widths follow DeiT.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block
from hwnas.space.layers import RESIDUAL, Operations, head, mlp_branch, patch_stem, residual
from hwnas.space.space import (
    MINI_SIZES,
    AnySpace,
    Costs,
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
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.workload import Attention, Convolution, Elementwise, Linear, Norm, Segment, Size

GROUPS = 3
"""Number of groups into which a block splits its channels."""

_ALL_GROUPS = frozenset(range(GROUPS + 1))

_DETAILS = ("value_ratio", "expansion", "kernel_size", "mlp_ratio")


@dataclass(frozen=True, kw_only=True)
class GlitBlock:
    """A block: `groups` of three channel groups in attention, the others in convolution; details it lacks are None."""

    groups: int
    mlp_ratio: int
    value_ratio: float | None = None
    """Width of q, k and v relative to the channels in attention."""
    expansion: int | None = None
    """Inner width of the locality module relative to its channels."""
    kernel_size: int | None = None
    """Taps of the depthwise convolution."""


@dataclass(frozen=True, kw_only=True)
class GlitArch(Arch):
    """A network: its blocks."""

    blocks: tuple[GlitBlock, ...]


@dataclass(frozen=True, kw_only=True)
class GlitConfig(SpaceConfig):
    """Choices of a GLiT space, and what all its networks have in common."""

    embed_dim: int
    num_heads: int
    depth: int = 12
    patch_size: int = 16
    value_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    expansions: tuple[int, ...] = (1, 2, 4)
    kernel_sizes: tuple[int, ...] = (17, 31, 45)
    mlp_ratios: tuple[int, ...] = (2, 4, 6)
    form: Literal["coded", "paper"] = "coded"
    """Details of a block that can be chosen: those of the released code, or all as in the paper."""
    fixed_value_ratio: float = 1.0
    """Value of the coded form where it is not chosen; likewise the next two."""
    fixed_kernel_size: int = 31
    fixed_mlp_ratio: int = 4
    layout: tuple[int, ...] | None = None
    """Attention groups of each block, for the second level of a search with a supernet for each level; None: they are
    chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "embed_dim", "num_heads", "depth", "patch_size")
        require_choices(self, "value_ratios", "expansions", "kernel_sizes", "mlp_ratios")
        require_sizes(self, "fixed_kernel_size", "fixed_mlp_ratio")
        require_patches(self.image_size, self.patch_size)
        require_multiple("embed_dim", self.embed_dim, self.num_heads, "heads of one width")
        require_multiple("num_heads", self.num_heads, GROUPS, "heads are dealt out by channel group")
        if self.layout is not None and (len(self.layout) != self.depth or not set(self.layout) <= _ALL_GROUPS):
            message = f"a layout must be {self.depth} numbers of attention groups, each from 0 to {GROUPS}"
            raise InputError(message, got=shown(self.layout))
        for ratio in (*self.value_ratios, self.fixed_value_ratio):
            width = float(self.embed_dim // self.num_heads * ratio)
            if width < 1 or not width.is_integer():
                raise InputError("value_ratios must give heads of a whole width", got=ratio)

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """Widths of the blocks of a population, arrays of shape (rows, slots)."""

    attention: Size
    """Channels in attention."""
    locality: Size
    """Channels in the locality module."""
    heads: Size
    value: Size
    """Width of each of q, k and v."""
    inner: Size
    """Inner width of the locality module."""
    kernel: Size
    hidden: Size


class Glit(Space[GlitConfig, GlitArch]):
    """A space of GLiT networks."""

    family = "glit"
    config_type = GlitConfig
    arch_type = GlitArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Attention groups, value ratio, expansion, kernel and MLP ratio of each block."""
        config = self.config
        choices = {
            "value_ratio": config.value_ratios,
            "expansion": config.expansions,
            "kernel_size": config.kernel_sizes,
            "mlp_ratio": config.mlp_ratios,
        }
        groups = [
            Dimension(name="groups", kind="ordinal", choices=self.groups_of(block), block=block)
            for block in range(config.depth)
        ]
        details = [
            dimension for name, values in choices.items() for dimension in per_block(name, values, blocks=config.depth)
        ]
        return (*groups, *details)

    def groups_of(self, block: int) -> tuple[int, ...]:
        """Return the choices of the attention groups of a block."""
        layout = self.config.layout
        return tuple(range(GROUPS + 1)) if layout is None else (layout[block],)

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        counts = {name: len(self.dimensions[self.columns(name)][0].choices) for name in _DETAILS}
        details = []
        for groups in range(GROUPS + 1):
            chosen = self._chosen(np.array([[groups]]))
            details.append(math.prod(counts[name] for name in _DETAILS if chosen[name].item()))
        slots = range(self.config.depth)
        return math.prod(sum(details[groups] for groups in self.groups_of(slot)) for slot in slots)

    def official(self, genomes: ArrayLike) -> Costs:
        """Count as the released code does, which assumes half the width of the first pointwise convolution."""
        rows = self.canonical(genomes)
        costs, widths = self.costs(rows), self._widths(rows)
        gate = self.config.tokens * widths.locality * widths.inner
        return Costs(params=costs.params, macs=costs.macs - gate.sum(axis=1))

    def _chosen(self, groups: NDArray[Any]) -> dict[str, Mask]:
        """Return which details are chosen in blocks with these numbers of attention groups."""
        attention, locality = groups > 0, groups < GROUPS
        if self.config.form == "paper":
            live = {"value_ratio": attention, "expansion": locality, "kernel_size": locality}
            return {**live, "mlp_ratio": np.ones_like(attention)}
        return {
            "value_ratio": ~locality,
            "expansion": locality,
            "kernel_size": ~attention,
            "mlp_ratio": attention,
        }

    def _used(self, genomes: Genomes) -> Mask:
        chosen = self._chosen(self.values(genomes, "groups"))
        always = np.ones((len(genomes), self.config.depth), dtype=np.bool_)
        return np.concatenate([always, *(chosen[name] for name in _DETAILS)], axis=1)

    def _fixed(self, name: str) -> float:
        config = self.config
        fixed = {
            "value_ratio": config.fixed_value_ratio,
            "kernel_size": config.fixed_kernel_size,
            "mlp_ratio": config.fixed_mlp_ratio,
        }
        return fixed.get(name, 0)

    def _widths(self, genomes: Genomes) -> _Widths:
        config = self.config
        groups = self.values(genomes, "groups")
        chosen = self._chosen(groups)
        detail = {name: np.where(chosen[name], self.values(genomes, name), self._fixed(name)) for name in _DETAILS}
        attention = groups * (config.embed_dim // GROUPS)
        locality = config.embed_dim - attention
        integers = {name: detail[name].astype(np.int64) for name in ("expansion", "kernel_size", "mlp_ratio")}
        return _Widths(
            attention=attention,
            locality=locality,
            heads=groups * (config.num_heads // GROUPS),
            value=value_dim(attention, detail["value_ratio"]),
            inner=locality * integers["expansion"],
            kernel=integers["kernel_size"],
            hidden=config.embed_dim * integers["mlp_ratio"],
        )

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        config = self.config
        widths = self._widths(genomes)
        tokens, embed = config.tokens, config.embed_dim
        times = np.ones_like(widths.heads)
        stem = patch_stem(
            image_size=config.image_size, channels=config.channels, patch_size=config.patch_size, embed=embed
        )
        block = (
            Norm(name="norm1", times=times, tokens=tokens, channels=embed, traits=RESIDUAL),
            *_attention(widths, tokens=tokens),
            *_locality(widths, tokens=tokens),
            residual("add1", times=times, elements=tokens * embed),
            *mlp_branch(times=times, tokens=tokens, embed=embed, hidden=widths.hidden),
        )
        end = head(tokens=tokens, embed=embed, num_classes=config.num_classes)
        return (Segment("stem", stem), Segment("blocks", block, slots=config.depth), Segment("head", end))

    def _live(self, groups: int) -> dict[str, bool]:
        return {
            "value_ratio": groups > 0,
            "expansion": groups < GROUPS,
            "kernel_size": groups < GROUPS,
            "mlp_ratio": True,
        }

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        side = self.config.image_size // self.config.patch_size
        return (MapSizes(side=side, channels=self.config.embed_dim),)

    def _decode(self, reader: GenomeReader) -> GlitArch:
        columns = {name: reader.values(name) for name in _DETAILS}
        return GlitArch(
            blocks=tuple(
                self._block(groups, {name: column[slot] for name, column in columns.items()})
                for slot, groups in enumerate(reader.values("groups"))
            )
        )

    def _block(self, groups: int, chosen: dict[str, Any]) -> GlitBlock:
        live = [name for name, alive in self._live(groups).items() if alive]
        values: dict[str, Any] = {name: self._fixed(name) if chosen[name] is None else chosen[name] for name in live}
        return GlitBlock(groups=groups, **values)

    def _encode(self, arch: GlitArch, writer: GenomeWriter) -> None:
        require_length("blocks", len(arch.blocks), [self.config.depth])
        for index, block in enumerate(arch.blocks):
            field = f"blocks[{index}]"
            writer.put("groups", block.groups, field=f"{field}.groups", index=index)
            chosen = self._chosen(np.array([block.groups]))
            for name, live in self._live(block.groups).items():
                value = getattr(block, name)
                if live and chosen[name].item():
                    writer.put(name, value, field=f"{field}.{name}", index=index)
                else:
                    self._require_fixed(value, live=live, name=name, field=f"{field}.{name}")

    def _require_fixed(self, value: object, *, live: bool, name: str, field: str) -> None:
        expected = self._fixed(name) if live else None
        if value != expected:
            message = f"{field} is not chosen for such a block in {self.name}"
            raise InputError(message, got=shown(value), known=["leave it out"] if expected is None else [expected])

    def _structure(self, arch: GlitArch) -> dict[str, Any]:
        config = self.config
        return {
            "patch_size": config.patch_size,
            "embed_dim": config.embed_dim,
            "num_heads": config.num_heads,
            "blocks": arch.to_mapping()["blocks"],
        }


def value_dim(attention: Size, value_ratio: Size) -> Size:
    """Return the width of each of q, k and v."""
    # The product of floats should be an integer and may miss it by a rounding error.
    return np.rint(attention * value_ratio).astype(np.int64)


def _attention(widths: _Widths, *, tokens: int) -> Operations:
    times = widths.heads > 0
    return (
        Linear(name="qkv", times=times, tokens=tokens, inputs=widths.attention, outputs=3 * widths.value),
        Attention(name="attention", times=times, heads=widths.heads, width=widths.value, queries=tokens, keys=tokens),
        Linear(name="proj", times=times, tokens=tokens, inputs=widths.value, outputs=widths.attention),
    )


def _locality(widths: _Widths, *, tokens: int) -> Operations:
    times, channels, inner = widths.locality > 0, widths.locality, widths.inner
    return (
        Linear(name="expand", times=times, tokens=tokens, inputs=channels, outputs=2 * inner),
        Elementwise(name="glu", times=times, variant="glu", elements=tokens * inner, operands=2),
        Convolution(
            name="depthwise",
            times=times,
            positions_in=tokens,
            positions_out=tokens,
            inputs=inner,
            outputs=inner,
            kernel=widths.kernel,
            groups=np.maximum(inner, 1),
        ),
        Norm(name="batch_norm", times=times, variant="batch_norm", tokens=tokens, channels=inner),
        Elementwise(name="silu", times=times, variant="silu", elements=tokens * inner),
        Linear(name="reduce", times=times, tokens=tokens, inputs=inner, outputs=channels),
    )


def _released() -> GlitArch:
    # Of each block: attention groups, value ratio, expansion, kernel and MLP ratio.
    rows: tuple[tuple[int, float | None, int | None, int | None, int], ...] = (
        (3, 0.5, None, None, 4),
        (0, None, 2, 31, 4),
        (1, 1.0, 4, 31, 6),
        (3, 1.0, None, None, 4),
        (0, None, 4, 45, 4),
        (1, 1.0, 4, 31, 6),
        (3, 1.0, None, None, 2),
        (1, 1.0, 4, 31, 2),
        (0, None, 4, 45, 4),
        (3, 1.0, None, None, 4),
        (0, None, 4, 31, 4),
        (3, 2.0, None, None, 6),
    )
    return GlitArch(
        blocks=tuple(
            GlitBlock(groups=groups, value_ratio=value, expansion=expansion, kernel_size=kernel, mlp_ratio=mlp)
            for groups, value, expansion, kernel, mlp in rows
        )
    )


TINY = Glit(name="glit-tiny", config=GlitConfig(embed_dim=192, num_heads=3), published={"GLiT-T": _released()})
"""The tiny space in the form of the released code."""

SMALL = Glit(name="glit-small", config=GlitConfig(embed_dim=384, num_heads=6))
"""The small space; only the total costs of its network were published."""

BASE = Glit(name="glit-base", config=GlitConfig(embed_dim=768, num_heads=12))
"""The base space; only the total costs of its network were published."""

TINY_PAPER, SMALL_PAPER, BASE_PAPER = (
    Glit(name=f"{space.name}-paper", config=replace(space.config, form="paper"), published=space.published)
    for space in (TINY, SMALL, BASE)
)

MICRO = Glit(
    name="glit-micro",
    config=GlitConfig(
        image_size=32,
        num_classes=10,
        embed_dim=36,
        num_heads=3,
        depth=4,
        patch_size=8,
        value_ratios=(0.5, 1.0),
        kernel_sizes=(3, 7, 11),
        mlp_ratios=(1, 2, 6),
        fixed_kernel_size=7,
        fixed_mlp_ratio=1,
    ),
)
"""A space for tests and the demo: its supernet trains on 32-pixel images in about a minute on two cores.

Only attention or only convolution learns less in that time than both, so the sizes are such that the largest network
has both.
"""


def _mini(image_size: int) -> Glit:
    return Glit(
        name=f"glit-mini-{image_size}",
        config=GlitConfig(
            image_size=image_size,
            num_classes=10,
            embed_dim=144,
            num_heads=3,
            depth=5,
            patch_size=image_size // 8,
            value_ratios=(0.5, 1.0),
            expansions=(1, 2),
            kernel_sizes=(9, 17, 31),
            mlp_ratios=(1, 2, 4),
            fixed_kernel_size=17,
            fixed_mlp_ratio=2,
        ),
    )


MINI = tuple(_mini(image_size) for image_size in MINI_SIZES)
"""Spaces for small sets of small images: 8 x 8 patches at every size."""

SPACES = (TINY, SMALL, BASE, TINY_PAPER, SMALL_PAPER, BASE_PAPER, MICRO, *MINI)

LAYOUT, DETAILS = "layout-", "details-"
"""Beginnings of the names of the spaces of one level: `layout-NAME`, and `details-GROUPS-NAME` with a digit a block."""


def layout_level(space: AnySpace) -> Glit:
    """Return the space of the first level: attention groups are chosen, details have their middle choice.

    Raises:
        InputError: The space is not of GLiT with both levels.
    """
    config = _require_both_levels(space, f"{LAYOUT}{TINY.name}").config
    names = ("value_ratios", "expansions", "kernel_sizes", "mlp_ratios")
    choices: dict[str, Any] = {name: getattr(config, name) for name in names}
    middle: dict[str, Any] = {name: (values[len(values) // 2],) for name, values in choices.items()}
    return Glit(name=f"{LAYOUT}{space.name}", config=replace(config, **middle))


def details_level(space: AnySpace, *, groups: str) -> Glit:
    """Return the space of the second level: details are chosen, the attention groups of the blocks are given.

    Args:
        space: The space with both levels.
        groups: A digit for each block.

    Raises:
        InputError: The space is not of GLiT with both levels, or does not have so many blocks.
    """
    both = _require_both_levels(space, f"{DETAILS}301301310303-{TINY.name}")
    layout = tuple(int(digit) if digit in "0123" else -1 for digit in groups)
    published = {
        name: arch for name, arch in both.published.items() if tuple(block.groups for block in arch.blocks) == layout
    }
    config = replace(both.config, layout=layout)
    return Glit(name=f"{DETAILS}{groups}-{both.name}", config=config, published=published)


def with_both_levels(name: str) -> str:
    """Return the name of the space that the space of one level is part of, or of any other space as it is."""
    if name.startswith(LAYOUT):
        return name.removeprefix(LAYOUT)
    return name.removeprefix(DETAILS).partition("-")[2] if name.startswith(DETAILS) else name


def _require_both_levels(space: AnySpace, example: str) -> Glit:
    if not isinstance(space, Glit) or space.name.startswith((LAYOUT, DETAILS)):
        message = "only a space of GLiT is searched on two levels"
        raise InputError(message, got=space.name, hint=example)
    return space
