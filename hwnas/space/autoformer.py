"""AutoFormer (Chen et al. 2021, arXiv 2107.00651): plain pre-norm ViTs with 2-D relative position.

Embedding width and depth are chosen per network, heads and MLP ratio per block. Heads are 64 wide at every embedding
width.

The spaces are the union of what the paper, the released configs and the published networks need: AutoFormer-T uses an
MLP ratio of 3.0 that the released tiny grid (3.5 and 4) lacks, and the base space has the 8 heads of the paper and of
the published network's config in addition to the released 9 and 10.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block, per_network
from hwnas.space.layers import attention_branch, head, mlp_branch, patch_stem
from hwnas.space.space import (
    MINI_SIZES,
    Costs,
    GenomeReader,
    Genomes,
    GenomeWriter,
    Mask,
    Space,
    SpaceConfig,
    require_choices,
    require_length,
    require_patches,
    require_positive,
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.workload import Operation, Pool, RelativePosition, Segment, Size


@dataclass(frozen=True, kw_only=True)
class AutoFormerBlock:
    """A block: attention with `num_heads` heads, then an MLP that is `mlp_ratio` times as wide as the embedding."""

    num_heads: int
    mlp_ratio: float

    def hidden_dim(self, embed_dim: int) -> int:
        """Return the width of the MLP."""
        return int(embed_dim * self.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class AutoFormerArch(Arch):
    """A network: its embedding width and its blocks, whose number is the depth."""

    embed_dim: int
    blocks: tuple[AutoFormerBlock, ...]


@dataclass(frozen=True, kw_only=True)
class AutoFormerConfig(SpaceConfig):
    """Choices of an AutoFormer space, and what all its networks have in common."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    patch_size: int = 16
    head_dim: int = 64
    relative_clip: int | None = 14
    """Distance at which relative position is clipped; None: no relative position."""
    pooling: Literal["average", "token"] = "average"
    """Input of the head: the mean of the patch tokens, or the class token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "patch_size", "head_dim")
        require_patches(self.image_size, self.patch_size)
        require_choices(self, "embed_dims", "depths", "num_heads", "mlp_ratios")
        require_positive("the narrowest MLP", int(self.embed_dims[0] * self.mlp_ratios[0]))
        if self.relative_clip is not None and self.relative_clip < 0:
            raise InputError("relative_clip must be a distance, or None", got=self.relative_clip)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1


class AutoFormer(Space[AutoFormerConfig, AutoFormerArch]):
    """A space of AutoFormer networks."""

    family = "autoformer"
    config_type = AutoFormerConfig
    arch_type = AutoFormerArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Embedding width, depth; heads and MLP ratio of each slot."""
        config, slots = self.config, self.slots
        return (
            per_network("embed_dim", config.embed_dims),
            per_network("depth", config.depths),
            *per_block("num_heads", config.num_heads, blocks=slots),
            *per_block("mlp_ratio", config.mlp_ratios, blocks=slots),
        )

    @property
    def slots(self) -> int:
        """Number of blocks of the deepest network."""
        return max(self.config.depths)

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        config = self.config
        per_slot = len(config.num_heads) * len(config.mlp_ratios)
        return len(config.embed_dims) * int(sum(per_slot**depth for depth in config.depths))

    def official(self, genomes: ArrayLike) -> Costs:
        """Count as the released `get_complexity` does when called with the number of patches.

        It assumes two additional tokens instead of one in the blocks, runs the head on every token, omits the last
        norm, and counts two products per pair of tokens and distance for relative position.
        """
        rows = self.canonical(genomes)
        embed, present, heads, hidden = self._sizes(rows)
        config, width = self.config, heads * self.config.head_dim
        patches, tokens = config.grid**2, config.grid**2 + 2
        # Norms, then q, k, v and projection, then attention, then the MLP. All is doubled, as relative position is
        # counted in halves.
        blocks = tokens * (2 * embed + 4 * embed * width + 2 * tokens * width + 2 * embed * hidden)
        twice = 2 * blocks
        if config.relative_clip is not None:
            twice = twice + tokens * (4 * config.relative_clip * tokens + tokens + width)
        stem = 2 * embed + 2 * config.channels * config.patch_size**2 * patches * embed + (patches + 1) * embed
        classifier = 2 * (patches + 1) * embed * config.num_classes
        doubled = (stem + classifier)[:, 0] + (twice * present).sum(axis=1)
        return Costs(params=self.costs(rows).params, macs=doubled // 2)

    def _used(self, genomes: Genomes) -> Mask:
        present = self._present(genomes)
        return np.concatenate([np.ones((len(genomes), 2), dtype=np.bool_), present, present], axis=1)

    def _present(self, genomes: Genomes) -> Mask:
        mask: Mask = np.arange(self.slots) < self.values(genomes, "depth")
        return mask

    def _sizes(self, genomes: Genomes) -> tuple[Size, Size, Size, Size]:
        """Return the embedding width (rows, 1), and per slot: presence, heads, MLP width."""
        embed = self.values(genomes, "embed_dim")
        hidden = (embed * self.values(genomes, "mlp_ratio")).astype(np.int64)
        return embed, self._present(genomes), self.values(genomes, "num_heads"), hidden

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        config = self.config
        embed, present, heads, hidden = self._sizes(genomes)
        stem = patch_stem(
            image_size=config.image_size, channels=config.channels, patch_size=config.patch_size, embed=embed
        )
        width = heads * config.head_dim
        norm, qkv, attention, *rest = attention_branch(
            times=present, tokens=config.tokens, embed=embed, heads=heads, width=width
        )
        mlp = mlp_branch(times=present, tokens=config.tokens, embed=embed, hidden=hidden)
        block = (norm, qkv, attention, *self._relative_position(present, heads), *rest, *mlp)
        pool = Pool(name="pool", positions_in=config.grid**2, positions_out=1, channels=embed)
        end = head(
            tokens=config.tokens,
            embed=embed,
            num_classes=config.num_classes,
            pool=(pool,) if config.pooling == "average" else (),
        )
        return (Segment("stem", stem), Segment("blocks", block, slots=self.slots), Segment("head", end))

    def _relative_position(self, present: Size, heads: Size) -> tuple[Operation, ...]:
        config = self.config
        if config.relative_clip is None:
            return ()
        return (
            RelativePosition(
                name="relative_position",
                times=present,
                heads=heads,
                grid=config.grid,
                head_dim=config.head_dim,
                clip=config.relative_clip,
            ),
        )

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        return (MapSizes(side=self.config.grid, channels=self.values(genomes, "embed_dim")),)

    def _decode(self, reader: GenomeReader) -> AutoFormerArch:
        pairs = zip(reader.values("num_heads"), reader.values("mlp_ratio"), strict=True)
        blocks = (AutoFormerBlock(num_heads=heads, mlp_ratio=ratio) for heads, ratio in pairs if heads is not None)
        return AutoFormerArch(embed_dim=reader.value("embed_dim"), blocks=tuple(blocks))

    def _encode(self, arch: AutoFormerArch, writer: GenomeWriter) -> None:
        require_length("blocks", len(arch.blocks), self.config.depths)
        writer.put("embed_dim", arch.embed_dim, field="embed_dim")
        writer.put("depth", len(arch.blocks), field="blocks")
        for index, block in enumerate(arch.blocks):
            writer.put("num_heads", block.num_heads, field=f"blocks[{index}].num_heads", index=index)
            writer.put("mlp_ratio", block.mlp_ratio, field=f"blocks[{index}].mlp_ratio", index=index)

    def _structure(self, arch: AutoFormerArch) -> dict[str, Any]:
        config = self.config
        return {
            "patch_size": config.patch_size,
            "embed_dim": arch.embed_dim,
            "head_dim": config.head_dim,
            "relative_clip": config.relative_clip,
            "pooling": config.pooling,
            "blocks": [
                {"num_heads": block.num_heads, "hidden_dim": block.hidden_dim(arch.embed_dim)} for block in arch.blocks
            ],
        }


def _published(embed_dim: int, ratios: str, heads: str) -> AutoFormerArch:
    pairs = zip(heads.split(), ratios.split(), strict=True)
    blocks = tuple(AutoFormerBlock(num_heads=int(head), mlp_ratio=float(ratio)) for head, ratio in pairs)
    return AutoFormerArch(embed_dim=embed_dim, blocks=blocks)


TINY = AutoFormer(
    name="autoformer-tiny",
    config=AutoFormerConfig(
        embed_dims=(192, 216, 240), depths=(12, 13, 14), num_heads=(3, 4), mlp_ratios=(3.0, 3.5, 4.0)
    ),
    published={
        "AutoFormer-T": _published(
            192, "3.5 3.5 3.0 3.5 3.0 3.0 4.0 4.0 3.5 4.0 3.5 4.0 3.5", "3 3 3 3 3 3 3 3 3 3 4 3 3"
        )
    },
)
"""The tiny space, with the MLP ratio of 3.0 that AutoFormer-T uses and the released grid lacks."""

SMALL = AutoFormer(
    name="autoformer-small",
    config=AutoFormerConfig(
        embed_dims=(320, 384, 448), depths=(12, 13, 14), num_heads=(5, 6, 7), mlp_ratios=(3.0, 3.5, 4.0)
    ),
    published={
        "AutoFormer-S": _published(
            384, "3.0 3.5 3.0 3.5 4.0 4.0 4.0 4.0 4.0 4.0 4.0 3.5 4.0", "6 6 5 7 5 5 5 6 6 7 7 6 7"
        )
    },
)
"""The small space, as in paper and code."""

BASE = AutoFormer(
    name="autoformer-base",
    config=AutoFormerConfig(
        embed_dims=(528, 576, 624), depths=(14, 15, 16), num_heads=(8, 9, 10), mlp_ratios=(3.0, 3.5, 4.0)
    ),
    published={
        "AutoFormer-B": _published(
            576, "3.5 3.5 4.0 3.5 4.0 3.5 3.5 3.0 4.0 4.0 3.0 4.0 3.0 3.5", "9 9 9 9 9 10 9 9 10 9 10 9 9 10"
        )
    },
)
"""The base space, with the 8 heads of the paper in addition to the released 9 and 10."""

MICRO = AutoFormer(
    name="autoformer-micro",
    config=AutoFormerConfig(
        image_size=32,
        num_classes=10,
        patch_size=8,
        head_dim=16,
        relative_clip=3,
        embed_dims=(32, 48, 64, 80),
        depths=(2, 3, 4),
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(1.0, 2.0, 3.0),
    ),
)
"""A space for tests and the demo: its supernet trains on 32-pixel images in about a minute on two cores."""


def _mini(image_size: int) -> AutoFormer:
    return AutoFormer(
        name=f"autoformer-mini-{image_size}",
        config=AutoFormerConfig(
            image_size=image_size,
            num_classes=10,
            patch_size=image_size // 8,
            head_dim=32,
            relative_clip=7,
            embed_dims=(96, 128, 160),
            depths=(4, 5, 6),
            num_heads=(3, 4, 5),
            mlp_ratios=(2.0, 3.0, 4.0),
        ),
    )


MINI = tuple(_mini(image_size) for image_size in MINI_SIZES)
"""Spaces for small sets of small images: 8 x 8 patches at every size, 0.3 to 1.9 million parameters."""

SPACES = (TINY, SMALL, BASE, MICRO, *MINI)
