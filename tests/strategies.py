"""Spaces and genomes for property tests.

`TINY` holds spaces of every family and form that are so small that all their genomes can be listed; their choices are
picked to be awkward (gaps in the depths, removable first slots, sizes that floor, one choice only).
A population is drawn as a seed and a few edits, which stays fast for a hundred genes and still shrinks to few edits.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwnas.space import SPACES
from hwnas.space.autoformer import AutoFormer, AutoFormerConfig
from hwnas.space.elastic import Elastic, ElasticConfig
from hwnas.space.glit import Glit, GlitConfig
from hwnas.space.resnas import ResNas, ResNasConfig, ResNasStageConfig
from hwnas.space.space import AnySpace, Space
from hwnas.space.vitas import Vitas, VitasConfig
from hwnas.space.vitas_twins import Twins, TwinsConfig, TwinsStageConfig

Rows = NDArray[Any]

_VITAS: dict[str, Any] = {
    "image_size": 30,
    "channels": 1,
    "num_classes": 3,
    "patch_sizes": (8, 4),
    "embed_dims": (6, 9),
    "num_heads": (1, 2),
    "qkv_dims": (6, 12),
    "hidden_dims": (4, 8),
    "slots": 3,
}
_GLIT: dict[str, Any] = {
    "image_size": 16,
    "num_classes": 3,
    "embed_dim": 12,
    "num_heads": 3,
    "depth": 2,
    "patch_size": 4,
    "value_ratios": (0.5, 1.0),
    "expansions": (1, 2),
    "kernel_sizes": (2, 3, 5),
    "mlp_ratios": (1, 2),
    "fixed_kernel_size": 3,
    "fixed_mlp_ratio": 2,
}


def _resnas_stage(**changes: Any) -> ResNasStageConfig:
    values: dict[str, Any] = {
        "embed_dims": (8,),
        "num_heads": (1, 2),
        "head_dim": 4,
        "hidden_dims": (6, 10),
        "slots": 1,
        "removable": (),
    }
    return ResNasStageConfig(**{**values, **changes})


def _twins_stage(**changes: Any) -> TwinsStageConfig:
    values: dict[str, Any] = {
        "embed_dims": (4, 6),
        "num_heads": (1, 2),
        "qkv_dims": (6, 12),
        "hidden_dims": (5, 8),
        "slots": 2,
        "patch_size": 2,
        "reduction": 2,
    }
    return TwinsStageConfig(**{**values, **changes})


def repeats_a_mini_space(name: str) -> bool:
    """The mini spaces of a family differ in the size of images and patches alone: that of 96 pixels is tested."""
    return name.endswith(("-mini-64", "-mini-128"))


TINY: tuple[AnySpace, ...] = (
    Elastic(
        name="tiny-elastic",
        config=ElasticConfig(
            image_size=9,
            num_classes=3,
            patch_size=4,
            embed_dim=6,
            depth=3,
            head_dim=2,
            num_heads=(0, 1, 3),
            hidden_dims=(0, 5, 8),
        ),
    ),
    Elastic(
        name="tiny-elastic-inputs",
        config=ElasticConfig(
            image_size=12,
            num_classes=2,
            patch_size=2,
            image_sizes=(6, 8, 12),
            patch_sizes=(2, 3, 4),
            embed_dim=4,
            depth=2,
            head_dim=2,
            num_heads=(0, 1, 2),
            hidden_dims=(0, 3),
        ),
    ),
    Elastic(
        name="tiny-elastic-rotary",
        config=ElasticConfig(
            image_size=8,
            channels=1,
            num_classes=2,
            patch_size=4,
            embed_dim=8,
            depth=4,
            head_dim=4,
            num_heads=(1, 2),
            hidden_dims=(0, 3),
            prefix_tokens=3,
            positions="none",
            rotary="centered",
            activation="swiglu",
            attention_scale=True,
            mlp_scale=True,
            qkv_bias=False,
            pooling="attention",
            pool_heads=2,
            pool_hidden_dim=5,
        ),
    ),
    AutoFormer(
        name="tiny-autoformer",
        config=AutoFormerConfig(
            image_size=15,
            channels=2,
            num_classes=3,
            patch_size=5,
            head_dim=4,
            relative_clip=1,
            embed_dims=(6, 9),
            depths=(1, 3),
            num_heads=(1, 2),
            mlp_ratios=(0.5, 1.0),
        ),
    ),
    AutoFormer(
        name="tiny-autoformer-plain",
        config=AutoFormerConfig(
            image_size=8,
            num_classes=2,
            patch_size=4,
            head_dim=3,
            relative_clip=None,
            pooling="token",
            embed_dims=(5, 6, 7),
            depths=(2,),
            num_heads=(3,),
            mlp_ratios=(1.0, 2.5),
        ),
    ),
    ResNas(
        name="tiny-resnas",
        config=ResNasConfig(
            image_size=16,
            num_classes=3,
            stem_channels=5,
            patch_size=2,
            stages=(
                _resnas_stage(embed_dims=(6, 8)),
                _resnas_stage(slots=3, removable=(0, 2), hidden_dims=(6,)),
            ),
        ),
    ),
    ResNas(
        name="tiny-resnas-fixed",
        config=ResNasConfig(image_size=12, num_classes=3, patch_size=3, stages=(_resnas_stage(slots=2),)),
    ),
    Vitas(name="tiny-vitas-anywhere", config=VitasConfig(**_VITAS, identity="anywhere")),
    Vitas(name="tiny-vitas-last", config=VitasConfig(**_VITAS, identity="last")),
    Vitas(name="tiny-vitas-none", config=VitasConfig(**_VITAS, identity="none")),
    Twins(
        name="tiny-twins",
        config=TwinsConfig(
            image_size=20,
            num_classes=3,
            window=4,
            stages=(_twins_stage(), _twins_stage(embed_dims=(8,), slots=1, hidden_dims=(7,), reduction=1)),
        ),
    ),
    Glit(name="tiny-glit-coded", config=GlitConfig(**_GLIT, form="coded")),
    Glit(name="tiny-glit-paper", config=GlitConfig(**_GLIT, form="paper")),
)

NAMED: tuple[AnySpace, ...] = tuple(space for space in SPACES.values() if not repeats_a_mini_space(space.name))

_WILD = st.integers(-3, 20) | st.integers(-(2**63), 2**63 - 1)


def space_id(value: object) -> str | None:
    """How pytest names a parameter that is a space."""
    return value.name if isinstance(value, Space) else None


def changed(space: AnySpace, **changes: Any) -> AnySpace:
    """The space with other values in its config."""
    return replace(space, config=replace(space.config, **changes))


def counts(space: AnySpace) -> Rows:
    """The number of choices of each dimension."""
    return np.array([len(dimension.choices) for dimension in space.dimensions])


def all_genomes(space: AnySpace) -> Rows:
    """Every row of indices in range, networks of the space or not."""
    axes = np.meshgrid(*(np.arange(count) for count in counts(space)), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


@st.composite
def populations(draw: st.DrawFn, space: AnySpace, *, max_rows: int = 5) -> Rows:
    """Networks of the space, mostly not canonical."""
    rows = _in_range(draw, space, max_rows)
    outside = ~space.contains(rows)
    rows[outside] = space.repair(rows[outside])
    return rows


@st.composite
def wild_populations(draw: st.DrawFn, space: AnySpace, *, max_rows: int = 5) -> Rows:
    """Rows of integers, some of them far out of range."""
    rows = _in_range(draw, space, max_rows)
    cell = st.tuples(st.integers(0, len(rows) - 1), st.integers(0, rows.shape[1] - 1), _WILD)
    for row, column, value in draw(st.lists(cell, max_size=12)):
        rows[row, column] = value
    return rows


def _in_range(draw: st.DrawFn, space: AnySpace, max_rows: int) -> Rows:
    kinds = draw(st.lists(st.sampled_from(["uniform", "ends", "first", "last"]), min_size=1, max_size=max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.stack([_row(kind, counts(space), rng) for kind in kinds])


def _row(kind: str, choices: Rows, rng: np.random.Generator) -> Rows:
    if kind == "ends":
        return np.where(rng.integers(0, 2, len(choices)) == 1, choices - 1, 0)
    if kind == "uniform":
        return rng.integers(0, choices)
    return choices - 1 if kind == "last" else np.zeros_like(choices)
