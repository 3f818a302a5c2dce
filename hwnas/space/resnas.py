"""ViT-ResNAS (Liao et al. 2021, arXiv 2109.00642): three-stage ViTs with residual spatial reduction.

A convolutional stem is followed by stages of pre-norm blocks, each with its own head width. Between two stages a
strided convolution halves the grid and widens the embedding, in parallel to an average-pooled and zero-padded skip. One
class token passes through all stages. The embedding width is chosen per stage; heads, MLP width and, for some blocks,
existence are chosen per block.

The published networks omit the last removable blocks of their stages. ViT-ResNAS-M was searched in the small space.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block_of_stages, per_stage
from hwnas.space.layers import PIXELS, RESIDUAL, Operations, attention_branch, head, mlp_branch, position, residual
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
    require_positive,
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.workload import Convolution, Elementwise, Linear, Norm, Pool, Segment, Size, Table

_OFFICIAL_STEM_POSITIONS = 112**2


@dataclass(frozen=True, kw_only=True)
class ResNasBlock:
    """A block: attention with `num_heads` heads, then an MLP of width `hidden_dim`."""

    num_heads: int
    hidden_dim: int


@dataclass(frozen=True, kw_only=True)
class ResNasStage:
    """A stage: its embedding width and its slots, None for a slot without a block."""

    embed_dim: int
    blocks: tuple[ResNasBlock | None, ...]


@dataclass(frozen=True, kw_only=True)
class ResNasArch(Arch):
    """A network: its stages."""

    stages: tuple[ResNasStage, ...]


@dataclass(frozen=True, kw_only=True)
class ResNasStageConfig:
    """Choices of one stage with `slots` blocks, of which those at `removable` (from 0) are optional."""

    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    head_dim: int
    hidden_dims: tuple[int, ...]
    slots: int
    removable: tuple[int, ...] = (1, 3, 5)

    def __post_init__(self) -> None:
        require_sizes(self, "head_dim", "slots")
        require_choices(self, "embed_dims", "num_heads", "hidden_dims")
        named = set(self.removable)
        if len(named) < len(self.removable) or not named < set(range(self.slots)):
            raise InputError("removable must name slots once and leave one block in the stage", got=self.removable)


@dataclass(frozen=True, kw_only=True)
class ResNasConfig(SpaceConfig):
    """Choices of the stages of a ViT-ResNAS space, and its stem."""

    stages: tuple[ResNasStageConfig, ...]
    stem_channels: int = 24
    patch_size: int = 7
    """Kernel and stride of the stem's last convolution, on a grid of half the image size."""
    distillation: bool | None = None
    """Add a second token with a classifier of its own, which learns a teacher's labels in training (DeiT); a trained
    network answers with the mean of both classifiers. None: no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "stem_channels", "patch_size")
        require_positive("the number of stages", len(self.stages))
        require_multiple("image_size", self.image_size, 2 * self.patch_size, "stem stride")
        for grid in self.grids[:-1]:
            require_multiple("the grid before a spatial reduction", grid, 2, "it is halved")
        for before, after in pairwise(self.stages):
            if max(before.embed_dims) > min(after.embed_dims):
                raise InputError("a stage must be at least as wide as the one before", got=after.embed_dims)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of those of the patches."""
        return 2 if self.distillation else 1

    @property
    def grids(self) -> tuple[int, ...]:
        """Patches along one side of the image, in each stage."""
        first = self.image_size // 2 // self.patch_size
        return tuple(first // 2**stage for stage in range(len(self.stages)))


class ResNas(Space[ResNasConfig, ResNasArch]):
    """A space of ViT-ResNAS networks."""

    family = "resnas"
    config_type = ResNasConfig
    arch_type = ResNasArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Width of each stage; existence of each removable slot; heads and MLP width of each slot."""
        stages = self.config.stages
        slots = [stage.slots for stage in stages]
        return (
            *per_stage("embed_dim", [stage.embed_dims for stage in stages]),
            *(
                Dimension(name="exists", kind="ordinal", choices=(0, 1), stage=number, block=slot)
                for number, stage in enumerate(stages)
                for slot in stage.removable
            ),
            *per_block_of_stages("num_heads", [stage.num_heads for stage in stages], slots=slots),
            *per_block_of_stages("hidden_dim", [stage.hidden_dims for stage in stages], slots=slots),
        )

    @cached_property
    def _removable(self) -> tuple[int, ...]:
        """Removable slots, counted across all stages."""
        starts = accumulate((stage.slots for stage in self.config.stages), initial=0)
        return tuple(
            start + slot for start, stage in zip(starts, self.config.stages, strict=False) for slot in stage.removable
        )

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        size = 1
        for stage in self.config.stages:
            per_slot, removable = len(stage.num_heads) * len(stage.hidden_dims), len(stage.removable)
            size *= len(stage.embed_dims) * (per_slot + 1) ** removable * per_slot ** (stage.slots - removable)
        return size

    def official(self, genomes: ArrayLike) -> Costs:
        """Count as the released estimator does: with the patch head of training, and the stem at 224 pixels."""
        rows = self.canonical(genomes)
        costs = self.costs(rows)
        last = self.values(rows, "embed_dim")[:, -1]
        channels, mid = self.config.channels, self.config.stem_channels
        macs_per_position = 9 * channels * mid + 2 * 9 * mid * mid
        stem_macs = macs_per_position * (_OFFICIAL_STEM_POSITIONS - (self.config.image_size // 2) ** 2)
        return Costs(params=costs.params + (last + 1) * self.config.num_classes, macs=costs.macs + stem_macs)

    def _used(self, genomes: Genomes) -> Mask:
        stages = np.ones((len(genomes), len(self.config.stages)), dtype=np.bool_)
        present = self._present(genomes)
        exists = np.ones((len(genomes), len(self._removable)), dtype=np.bool_)
        return np.concatenate([stages, exists, present, present], axis=1)

    def _present(self, genomes: Genomes) -> Mask:
        present = np.ones((len(genomes), sum(stage.slots for stage in self.config.stages)), dtype=np.bool_)
        if self._removable:
            present[:, self._removable] = self.values(genomes, "exists")
        return present

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        embeds = self.values(genomes, "embed_dim")
        columns = [embeds[:, stage : stage + 1] for stage in range(embeds.shape[1])]
        segments = [Segment("stem", self._stem(columns[0]))]
        for stage, blocks in enumerate(self._blocks(genomes, columns)):
            if stage:
                reduction = self._reduction(stage, columns[stage - 1], columns[stage])
                segments.append(Segment(f"reductions.{stage - 1}", reduction))
            segments.append(Segment(f"stages.{stage}", blocks, slots=self.config.stages[stage].slots))
        return (*segments, Segment("head", self._head(columns[-1])))

    def _head(self, embed: Size) -> Operations:
        config = self.config
        operations = head(
            tokens=config.grids[-1] ** 2 + config.prefix_tokens, embed=embed, num_classes=config.num_classes
        )
        if not config.distillation:
            return operations
        classes = config.num_classes
        return (
            *operations,
            Linear(name="distillation_classifier", tokens=1, inputs=embed, outputs=classes),
            Elementwise(name="mean", variant="add", elements=classes, operands=2),
        )

    def _stem(self, embed: Size) -> Operations:
        config = self.config
        mid, pixels, patches = config.stem_channels, (config.image_size // 2) ** 2, config.grids[0] ** 2
        return (
            *_conv_norm(
                "conv1",
                positions_in=config.image_size**2,
                positions=pixels,
                inputs=config.channels,
                outputs=mid,
            ),
            *_conv_norm("conv2", positions_in=pixels, positions=pixels, inputs=mid, outputs=mid),
            *_conv_norm("conv3", positions_in=pixels, positions=pixels, inputs=mid, outputs=mid),
            Elementwise(name="add", variant="add", elements=pixels * mid, operands=2),
            Convolution(
                name="patch_embed",
                positions_in=pixels,
                positions_out=patches,
                inputs=mid,
                outputs=embed,
                kernel=config.patch_size**2,
            ),
            Table(name="class_token", elements=config.prefix_tokens * embed),
            *position("position", (patches + config.prefix_tokens) * embed),
        )

    def _reduction(self, stage: int, inputs: Size, outputs: Size) -> Operations:
        before, after = (self.config.grids[index] ** 2 for index in (stage - 1, stage))
        prefix = self.config.prefix_tokens
        return (
            Norm(name="norm", tokens=before + prefix, channels=inputs, traits=RESIDUAL),
            Convolution(
                name="conv",
                positions_in=before,
                positions_out=after,
                inputs=inputs,
                outputs=outputs,
                kernel=9,
            ),
            *position("position", after * outputs, traits=PIXELS + RESIDUAL),
            Pool(name="skip", positions_in=before, positions_out=after, channels=inputs),
            Linear(name="class_token", tokens=prefix, inputs=inputs, outputs=outputs),
            residual("add", times=1, elements=(after + prefix) * outputs),
        )

    def _blocks(self, genomes: Genomes, embeds: list[Size]) -> Iterator[Operations]:
        present, heads = self._present(genomes), self.values(genomes, "num_heads")
        hidden = self.values(genomes, "hidden_dim")
        start = 0
        for stage, grid, embed in zip(self.config.stages, self.config.grids, embeds, strict=True):
            slots = slice(start, start := start + stage.slots)
            width = heads[:, slots] * stage.head_dim
            tokens, times = grid**2 + self.config.prefix_tokens, present[:, slots]
            yield (
                *attention_branch(times=times, tokens=tokens, embed=embed, heads=heads[:, slots], width=width),
                *mlp_branch(times=times, tokens=tokens, embed=embed, hidden=hidden[:, slots]),
            )

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        embeds = self.values(genomes, "embed_dim")
        return tuple(
            MapSizes(side=side, channels=embeds[:, stage : stage + 1]) for stage, side in enumerate(self.config.grids)
        )

    def _decode(self, reader: GenomeReader) -> ResNasArch:
        blocks = (
            None if heads is None else ResNasBlock(num_heads=heads, hidden_dim=hidden)
            for heads, hidden in zip(reader.values("num_heads"), reader.values("hidden_dim"), strict=True)
        )
        stages = zip(self.config.stages, reader.values("embed_dim"), strict=True)
        return ResNasArch(
            stages=tuple(
                ResNasStage(embed_dim=embed, blocks=tuple(next(blocks) for _ in range(stage.slots)))
                for stage, embed in stages
            )
        )

    def _encode(self, arch: ResNasArch, writer: GenomeWriter) -> None:
        require_length("stages", len(arch.stages), [len(self.config.stages)])
        index = 0
        for number, (stage, config) in enumerate(zip(arch.stages, self.config.stages, strict=True)):
            require_length(f"stages[{number}].blocks", len(stage.blocks), [config.slots])
            writer.put("embed_dim", stage.embed_dim, field=f"stages[{number}].embed_dim", index=number)
            for slot, block in enumerate(stage.blocks):
                self._encode_slot(block, writer, field=f"stages[{number}].blocks[{slot}]", index=index)
                index += 1

    def _encode_slot(self, block: ResNasBlock | None, writer: GenomeWriter, *, field: str, index: int) -> None:
        if index in self._removable:
            writer.put("exists", int(block is not None), field=field, index=self._removable.index(index))
        elif block is None:
            raise InputError(f"{field} cannot be left out", got="null", known=["num_heads and hidden_dim"])
        if block is not None:
            writer.put("num_heads", block.num_heads, field=f"{field}.num_heads", index=index)
            writer.put("hidden_dim", block.hidden_dim, field=f"{field}.hidden_dim", index=index)

    def _structure(self, arch: ResNasArch) -> dict[str, Any]:
        stages = zip(arch.stages, self.config.stages, strict=True)
        return {
            "stem_channels": self.config.stem_channels,
            "patch_size": self.config.patch_size,
            **({"distillation": True} if self.config.distillation else {}),
            "stages": [
                {
                    "embed_dim": stage.embed_dim,
                    "head_dim": config.head_dim,
                    "blocks": [
                        {"num_heads": block.num_heads, "hidden_dim": block.hidden_dim}
                        for block in stage.blocks
                        if block is not None
                    ],
                }
                for stage, config in stages
            ],
        }


def _conv_norm(name: str, *, positions_in: int, positions: int, inputs: int, outputs: int) -> Operations:
    return (
        Convolution(
            name=name,
            positions_in=positions_in,
            positions_out=positions,
            inputs=inputs,
            outputs=outputs,
            kernel=9,
            bias=0,
        ),
        Norm(name=f"{name}_norm", variant="batch_norm", tokens=positions, channels=outputs),
        Elementwise(name=f"{name}_relu", variant="relu", elements=positions * outputs),
    )


def _stages(unit: int, *, heads: tuple[tuple[int, ...], ...], slots: int) -> tuple[ResNasStageConfig, ...]:
    """Return three stages, each twice as wide as the one before; `unit` is the step of MLP widths in the first."""
    return tuple(
        ResNasStageConfig(
            embed_dims=tuple(unit * step * 2**stage // 4 for step in (10, 11, 12, 14, 16)),
            num_heads=heads[stage],
            head_dim=(32, 48, 64)[stage],
            hidden_dims=tuple(unit * step * 2**stage for step in range(6, 13)),
            slots=slots,
        )
        for stage in range(3)
    )


def _stage(embed_dim: int, blocks: str, *, slots: int) -> ResNasStage:
    """Return a published stage, in which the last removable slots are empty."""
    # Blocks are written heads:mlp. A network with fewer blocks than slots lacks the last of slots 1, 3 and 5.
    pairs = [tuple(map(int, block.split(":"))) for block in blocks.split()]
    removed = {1, 3, 5} - set(sorted({1, 3, 5})[: 3 - (slots - len(pairs))])
    live = iter(ResNasBlock(num_heads=heads, hidden_dim=hidden) for heads, hidden in pairs)
    return ResNasStage(
        embed_dim=embed_dim, blocks=tuple(None if slot in removed else next(live) for slot in range(slots))
    )


TINY = ResNas(
    name="resnas-tiny",
    config=ResNasConfig(stages=_stages(64, heads=((3, 4, 5, 6), (6, 8, 10, 12), (6, 8, 10, 12)), slots=6)),
    published={
        "ViT-ResNAS-T": ResNasArch(
            stages=(
                _stage(176, "3:704 3:576 3:640 4:576 4:704", slots=6),
                _stage(352, "10:1408 8:1408 8:1280 8:1408 10:1280 10:1024", slots=6),
                _stage(704, "10:2560 10:1792 10:2816 8:2816 8:2560", slots=6),
            )
        )
    },
)
"""The tiny space, as in the code."""

SMALL = ResNas(
    name="resnas-small",
    config=ResNasConfig(stages=_stages(80, heads=((5, 6, 7, 8), (10, 12, 14, 16), (10, 12, 14, 16)), slots=7)),
    published={
        "ViT-ResNAS-S": ResNasArch(
            stages=(
                _stage(220, "5:880 5:880 7:800 5:720 5:720 5:720", slots=7),
                _stage(440, "10:1760 10:1440 10:1920 10:1600 12:1600 12:1440", slots=7),
                _stage(880, "16:3200 12:3200 16:2880 12:2240 14:2560", slots=7),
            )
        ),
        "ViT-ResNAS-M": ResNasArch(
            stages=(
                _stage(240, "7:960 6:960 7:800 8:960 7:880 8:880 6:800", slots=7),
                _stage(640, "10:1120 14:1760 14:1920 16:1760 14:1440 16:1760 16:1920", slots=7),
                _stage(880, "16:3200 10:3840 16:3840 12:3200 16:3520 14:3520", slots=7),
            )
        ),
    },
)
"""The small space, as in the code; the medium network was searched in it too."""

MICRO = ResNas(
    name="resnas-micro",
    config=ResNasConfig(
        image_size=32,
        num_classes=10,
        stem_channels=8,
        patch_size=2,
        stages=tuple(
            ResNasStageConfig(
                embed_dims=embed_dims,
                num_heads=(2, 3),
                head_dim=16,
                hidden_dims=hidden_dims,
                slots=2,
                removable=(1,),
            )
            for embed_dims, hidden_dims in (
                ((12, 20, 28), (16, 64)),
                ((28, 44, 60), (32, 128)),
                ((60, 84, 112), (64, 224)),
            )
        ),
    ),
)
"""A space for tests and the demo: its supernet trains on 32-pixel images in about a minute on two cores."""


def _mini(image_size: int) -> ResNas:
    return ResNas(
        name=f"resnas-mini-{image_size}",
        config=ResNasConfig(
            image_size=image_size,
            num_classes=10,
            stem_channels=16,
            patch_size=image_size // 32,
            stages=tuple(
                ResNasStageConfig(
                    embed_dims=embed_dims,
                    num_heads=num_heads,
                    head_dim=32,
                    hidden_dims=hidden_dims,
                    slots=slots,
                    removable=tuple(range(1, slots)),
                )
                for embed_dims, num_heads, hidden_dims, slots in (
                    ((32, 48, 64), (1, 2), (64, 128, 192), 2),
                    ((64, 96, 128), (2, 3, 4), (128, 256, 384), 3),
                    ((128, 160, 192), (4, 5, 6), (256, 384, 512), 2),
                )
            ),
        ),
    )


MINI = tuple(_mini(image_size) for image_size in MINI_SIZES)
"""Spaces for small sets of small images: grids of 16, 8 and 4 patches at every size."""

SPACES = (TINY, SMALL, MICRO, *MINI)

DISTILLED = "distilled-"
"""Beginning of the names of spaces whose networks have a distillation token."""


def distilled(space: AnySpace) -> ResNas:
    """Return the space of the same networks with a distillation token.

    Raises:
        InputError: The space is not of ViT-ResNAS, or has the token already.
    """
    if not isinstance(space, ResNas):
        message = "networks with a distillation token are those of ViT-ResNAS"
        raise InputError(message, got=space.name, hint=f"{DISTILLED}{TINY.name}")
    if space.config.distillation:
        message = "networks have one distillation token"
        raise InputError(message, got=f"{DISTILLED}{space.name}", hint=space.name)
    return ResNas(name=f"{DISTILLED}{space.name}", config=replace(space.config, distillation=True))
