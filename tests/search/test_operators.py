import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.search.operators import Variation, completed, crossover, resampled, sample_levels, spread_over
from hwnas.search.region import full_region, gene_counts, region_of
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from tests.strategies import NAMED, TINY, populations, space_id

AUTOFORMER = SPACES.get("autoformer-micro")
SPACES_TO_TRY = [*TINY, *(space for space in NAMED if "micro" in space.name)]


@pytest.mark.parametrize("space", SPACES_TO_TRY, ids=space_id)
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_children_are_canonical_networks_of_the_space(space: AnySpace, data: st.DataObject, seed: int) -> None:
    rng, region = np.random.default_rng(seed), full_region(space)
    first = space.canonical(data.draw(populations(space)))
    second = first[rng.permutation(len(first))]
    variation = Variation(mutants=0.8, mutations=2.0, long_step=0.3, redraw=0.2)
    rates = np.full(len(space.dimensions), 0.3)
    for children in (
        variation.children(first, second, region, rng),
        resampled(first, region, rng, rates=rates),
        sample_levels(region, rng, len(first)),
    ):
        assert children.dtype == np.int16
        assert space.contains(children).all()
        assert (space.canonical(children) == children).all()


def test_a_mutation_changes_one_used_gene_by_one_step() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    parents = AUTOFORMER.sample(rng, 500)
    mutants = Variation(redraw=0.0).mutated(parents, region, rng)
    assert ((mutants != parents).sum(axis=1) == 1).all()
    assert (np.abs(mutants - parents).max(axis=1) == 1).all()
    assert AUTOFORMER.used(parents)[mutants != parents].all()
    assert AUTOFORMER.contains(mutants).all()


def test_categorical_genes_are_redrawn() -> None:
    space = SPACES.get("vitas-deit-small-shifted")
    column = space.columns("patch_size").start
    rng = np.random.default_rng(0)
    parents = np.repeat(space.sample(rng, 1), 3000, axis=0)
    parents[:, column] = 0
    mutants = Variation(redraw=0.0).mutated(space.canonical(parents), region_of(space, ["patch_size"]), rng)
    values, counts = np.unique(mutants[:, column], return_counts=True)
    assert values.tolist() == [1, 2]
    assert counts == pytest.approx([1500, 1500], rel=0.1)


def test_more_mutations_are_as_many_as_asked_for() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    parents = np.repeat(AUTOFORMER.encode([AUTOFORMER.largest()]), 4000, axis=0)
    changed = (Variation(mutations=2.0).mutated(parents, region, rng) != parents).sum(axis=1)
    width = parents.shape[1]
    # At least one gene, else each with probability 2 / width.
    expected = 2.0 + (1 - 2.0 / width) ** width
    assert changed.min() == 1
    assert changed.mean() == pytest.approx(expected, rel=0.05)


def test_a_block_that_one_parent_lacks_comes_whole_from_the_other() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    deep = AUTOFORMER.repair(gene_counts(AUTOFORMER)[None] - 1)
    shallow = deep.copy()
    shallow[:, AUTOFORMER.columns("depth")] = 0
    shallow = AUTOFORMER.canonical(shallow)
    count = 200
    children = crossover(
        np.repeat(shallow, count, axis=0), np.repeat(deep, count, axis=0), region, rng, whole_parts=0.5
    )
    children = AUTOFORMER.repair(children)
    used = AUTOFORMER.used(children)
    depth = AUTOFORMER.columns("depth").start
    assert set(children[:, depth].tolist()) == {0, 2}
    # Both parents have the largest value in every gene that they use, so every child has, deep or not.
    others = np.delete(np.arange(children.shape[1]), depth)
    assert (children == gene_counts(AUTOFORMER) - 1)[:, others][used[:, others]].all()


def test_whole_blocks_stay_together() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    small = AUTOFORMER.repair([[0, 3, *[0] * 8]])
    large = AUTOFORMER.repair([[3, 3, *[3] * 4, *[2] * 4]])
    children = crossover(np.repeat(small, 100, axis=0), np.repeat(large, 100, axis=0), region, rng, whole_parts=1.0)
    heads, ratios = children[:, AUTOFORMER.columns("num_heads")], children[:, AUTOFORMER.columns("mlp_ratio")]
    assert set(zip(heads.ravel().tolist(), ratios.ravel().tolist(), strict=True)) == {(0, 0), (3, 2)}
    assert len(np.unique(children, axis=0)) > 20


def test_unused_genes_are_drawn_when_completed() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    rows = np.repeat(AUTOFORMER.encode([AUTOFORMER.smallest()]), 300, axis=0)
    full = completed(rows, region, rng)
    used = AUTOFORMER.used(rows)
    assert (full[used] == rows[used]).all()
    unused = full[:, ~used[0]]
    assert (unused.max(axis=0) == (gene_counts(AUTOFORMER) - 1)[~used[0]]).all()
    assert (unused.min(axis=0) == 0).all()


@pytest.mark.parametrize("name", ["autoformer-tiny", "resnas-small", "vitas-deit-small", "glit-tiny"])
def test_levels_reach_further_than_a_uniform_draw(name: str) -> None:
    space, rng = SPACES.get(name), np.random.default_rng(0)
    leveled = space.costs(sample_levels(full_region(space), rng, 500)).macs
    uniform = space.costs(space.sample(rng, 500)).macs
    assert leveled.min() < uniform.min()
    assert leveled.max() > uniform.max()


def test_rows_are_spread_evenly_over_values() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(50, 1, 1000), np.arange(0.5, 100)])
    chosen = spread_over(values, 100, rng)
    assert len(set(chosen.tolist())) == 100
    counts, _ = np.histogram(values[chosen], bins=10, range=(0, 100))
    assert counts.min() >= 9
    assert spread_over(np.ones(5), 3, rng).shape == (3,)
    assert spread_over(np.arange(3.0), 3, rng).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["crossover", "whole_parts", "mutants", "redraw", "long_step"])
def test_shares_lie_between_0_and_1(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be between 0 and 1"):
        Variation(**{name: 1.5})
