"""Costs of random networks against the closed forms, at other resolutions too, and against themselves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.space import SPACES, autoformer, resnas
from hwnas.space.glit import Glit, GlitConfig
from hwnas.space.space import AnySpace
from tests.space.closed_forms import count
from tests.strategies import NAMED, TINY, changed, populations, space_id

_SIZES = {"resnas": (112, 168, 280), "vitas-twins": (96, 192, 256)}
_MINI_SIZES = {"resnas": (48, 144), "vitas-twins": (48, 192)}
_MICRO_SIZES = {"resnas": (16, 48), "vitas-twins": (16, 48)}


def _resized(space: AnySpace) -> list[AnySpace]:
    """The space at other image sizes, channels and classes; the sizes need not be multiples of the patch size."""
    micro = space.config.image_size < 224
    known = _MINI_SIZES if "-mini-" in space.name else _MICRO_SIZES if micro else _SIZES
    sizes = known.get(space.family, (40, 24) if micro else (96, 192, 250))
    configs = [replace(space.config, image_size=size) for size in sizes]
    configs += [replace(space.config, channels=1, num_classes=10), replace(space.config, channels=7, num_classes=1)]
    return [replace(space, config=config) for config in configs]


_ALL = [*NAMED, *TINY, *(other for space in NAMED for other in _resized(space))]


def _where(value: object) -> str | None:
    if (name := space_id(value)) is None:
        return None
    config = value.config  # type: ignore[attr-defined]
    return f"{name}-{config.image_size}px-{config.channels}-{config.num_classes}"


@pytest.mark.parametrize("space", _ALL, ids=_where)
def test_costs_and_workloads_follow_the_closed_form(space: AnySpace) -> None:
    genomes = space.sample(np.random.default_rng(7), 3)
    archs = (*space.decode(genomes), space.smallest(), space.largest())
    expected = [count(space, arch) for arch in archs]
    costs = space.costs(space.encode(archs))
    assert costs.params.tolist() == [row.params for row in expected]
    assert costs.macs.tolist() == [row.macs for row in expected]
    workloads = [space.workload(arch) for arch in archs]
    assert [workload.params for workload in workloads] == [row.params for row in expected]
    assert [workload.macs for workload in workloads] == [row.macs for row in expected]
    assert [workload.macs_relative for workload in workloads] == [row.macs_relative for row in expected]


def _counted(space: AnySpace) -> bool:
    """Not the AutoFormer spaces of the known bug below, nor odd grids, where the released counter has fractions."""
    return space.family != "autoformer" or (space.config.relative_clip == 14 and space.config.grid % 2 == 0)


@pytest.mark.parametrize("space", [space for space in _ALL if _counted(space)], ids=_where)
def test_official_costs_follow_the_released_counters(space: AnySpace) -> None:
    archs = space.decode(space.sample(np.random.default_rng(8), 5))
    expected = [count(space, arch) for arch in archs]
    official = space.official(space.encode(archs))
    if space.family in ("vitas-twins", "elastic"):
        assert official is None
        return
    assert official is not None
    assert official.params.tolist() == [row.official_params for row in expected]
    assert official.macs.tolist() == [row.official_macs for row in expected]


@pytest.mark.parametrize("clip", [None, 3])
def test_autoformers_counter_follows_the_clip(clip: int | None) -> None:
    """Without relative position the released code counts none of it (multihead_super.py, get_complexity)."""
    space = changed(autoformer.TINY, relative_clip=clip)
    arch = space.published["AutoFormer-T"]
    official = space.official(space.encode([arch]))
    assert official is not None
    assert official.macs.tolist() == [count(space, arch).official_macs]


@pytest.mark.parametrize("space", [*NAMED, *TINY], ids=space_id)
@given(data=st.data())
@settings(max_examples=6)
def test_a_population_costs_what_its_rows_cost(space: AnySpace, data: st.DataObject) -> None:
    rows = data.draw(populations(space))
    costs, workloads = space.costs(rows), space.workloads(rows)
    singly = [space.costs(row[np.newaxis]) for row in rows]
    assert costs.params.tolist() == workloads.params.tolist() == [int(one.params[0]) for one in singly]
    assert costs.macs.tolist() == workloads.macs.tolist() == [int(one.macs[0]) for one in singly]
    for index, arch in enumerate(space.decode(rows)):
        one = workloads.workload(index)
        assert one == space.workload(arch)
        assert (one.params, one.macs) == (costs.params[index], costs.macs[index])
        assert one.params == sum(row["params"] for row in one.rows())
        assert one.macs_executed == sum(row["macs"] for row in one.rows())


@pytest.mark.parametrize(
    "name", ["autoformer-tiny", "resnas-small", "vitas-deit-small", "vitas-twins-base", "glit-tiny"]
)
def test_a_population_of_many_chunks_costs_what_its_parts_cost(name: str) -> None:
    space = SPACES.get(name)
    rows = space.sample(np.random.default_rng(0), 2500)
    whole, reverse = space.costs(rows), space.costs(rows[::-1])
    parts = [space.costs(rows[start : start + 700]) for start in range(0, 2500, 700)]
    assert whole.macs.tolist() == np.concatenate([part.macs for part in parts]).tolist() == reverse.macs[::-1].tolist()
    assert whole.params.tolist() == np.concatenate([part.params for part in parts]).tolist()
    assert whole.macs.dtype == whole.params.dtype == np.int64


@pytest.mark.parametrize("space", [*NAMED, *TINY], ids=space_id)
def test_an_empty_population(space: AnySpace) -> None:
    none = np.zeros((0, len(space.dimensions)), dtype=np.int64)
    assert space.costs(none).params.tolist() == space.costs(none).macs.tolist() == []
    assert space.workloads(none).macs.tolist() == []
    assert space.decode(none) == ()
    assert space.encode([]).shape == space.canonical(none).shape == space.repair(none).shape == none.shape
    assert space.contains(none).tolist() == []
    assert [len(part) for part in space.neighbours(none)] == [0, 0]
    official = space.official(none)
    assert official is None or official.macs.tolist() == []


@pytest.mark.parametrize("space", [*NAMED, *TINY], ids=space_id)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint64])
def test_the_integer_type_and_the_layout_do_not_matter(space: AnySpace, dtype: Any) -> None:
    rows = space.sample(np.random.default_rng(1), 4)
    for other in (rows.astype(dtype), np.asfortranarray(rows.astype(dtype)), rows.tolist()):
        assert space.costs(other).macs.tolist() == space.costs(rows).macs.tolist()
        assert (space.canonical(other) == rows).all()
        assert (space.repair(other) == rows).all()


# Where counting has corners.


def test_resnas_without_its_removable_blocks_has_only_the_others() -> None:
    arch = resnas.MICRO.smallest()
    names = [row["name"] for row in resnas.MICRO.workload(arch).rows()]
    assert [stage.blocks[1] for stage in arch.stages] == [None, None, None]
    assert not any(name.startswith(f"stages.{stage}.1.") for name in names for stage in range(3))


def test_glit_widths_are_whole_heads() -> None:
    space = Glit(
        name="nine-heads", config=GlitConfig(embed_dim=90, num_heads=9, depth=1, value_ratios=(0.7,), form="paper")
    )
    arch = space.parse({"blocks": [{"groups": 3, "value_ratio": 0.7, "mlp_ratio": 4}]})
    (attention,) = [row["shape"] for row in space.workload(arch).rows() if row["kind"] == "attention"]
    assert attention["width"] == 63
