"""ViTAS based on Twins-SVT: four stages with alternating local and global attention.

The second version of ViTAS (arXiv 2106.13700) searched such a space, but its layer tables were never published. These
spaces are therefore defined by hwnas around Twins-SVT (Chu et al. 2021, arXiv 2104.13840), whose small and base
networks they contain; they hold no published result of ViTAS.

A stage starts with a patch embedding. Its blocks alternate between attention within windows and attention to keys and
values on a coarser grid, which a strided convolution makes. A depthwise convolution after the first block of a stage
encodes positions; there is no class token. Width and depth are chosen per stage; heads, total width of q, k and v, and
MLP width per block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block_of_stages, per_stage
from hwnas.space.layers import PIXELS, Operations, head, mlp_branch, residual
from hwnas.space.space import (
    MINI_SIZES,
    GenomeReader,
    Genomes,
    GenomeWriter,
    Mask,
    Space,
    SpaceConfig,
    require_choices,
    require_head_widths,
    require_length,
    require_multiple,
    require_positive,
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.space.vitas import VitasBlock, tenths
from hwnas.workload import Attention, Convolution, Linear, Norm, Pool, Segment, Size


@dataclass(frozen=True, kw_only=True)
class TwinsStage:
    """A stage: its embedding width and its blocks, of which the first, third, … attend locally, the others globally."""

    embed_dim: int
    blocks: tuple[VitasBlock, ...]


@dataclass(frozen=True, kw_only=True)
class TwinsArch(Arch):
    """A network: its stages."""

    stages: tuple[TwinsStage, ...]


@dataclass(frozen=True, kw_only=True)
class TwinsStageConfig:
    """Choices of one stage, its patch embedding, and the reduction of keys and values in global attention."""

    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    qkv_dims: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    slots: int
    patch_size: int = 2
    reduction: int = 1

    def __post_init__(self) -> None:
        require_sizes(self, "slots", "patch_size", "reduction")
        require_choices(self, "embed_dims", "num_heads", "qkv_dims", "hidden_dims")
        require_head_widths(self.qkv_dims, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class TwinsConfig(SpaceConfig):
    """Choices of the stages of a space based on Twins, and the side of a local window."""

    stages: tuple[TwinsStageConfig, ...]
    window: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "window")
        require_positive("the number of stages", len(self.stages))
        stride = prod(stage.patch_size for stage in self.stages)
        require_multiple("image_size", self.image_size, stride, "the patch embeddings' strides")
        for stage, grid in zip(self.stages, self.grids, strict=True):
            require_positive("the grid of reduced keys", grid // stage.reduction)

    @property
    def grids(self) -> tuple[int, ...]:
        """Tokens along one side of the image, in each stage."""
        strides = accumulate((stage.patch_size for stage in self.stages), lambda stride, patch: stride * patch)
        return tuple(self.image_size // stride for stride in strides)


class Twins(Space[TwinsConfig, TwinsArch]):
    """A space of ViTAS networks based on Twins."""

    family = "vitas-twins"
    config_type = TwinsConfig
    arch_type = TwinsArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Width and depth of each stage; heads, qkv and MLP width of each slot."""
        stages = self.config.stages
        slots = [stage.slots for stage in stages]
        return (
            *per_stage("embed_dim", [stage.embed_dims for stage in stages]),
            *per_stage("depth", [range(1, stage.slots + 1) for stage in stages]),
            *per_block_of_stages("num_heads", [stage.num_heads for stage in stages], slots=slots),
            *per_block_of_stages("qkv_dim", [stage.qkv_dims for stage in stages], slots=slots),
            *per_block_of_stages("hidden_dim", [stage.hidden_dims for stage in stages], slots=slots),
        )

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        size = 1
        for stage in self.config.stages:
            per_slot = len(stage.num_heads) * len(stage.qkv_dims) * len(stage.hidden_dims)
            size *= len(stage.embed_dims) * sum(per_slot**depth for depth in range(1, stage.slots + 1))
        return size

    def _used(self, genomes: Genomes) -> Mask:
        always = np.ones((len(genomes), 2 * len(self.config.stages)), dtype=np.bool_)
        present = np.concatenate(self._present(genomes), axis=1)
        return np.concatenate([always, present, present, present], axis=1)

    def _present(self, genomes: Genomes) -> list[Mask]:
        depths = self.values(genomes, "depth")
        stages = enumerate(self.config.stages)
        return [np.arange(stage.slots) < depths[:, number : number + 1] for number, stage in stages]

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        config = self.config
        embeds = self.values(genomes, "embed_dim")
        channels: Size = config.channels
        segments = []
        for number, (stage, blocks) in enumerate(zip(config.stages, self._blocks(genomes), strict=True)):
            embed = embeds[:, number : number + 1]
            grid = config.grids[number]
            patches = _patch_embed(grid=grid, patch_size=stage.patch_size, inputs=channels, outputs=embed)
            segments.append(Segment(f"patch_embeds.{number}", patches))
            segments.append(Segment(f"stages.{number}", blocks, slots=stage.slots))
            channels = embed
        tokens = config.grids[-1] ** 2
        pool = Pool(name="pool", positions_in=tokens, positions_out=1, channels=channels)
        end = head(tokens=tokens, embed=channels, num_classes=config.num_classes, pool=(pool,), traits=())
        return (*segments, Segment("head", end))

    def _blocks(self, genomes: Genomes) -> Iterator[Operations]:
        embeds, present = self.values(genomes, "embed_dim"), self._present(genomes)
        sizes = [self.values(genomes, name) for name in ("num_heads", "qkv_dim", "hidden_dim")]
        start = 0
        for number, stage in enumerate(self.config.stages):
            slots = slice(start, start := start + stage.slots)
            heads, qkv, hidden = (size[:, slots] for size in sizes)
            embed, grid, times = embeds[:, number : number + 1], self.config.grids[number], present[number]
            odd = np.arange(stage.slots) % 2
            part: dict[str, Any] = {"embed": embed, "grid": grid, "heads": heads, "width": qkv // 3}
            yield (
                Norm(name="norm1", times=times, tokens=grid**2, channels=embed),
                *_local_attention(times=times * (1 - odd), window=self.config.window, **part),
                *_global_attention(times=times * odd, reduction=stage.reduction, **part),
                Linear(name="proj", times=times, tokens=grid**2, inputs=qkv // 3, outputs=embed),
                residual("add1", times=times, elements=grid**2 * embed, traits=()),
                *mlp_branch(times=times, tokens=grid**2, embed=embed, hidden=hidden, traits=()),
                *_position(times=times * (np.arange(stage.slots) == 0), tokens=grid**2, embed=embed),
            )

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        embeds = self.values(genomes, "embed_dim")
        return tuple(
            MapSizes(side=side, channels=embeds[:, stage : stage + 1]) for stage, side in enumerate(self.config.grids)
        )

    def _decode(self, reader: GenomeReader) -> TwinsArch:
        triples = zip(reader.values("num_heads"), reader.values("qkv_dim"), reader.values("hidden_dim"), strict=True)
        blocks = [
            VitasBlock(num_heads=heads, qkv_dim=qkv, hidden_dim=hidden)
            for heads, qkv, hidden in triples
            if heads is not None
        ]
        ends = list(accumulate(reader.values("depth"), initial=0))
        return TwinsArch(
            stages=tuple(
                TwinsStage(embed_dim=embed, blocks=tuple(blocks[start:end]))
                for embed, start, end in zip(reader.values("embed_dim"), ends, ends[1:], strict=False)
            )
        )

    def _encode(self, arch: TwinsArch, writer: GenomeWriter) -> None:
        require_length("stages", len(arch.stages), [len(self.config.stages)])
        start = 0
        for number, (stage, config) in enumerate(zip(arch.stages, self.config.stages, strict=True)):
            field = f"stages[{number}]"
            require_length(f"{field}.blocks", len(stage.blocks), range(1, config.slots + 1))
            writer.put("embed_dim", stage.embed_dim, field=f"{field}.embed_dim", index=number)
            writer.put("depth", len(stage.blocks), field=f"{field}.blocks", index=number)
            for slot, block in enumerate(stage.blocks):
                for name in ("num_heads", "qkv_dim", "hidden_dim"):
                    value = getattr(block, name)
                    writer.put(name, value, field=f"{field}.blocks[{slot}].{name}", index=start + slot)
            start += config.slots

    def _structure(self, arch: TwinsArch) -> dict[str, Any]:
        # A stage of one block has no global attention, and therefore no reduction.
        reductions = [
            config.reduction if len(stage.blocks) > 1 else None
            for stage, config in zip(arch.stages, self.config.stages, strict=True)
        ]
        stages = zip(arch.to_mapping()["stages"], self.config.stages, reductions, strict=True)
        return {
            "window": self.config.window,
            "stages": [
                {"patch_size": config.patch_size, "reduction": reduction, **stage}
                for stage, config, reduction in stages
            ],
        }


def _patch_embed(*, grid: int, patch_size: int, inputs: Size, outputs: Size) -> Operations:
    return (
        Convolution(
            name="conv",
            positions_in=(grid * patch_size) ** 2,
            positions_out=grid**2,
            inputs=inputs,
            outputs=outputs,
            kernel=patch_size**2,
        ),
        Norm(name="norm", tokens=grid**2, channels=outputs, traits=PIXELS),
    )


def _local_attention(*, times: Size, embed: Size, grid: int, heads: Size, width: Size, window: int) -> Operations:
    """Return attention within windows; a grid that they do not divide is padded with zeros."""
    windows, area = -(-grid // window), window**2
    tokens = windows**2 * area
    return (
        Linear(name="local_qkv", times=times, tokens=tokens, inputs=embed, outputs=3 * width),
        Attention(
            name="local_attention",
            times=times,
            heads=heads,
            queries=area,
            keys=area,
            width=width,
            windows=windows**2,
        ),
    )


def _global_attention(*, times: Size, embed: Size, grid: int, heads: Size, width: Size, reduction: int) -> Operations:
    """Return attention of all tokens to keys and values on a grid that is coarser by `reduction`."""
    keys = (grid // reduction) ** 2
    reduced = (
        Convolution(
            name="reduce",
            times=times,
            positions_in=grid**2,
            positions_out=keys,
            inputs=embed,
            outputs=embed,
            kernel=reduction**2,
        ),
        Norm(name="reduce_norm", times=times, tokens=keys, channels=embed, traits=PIXELS),
    )
    return (
        Linear(name="global_q", times=times, tokens=grid**2, inputs=embed, outputs=width),
        *(reduced if reduction > 1 else ()),
        Linear(name="global_kv", times=times, tokens=keys, inputs=embed, outputs=2 * width),
        Attention(
            name="global_attention",
            times=times,
            heads=heads,
            queries=grid**2,
            keys=keys,
            width=width,
        ),
    )


def _position(*, times: Size, tokens: int, embed: Size) -> Operations:
    """Return the positional convolution and its residual sum."""
    return (
        Convolution(
            name="position",
            times=times,
            positions_in=tokens,
            positions_out=tokens,
            inputs=embed,
            outputs=embed,
            kernel=9,
            groups=embed,
        ),
        residual("add_position", times=times, elements=tokens * embed, traits=PIXELS),
    )


def _template(
    widest: Sequence[tuple[int, int, int]], *, heads: Sequence[tuple[int, ...]], slots: Sequence[int]
) -> TwinsConfig:
    """Return four stages at 224 pixels, with widths in tenths of the widest (embedding, qkv, MLP)."""
    stages = zip(widest, heads, slots, (4, 2, 2, 2), (8, 4, 2, 1), strict=True)
    return TwinsConfig(
        stages=tuple(
            TwinsStageConfig(
                embed_dims=tenths(embed),
                qkv_dims=tenths(qkv),
                hidden_dims=tenths(hidden),
                num_heads=num_heads,
                slots=count,
                patch_size=patch,
                reduction=reduction,
            )
            for (embed, qkv, hidden), num_heads, count, patch, reduction in stages
        )
    )


def _twins_svt(embed_dim: int, num_heads: int, depths: Sequence[int]) -> TwinsArch:
    """Return a published Twins-SVT, in which width and heads double from stage to stage."""
    return TwinsArch(
        stages=tuple(
            TwinsStage(
                embed_dim=width,
                blocks=(VitasBlock(num_heads=num_heads * 2**stage, qkv_dim=3 * width, hidden_dim=4 * width),) * depth,
            )
            for stage, depth in enumerate(depths)
            for width in (embed_dim * 2**stage,)
        )
    )


SMALL = Twins(
    name="vitas-twins-small",
    config=_template(
        ((128, 480, 512), (256, 960, 1024), (512, 1920, 2048), (1024, 3840, 4096)),
        heads=((2, 4, 8), (2, 4, 8), (4, 8, 16), (8, 16, 32)),
        slots=(4, 4, 12, 6),
    ),
    published={"Twins-SVT-S": _twins_svt(64, 2, (2, 2, 10, 4))},
)
"""A space around Twins-SVT-S."""

BASE = Twins(
    name="vitas-twins-base",
    config=_template(
        ((192, 720, 768), (384, 1440, 1536), (768, 2880, 3072), (1536, 5760, 6144)),
        heads=((3, 6, 12), (3, 6, 12), (6, 12, 24), (12, 24, 48)),
        slots=(4, 4, 20, 4),
    ),
    published={"Twins-SVT-B": _twins_svt(96, 3, (2, 2, 18, 2))},
)
"""A space around Twins-SVT-B."""

MICRO = Twins(
    name="vitas-twins-micro",
    config=TwinsConfig(
        image_size=32,
        num_classes=10,
        window=4,
        stages=tuple(
            TwinsStageConfig(
                embed_dims=embed_dims,
                num_heads=(1, 2, 4),
                qkv_dims=qkv_dims,
                hidden_dims=hidden_dims,
                slots=slots,
                patch_size=patch_size,
                reduction=reduction,
            )
            for embed_dims, qkv_dims, hidden_dims, slots, patch_size, reduction in (
                ((8, 16, 24), (12, 24, 48), (16, 48), 2, 4, 4),
                ((24, 36, 48), (24, 48, 96), (16, 48, 96), 3, 2, 2),
                ((48, 64, 80), (24, 48, 96), (16, 64, 128), 2, 2, 1),
            )
        ),
    ),
)
"""A space for tests and the demo: its supernet trains on 32-pixel images in about a minute on two cores."""


def _mini(image_size: int) -> Twins:
    return Twins(
        name=f"vitas-twins-mini-{image_size}",
        config=TwinsConfig(
            image_size=image_size,
            num_classes=10,
            window=4,
            stages=tuple(
                TwinsStageConfig(
                    embed_dims=embed_dims,
                    num_heads=num_heads,
                    qkv_dims=tuple(3 * width for width in embed_dims),
                    hidden_dims=tuple(ratio * embed_dims[1] for ratio in (1, 2, 4)),
                    slots=slots,
                    patch_size=patch_size,
                    reduction=reduction,
                )
                for embed_dims, num_heads, slots, patch_size, reduction in (
                    ((32, 48, 64), (1, 2), 2, image_size // 16, 4),
                    ((64, 96, 128), (2, 4), 3, 2, 2),
                    ((128, 160, 192), (4, 8), 2, 2, 1),
                )
            ),
        ),
    )


MINI = tuple(_mini(image_size) for image_size in MINI_SIZES)
"""Spaces for small sets of small images: grids of 16, 8 and 4 patches at every size."""

SPACES = (SMALL, BASE, MICRO, *MINI)
