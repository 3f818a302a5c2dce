"""ViTAS based on DeiT (Su et al. 2021, arXiv 2106.13700, first version): plain ViTs of many widths.

Patch size and embedding width are chosen per network. Each slot is an identity, or a block with its own number of
heads, total width of q, k and v, and MLP width.

In the published space, identities may be in any slot, so that one network has many genomes. In a `-shifted` space they
can only occupy the last slots (the paper's identity shifting) and are chosen as a depth. A published name there means
the shifted network, which has the same costs. The published base space has no identities; its shifted form, which adds
them, is an addition of hwnas.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block, per_network
from hwnas.space.layers import attention_branch, head, mlp_branch, patch_stem
from hwnas.space.space import (
    Costs,
    GenomeReader,
    Genomes,
    GenomeWriter,
    Mask,
    Space,
    SpaceConfig,
    require_choices,
    require_head_widths,
    require_length,
    require_patches,
    require_sizes,
)
from hwnas.space.task_head import MapSizes
from hwnas.workload import Segment, Size

IDENTITY = 0
"""Number of heads that marks a slot without a block."""


@dataclass(frozen=True, kw_only=True)
class VitasBlock:
    """A block: attention with `num_heads` heads and `qkv_dim` channels of q, k and v in total, then an MLP."""

    num_heads: int
    qkv_dim: int
    hidden_dim: int


@dataclass(frozen=True, kw_only=True)
class VitasArch(Arch):
    """A network: patch size, embedding width and slots, None for an identity."""

    patch_size: int
    embed_dim: int
    blocks: tuple[VitasBlock | None, ...]


@dataclass(frozen=True, kw_only=True)
class VitasConfig(SpaceConfig):
    """Choices of a ViTAS space based on DeiT."""

    patch_sizes: tuple[int, ...]
    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    qkv_dims: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    slots: int
    identity: Literal["anywhere", "last", "none"] = "last"
    """Slots that may be identities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "slots")
        require_choices(self, "patch_sizes", ordered=False)
        require_choices(self, "embed_dims", "num_heads", "qkv_dims", "hidden_dims")
        require_patches(self.image_size, max(self.patch_sizes))
        require_head_widths(self.qkv_dims, self.num_heads)


