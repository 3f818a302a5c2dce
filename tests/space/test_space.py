"""The laws of every space: one suite, run on all named spaces and on the tiny ones."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.space import SPACES, autoformer, glit, resnas, vitas
from hwnas.space.space import AnySpace
from hwnas.workload import Workload
from tests.strategies import NAMED, TINY, Rows, changed, counts, populations, space_id, wild_populations

every_space = pytest.mark.parametrize("space", [*NAMED, *TINY], ids=space_id)


def in_one_form(space: AnySpace, rows: Rows) -> bool:
    """Whether the rows are canonical genomes of the space."""
    return bool(space.contains(rows).all() and (space.canonical(rows) == rows).all())


# Genomes and archs.


@every_space
def test_dimensions_of_one_name_stand_side_by_side(space: AnySpace) -> None:
    names = [dimension.name for dimension in space.dimensions]
    for name in dict.fromkeys(names):
        where = space.columns(name)
        assert [index for index, other in enumerate(names) if other == name] == list(range(len(names)))[where]
        values = space.values(np.zeros((1, len(names)), dtype=np.int16), name)
        assert values.tolist() == [[dimension.choices[0] for dimension in space.dimensions[where]]]


@every_space
@given(data=st.data())
@settings(max_examples=10)
def test_decode_and_encode_are_inverse(space: AnySpace, data: st.DataObject) -> None:
    rows = data.draw(populations(space))
    archs = space.decode(rows)
    assert (space.encode(archs) == space.canonical(rows)).all()
    assert space.decode(space.encode(archs)) == archs == space.decode(space.canonical(rows))
    assert tuple(space.parse(json.loads(json.dumps(arch.to_mapping(), allow_nan=False))) for arch in archs) == archs
    assert all(isinstance(hash(arch), int) for arch in archs)


@every_space
@given(data=st.data())
@settings(max_examples=10)
def test_the_canonical_form_is_one_per_path(space: AnySpace, data: st.DataObject) -> None:
    """Two rows have one canonical form exactly if they are one path; what a path does not use changes nothing."""
    rows = data.draw(populations(space, max_rows=2))
    column = data.draw(st.integers(0, rows.shape[1] - 1))
    moved = rows.copy()
    moved[:, column] = data.draw(st.integers(0, int(counts(space)[column]) - 1))
    rows, moved = rows[inside := space.contains(moved)], moved[inside]
    canonical, canonical_moved = space.canonical(rows), space.canonical(moved)
    assert (space.canonical(canonical) == canonical).all()
    for index, (arch, other) in enumerate(zip(space.decode(rows), space.decode(moved), strict=True)):
        same = bool((canonical[index] == canonical_moved[index]).all())
        assert (arch == other) is same
        assert (space.arch_id(arch) == space.arch_id(other)) is same
        if same:
            assert space.network_id(arch) == space.network_id(other)
            assert space.workload(arch) == space.workload(other)
    unused = (canonical == canonical_moved).all(axis=1)
    assert (space.costs(rows).macs == space.costs(moved).macs)[unused].all()
    assert (space.costs(rows).params == space.costs(moved).params)[unused].all()


@every_space
@given(data=st.data())
@settings(max_examples=10)
def test_repair_leads_into_the_space_and_leaves_its_networks_alone(space: AnySpace, data: st.DataObject) -> None:
    rows = data.draw(wild_populations(space))
    before = rows.copy()
    repaired = space.repair(rows)
    assert (rows == before).all()
    assert repaired.dtype == np.int16
    assert in_one_form(space, repaired)
    assert (space.repair(repaired) == repaired).all()
    inside = space.contains(rows)
    assert (repaired[inside] == space.canonical(rows[inside])).all()
    clipped = np.clip(rows, 0, counts(space) - 1)
    can = space.contains(clipped)
    assert (repaired[can] == space.canonical(clipped[can])).all()


@every_space
@given(data=st.data())
@settings(max_examples=10)
def test_contains_says_what_canonical_and_decode_accept(space: AnySpace, data: st.DataObject) -> None:
    rows = data.draw(wild_populations(space))
    in_range = ((rows >= 0) & (rows < counts(space))).all(axis=1)
    inside = space.contains(rows)
    assert not (inside & ~in_range).any()
    limited = space.family == "elastic" or (space.family == "vitas" and space.config.identity == "anywhere")
    if not limited:
        assert (inside == in_range).all()
    for row, accepted in zip(rows, inside, strict=True):
        for function in (space.canonical, space.decode, space.costs, space.workloads, space.neighbours):
            assert _accepts(function, row[np.newaxis]) is bool(accepted)


def _accepts(function: Callable[[Rows], object], rows: Rows) -> bool:
    try:
        function(rows)
    except InputError:
        return False
    return True


# Samples.


@every_space
def test_samples_are_canonical_and_follow_the_seed(space: AnySpace) -> None:
    one, two, other = (space.sample(np.random.default_rng(seed), 40) for seed in (3, 3, 4))
    assert one.dtype == np.int16
    assert in_one_form(space, one)
    assert (one == two).all()
    assert len(np.unique(one, axis=0)) > 1
    assert (one != other).any()
    assert space.sample(np.random.default_rng(0), 0).shape == (0, len(space.dimensions))


@every_space
def test_a_sample_goes_on_where_the_generator_stands(space: AnySpace) -> None:
    rng = np.random.default_rng(5)
    assert (space.sample(rng, 30) != space.sample(rng, 30)).any()


@every_space
def test_samples_reach_every_choice(space: AnySpace) -> None:
    seen = space.sample(np.random.default_rng(0), 3000)
    for column, count in enumerate(counts(space)):
        assert set(seen[:, column].tolist()) == set(range(count))


@every_space
def test_the_choices_of_the_whole_network_are_drawn_evenly(space: AnySpace) -> None:
    drawn = space.sample(np.random.default_rng(11), 4000)
    for column, dimension in enumerate(space.dimensions):
        if dimension.scope == "network":
            shares = np.bincount(drawn[:, column], minlength=len(dimension.choices)) / len(drawn)
            assert np.abs(shares - 1 / len(dimension.choices)).max() < 0.05


# Neighbours.


def _one_move(space: AnySpace, row: Rows) -> set[tuple[int, ...]]:
    """All canonical genomes that one change of one gene leads to, by trying every change."""
    moved = []
    for column, dimension in enumerate(space.dimensions):
        for value in range(len(dimension.choices)):
            if dimension.kind == "categorical" or abs(value - int(row[column])) == 1:
                moved.append(np.where(np.arange(len(row)) == column, value, row))
    rows = np.array(moved, dtype=np.int64).reshape(-1, len(row))
    forms = space.canonical(rows[space.contains(rows)])
    return {tuple(form) for form in forms.tolist()} - {tuple(row.tolist())}


@every_space
@given(data=st.data())
@settings(max_examples=8)
def test_neighbours_are_all_that_one_change_leads_to(space: AnySpace, data: st.DataObject) -> None:
    rows = data.draw(populations(space, max_rows=3))
    genomes, origins = space.neighbours(rows)
    assert genomes.dtype == np.int16
    assert in_one_form(space, genomes)
    assert len(genomes) == len(origins)
    for index, row in enumerate(space.canonical(rows)):
        mine = [tuple(genome) for genome in genomes[origins == index].tolist()]
        assert len(set(mine)) == len(mine)
        assert set(mine) == _one_move(space, row)


@every_space
@given(data=st.data())
@settings(max_examples=6)
def test_a_neighbour_by_one_gene_alone_leads_back(space: AnySpace, data: st.DataObject) -> None:
    row = space.canonical(data.draw(populations(space, max_rows=1)))
    genomes, _ = space.neighbours(row)
    alone = genomes[(genomes != row).sum(axis=1) == 1]
    back, origins = space.neighbours(alone)
    returned = origins[(back == row).all(axis=1)]
    assert returned.tolist() == list(range(len(alone)))


# Ids.


def _structure(workload: Workload) -> tuple[Any, ...]:
    """The operations without the slots in which they stand: an extracted network in other words."""
    rows = [(row["name"], row["kind"], tuple(row["shape"].items())) for row in workload.rows()]
    return tuple((_without_slot(name), kind, shape) for name, kind, shape in rows)


def _without_slot(name: str) -> str:
    parts = name.split(".")
    slot = {"blocks": 1, "stages": 2}.get(parts[0])
    return ".".join(part for index, part in enumerate(parts) if index != slot)


@every_space
def test_network_ids_tell_networks_apart_and_nothing_else(space: AnySpace) -> None:
    sampled = space.sample(np.random.default_rng(2), 50 if space in TINY else 8)
    genomes = np.concatenate([sampled, space.neighbours(sampled[:1]).genomes[:20]])
    archs = space.decode(np.unique(genomes, axis=0))
    networks = {(space.network_id(arch), _structure(space.workload(arch))) for arch in archs}
    assert len({network_id for network_id, _ in networks}) == len({built for _, built in networks}) == len(networks)
    assert len({space.arch_id(arch) for arch in archs}) == len(archs)


@every_space
def test_ids_are_hex_digits_that_stay(space: AnySpace) -> None:
    arch = space.smallest()
    for found in (space.arch_id(arch), space.network_id(arch)):
        assert len(found) >= 12
        assert set(found) <= set("0123456789abcdef")
    assert space.arch_id(arch) == replace(space).arch_id(replace(arch))
    assert space.arch_id(arch) != space.network_id(arch)


@pytest.mark.parametrize("field", ["image_size", "channels", "num_classes"])
@pytest.mark.parametrize("name", ["autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro"])
def test_another_input_or_output_is_another_network(name: str, field: str) -> None:
    space = SPACES.get(name)
    other = changed(space, **{field: 2 * getattr(space.config, field)})
    assert other.network_id(other.smallest()) != space.network_id(space.smallest())


def test_identities_move_without_changing_the_network() -> None:
    space = vitas.DEIT_SMALL
    arch = space.published["ViTAS-A"]
    blocks = [block for block in arch.blocks if block is not None]
    first = replace(arch, blocks=(*blocks, *[None] * (16 - len(blocks))))
    last = replace(arch, blocks=(*[None] * (16 - len(blocks)), *blocks))
    swapped = replace(first, blocks=(first.blocks[1], first.blocks[0], *first.blocks[2:]))
    assert len({space.network_id(one) for one in (arch, first, last)}) == 1
    assert len({space.arch_id(one) for one in (arch, first, last, swapped)}) == 4
    assert space.network_id(swapped) != space.network_id(first)
    assert len({space.workload(one).macs for one in (arch, first, last, swapped)}) == 1


def test_a_removable_slot_moves_without_changing_the_network() -> None:
    space = resnas.TINY
    arch = space.published["ViT-ResNAS-T"]
    assert [stage.blocks.index(None) for stage in arch.stages if None in stage.blocks] == [5, 5]
    blocks = [block for block in arch.stages[0].blocks if block is not None]
    moved = replace(arch.stages[0], blocks=(*blocks[:3], None, *blocks[3:]))
    other = replace(arch, stages=(moved, *arch.stages[1:]))
    assert space.network_id(other) == space.network_id(arch)
    assert space.arch_id(other) != space.arch_id(arch)
    assert space.workload(other).macs == space.workload(arch).macs


def test_every_coded_glit_network_is_in_the_paper_form_too() -> None:
    for arch in glit.TINY.decode(glit.TINY.sample(np.random.default_rng(0), 20)):
        assert glit.TINY_PAPER.parse(arch.to_mapping()) == arch
        assert glit.TINY_PAPER.network_id(arch) == glit.TINY.network_id(arch)
        assert glit.TINY_PAPER.arch_id(arch) != glit.TINY.arch_id(arch)


def test_every_shifted_vitas_network_is_in_the_published_form_too() -> None:
    for arch in vitas.DEIT_SMALL_SHIFTED.decode(vitas.DEIT_SMALL_SHIFTED.sample(np.random.default_rng(0), 20)):
        padded = replace(arch, blocks=(*arch.blocks, *[None] * (16 - len(arch.blocks))))
        assert vitas.DEIT_SMALL.network_id(padded) == vitas.DEIT_SMALL_SHIFTED.network_id(arch)
        assert vitas.DEIT_SMALL.workload(padded).macs == vitas.DEIT_SMALL_SHIFTED.workload(arch).macs


@pytest.mark.parametrize("number", [int, np.int64])
def test_equal_networks_have_one_network_id(number: Callable[[float], Any]) -> None:
    space = glit.TINY
    arch = space.published["GLiT-T"]
    blocks = [
        replace(block, value_ratio=number(block.value_ratio)) if block.value_ratio in (1.0, 2.0) else block
        for block in arch.blocks
    ]
    same = replace(arch, blocks=tuple(blocks))
    assert same == arch
    assert space.arch_id(same) == space.arch_id(arch)
    assert space.network_id(same) == space.network_id(arch)


# Values and their frozenness.


@every_space
def test_a_space_is_a_frozen_value(space: AnySpace) -> None:
    assert replace(space) == space
    assert hash(replace(space)) == hash(space)
    assert replace(space, name="other") != space
    with pytest.raises(FrozenInstanceError):
        space.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        space.config.num_classes = 2
    with pytest.raises(FrozenInstanceError):
        space.smallest().blocks = ()


@every_space
def test_nothing_changes_the_genomes_that_it_is_given(space: AnySpace) -> None:
    rows = space.sample(np.random.default_rng(0), 3)
    rows.flags.writeable = False
    for function in (
        *(space.contains, space.canonical, space.repair, space.decode, space.costs),
        *(space.official, space.workloads, space.neighbours),
    ):
        function(rows)
    fresh = space.canonical(rows)
    fresh[:] = 0
    assert (space.canonical(rows) == rows).all()


def test_a_network_at_another_number_of_classes_keeps_its_published_names() -> None:
    space = changed(autoformer.TINY, num_classes=10)
    arch = space.published["AutoFormer-T"]
    assert autoformer.TINY.workload(arch).params - space.workload(arch).params == 990 * (192 + 1)


@pytest.mark.parametrize(
    "name", ["autoformer-tiny", "resnas-tiny", "vitas-deit-small", "vitas-twins-small", "glit-tiny"]
)
def test_a_space_adapts_to_other_images_and_classes(name: str) -> None:
    space = SPACES.get(name)
    assert space.adapted() == space
    assert space.adapted(num_classes=10, channels=1) == changed(space, num_classes=10, channels=1)
    assert space.adapted(image_size=448).config == replace(space.config, image_size=448)
    assert space.adapted(num_classes=10).published == space.published
    for wrong in ({"image_size": 0}, {"channels": -1}, {"num_classes": 0}):
        with pytest.raises(InputError):
            space.adapted(**wrong)


def test_arguments_of_other_types_are_named() -> None:
    space: Any = SPACES.get("autoformer-micro")
    rng = np.random.default_rng(0)
    registry: Any = SPACES
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: space.sample(rng, -1), "number of genomes must not be negative"),
        (lambda: space.sample(0, 1), "rng must be Generator"),
        (lambda: space.sample(rng, "5"), "count must be a whole number"),
        (lambda: space.encode(None), "archs must be a list"),
        (lambda: space.adapted(image_size="32"), "image_size must be a whole number"),
        (lambda: registry.get(None), "space 'None' is not known"),
    ]
    for act, message in cases:
        with pytest.raises(InputError, match=message):
            act()