class Vitas(Space[VitasConfig, VitasArch]):
    """A space of ViTAS networks based on DeiT."""

    family = "vitas"
    config_type = VitasConfig
    arch_type = VitasArch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Patch size, width, depth if identities are last; heads, qkv and MLP width of each slot."""
        config = self.config
        depth = [per_network("depth", range(1, config.slots + 1))] if config.identity == "last" else []
        heads = (*config.num_heads, IDENTITY) if config.identity == "anywhere" else config.num_heads
        return (
            per_network("patch_size", config.patch_sizes, kind="categorical"),
            per_network("embed_dim", config.embed_dims),
            *depth,
            *per_block("num_heads", heads, blocks=config.slots, kind="categorical"),
            *per_block("qkv_dim", config.qkv_dims, blocks=config.slots),
            *per_block("hidden_dim", config.hidden_dims, blocks=config.slots),
        )

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        config = self.config
        per_slot = len(config.num_heads) * len(config.qkv_dims) * len(config.hidden_dims)
        blocks: dict[str, int] = {
            "anywhere": (per_slot + 1) ** config.slots - 1,
            "last": sum(per_slot**depth for depth in range(1, config.slots + 1)),
            "none": per_slot**config.slots,
        }
        return len(config.patch_sizes) * len(config.embed_dims) * blocks[config.identity]

    def official(self, genomes: ArrayLike) -> Costs:
        """Count as the released code does: without the class token, and with the head on every patch."""
        rows = self.canonical(genomes)
        embed, present, width, hidden = self._sizes(rows)
        patch = self.values(rows, "patch_size")
        patches = (self.config.image_size // patch) ** 2
        blocks = 4 * patches * embed * width + 2 * patches**2 * width + 2 * patches * embed * hidden
        stem = self.config.channels * patches * patch**2 * embed
        classifier = patches * embed * self.config.num_classes
        macs = (stem + classifier)[:, 0] + (blocks * present).sum(axis=1)
        return Costs(params=self.costs(rows).params, macs=macs)

    def _used(self, genomes: Genomes) -> Mask:
        # With identities anywhere, a slot's number of heads tells whether it has a block, and is always used.
        present = self._present(genomes)
        always = self.columns("num_heads").start + (0 if self._has_depth else self.config.slots)
        parts = [present] * (3 if self._has_depth else 2)
        return np.concatenate([np.ones((len(genomes), always), dtype=np.bool_), *parts], axis=1)

    @property
    def _has_depth(self) -> bool:
        return self.config.identity == "last"

    def _present(self, genomes: Genomes) -> Mask:
        if self._has_depth:
            return np.asarray(self.values(genomes, "depth") > np.arange(self.config.slots))
        return np.asarray(self.values(genomes, "num_heads") != IDENTITY)

    def _has_block(self, genomes: Genomes) -> Mask:
        return np.asarray(self._present(genomes).any(axis=1))

    def _give_block(self, genomes: Genomes) -> Genomes:
        # A network of identities gets a block in its first slot, with the first choice of heads.
        given = genomes.copy()
        given[~self._has_block(genomes), self.columns("num_heads").start] = 0
        return given

    def _sizes(self, genomes: Genomes) -> tuple[Size, Size, Size, Size]:
        """Return the embedding width (rows, 1), and per slot: presence, width of each of q, k and v, MLP width."""
        width = self.values(genomes, "qkv_dim") // 3
        return self.values(genomes, "embed_dim"), self._present(genomes), width, self.values(genomes, "hidden_dim")

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        config = self.config
        embed, present, width, hidden = self._sizes(genomes)
        patch = self.values(genomes, "patch_size")
        heads = self.values(genomes, "num_heads")
        tokens = (config.image_size // patch) ** 2 + 1
        stem = patch_stem(image_size=config.image_size, channels=config.channels, patch_size=patch, embed=embed)
        block = (
            *attention_branch(times=present, tokens=tokens, embed=embed, heads=heads, width=width),
            *mlp_branch(times=present, tokens=tokens, embed=embed, hidden=hidden),
        )
        end = head(tokens=tokens, embed=embed, num_classes=config.num_classes)
        return (Segment("stem", stem), Segment("blocks", block, slots=config.slots), Segment("head", end))

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        side = self.config.image_size // self.values(genomes, "patch_size")
        return (MapSizes(side=side, channels=self.values(genomes, "embed_dim")),)

    def _decode(self, reader: GenomeReader) -> VitasArch:
        triples = zip(reader.values("num_heads"), reader.values("qkv_dim"), reader.values("hidden_dim"), strict=True)
        slots = (
            None if qkv is None else VitasBlock(num_heads=heads, qkv_dim=qkv, hidden_dim=hidden)
            for heads, qkv, hidden in triples
        )
        blocks = tuple(slot for slot in slots if slot is not None or not self._has_depth)
        return VitasArch(patch_size=reader.value("patch_size"), embed_dim=reader.value("embed_dim"), blocks=blocks)

    def _encode(self, arch: VitasArch, writer: GenomeWriter) -> None:
        slots = self.config.slots
        require_length("blocks", len(arch.blocks), range(1, slots + 1) if self._has_depth else [slots])
        writer.put("patch_size", arch.patch_size, field="patch_size")
        writer.put("embed_dim", arch.embed_dim, field="embed_dim")
        if self._has_depth:
            writer.put("depth", len(arch.blocks), field="blocks")
        if not any(arch.blocks):
            raise InputError("blocks must hold at least one block that is not an identity", got="none")
        for index, block in enumerate(arch.blocks):
            self._encode_slot(block, writer, field=f"blocks[{index}]", index=index)

    def _encode_slot(self, block: VitasBlock | None, writer: GenomeWriter, *, field: str, index: int) -> None:
        if block is None:
            if self.config.identity != "anywhere":
                raise InputError(f"{field} cannot be an identity in {self.name}", got="null")
            writer.put("num_heads", IDENTITY, field=field, index=index)
            return
        if block.num_heads not in self.config.num_heads:
            known = self.config.num_heads
            message = f"{field}.num_heads of a network of {self.name} must be one of its choices"
            raise InputError(message, got=block.num_heads, known=known)
        for name in ("num_heads", "qkv_dim", "hidden_dim"):
            writer.put(name, getattr(block, name), field=f"{field}.{name}", index=index)

    def _structure(self, arch: VitasArch) -> dict[str, Any]:
        live = [block for block in arch.blocks if block is not None]
        return {
            "patch_size": arch.patch_size,
            "embed_dim": arch.embed_dim,
            "blocks": [
                {"num_heads": block.num_heads, "qkv_dim": block.qkv_dim, "hidden_dim": block.hidden_dim}
                for block in live
            ],
        }


def tenths(widest: int) -> tuple[int, ...]:
    """Return the ten widths of a ViTAS dimension: tenths of the widest, rounded."""
    return tuple(round(widest * tenth / 10) for tenth in range(1, 11))


def _published(embed_dim: int, blocks: str) -> VitasArch:
    """Return a published network of patch size 16; blocks are written heads:qkv:mlp, identities '-'."""
    slots: list[VitasBlock | None] = []
    for text in blocks.split():
        if text == "-":
            slots.append(None)
        else:
            heads, qkv, hidden = map(int, text.split(":"))
            slots.append(VitasBlock(num_heads=heads, qkv_dim=qkv, hidden_dim=hidden))
    return VitasArch(patch_size=16, embed_dim=embed_dim, blocks=tuple(slots))


def _shifted(space: Vitas) -> Vitas:
    """Return the same space with identities only at the end, and its published networks in that form."""
    return Vitas(
        name=f"{space.name}-shifted",
        config=replace(space.config, identity="last"),
        published={
            name: replace(arch, blocks=tuple(block for block in arch.blocks if block is not None))
            for name, arch in space.published.items()
        },
    )


DEIT_SMALL = Vitas(
    name="vitas-deit-small",
    config=VitasConfig(
        patch_sizes=(14, 16, 32),
        embed_dims=tenths(384),
        num_heads=(3, 6, 12, 16),
        qkv_dims=tenths(1440),
        hidden_dims=tenths(1440),
        slots=16,
        identity="anywhere",
    ),
    published={
        "ViTAS-A": _published(
            154,
            "12:288:1008 - 16:720:576 - - 6:288:1296 16:1008:720 - 16:1152:1008 - - - - 16:864:1152 16:1440:1296 -",
        ),
        "ViTAS-B": _published(
            192,
            "16:288:864 - - 16:432:576 - 16:432:1008 - - "
            "12:1152:864 12:1008:720 - 12:864:576 16:432:1296 - - 6:864:864",
        ),
        "ViTAS-C": _published(230, "3:432:720 " * 12 + "- " * 4),
        "ViTAS-E": _published(
            346,
            "16:720:720 - 16:1008:864 - 16:864:1008 6:864:1008 - 3:576:720 - "
            "12:1296:1296 6:1296:1152 12:720:144 - 12:1440:864 6:576:1008 12:1152:1296",
        ),
    },
)
"""The small space as published; ViTAS-C has 12 consecutive blocks, so that the last four slots are identities."""

DEIT_BASE = Vitas(
    name="vitas-deit-base",
    config=VitasConfig(
        patch_sizes=(14, 16, 32),
        embed_dims=tenths(768),
        num_heads=(3, 6, 12, 16),
        qkv_dims=tenths(2880),
        hidden_dims=tenths(2880),
        slots=13,
        identity="none",
    ),
    published={
        "ViTAS-F": _published(
            307,
            "16:864:1728 16:288:2304 16:1728:864 16:1152:2016 16:2016:864 16:1440:1440 16:2592:2304 "
            "16:1440:2016 16:2304:864 16:2016:576 16:2016:2016 16:1440:2304 16:1728:2304",
        )
    },
)
"""The base space as published: 13 blocks without identities."""

DEIT_SMALL_SHIFTED = _shifted(DEIT_SMALL)
"""The small space with identity shifting, which is recommended for search."""

DEIT_BASE_SHIFTED = _shifted(DEIT_BASE)
"""The base space with identities in the last slots, an addition of hwnas."""

MICRO = Vitas(
    name="vitas-micro",
    config=VitasConfig(
        image_size=32,
        num_classes=10,
        patch_sizes=(8,),
        embed_dims=(48, 60, 72, 84),
        num_heads=(1, 2, 4),
        qkv_dims=(48, 96, 144),
        hidden_dims=(96, 144, 192),
        slots=4,
    ),
)
"""A space for tests and the demo: its supernet trains on 32-pixel images in about a minute on two cores.

It has one patch size: a supernet with patch sizes 4, 8 and 16, which share all weights but their stems, learnt nothing
in that time.
"""

SPACES = (DEIT_SMALL, DEIT_SMALL_SHIFTED, DEIT_BASE, DEIT_BASE_SHIFTED, MICRO)
