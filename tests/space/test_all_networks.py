"""Spaces so small that every network is listed: sizes, extremes and distinctness by brute force."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from hwnas.space.elastic import Elastic
from hwnas.space.space import AnySpace
from hwnas.space.vitas import Vitas
from tests.strategies import TINY, Rows, all_genomes, counts, space_id

_BY_NAME = {space.name: space for space in TINY}
_WIDER = {
    # Widths that tie, and patch sizes at which a larger patch costs more in the stem and less in the blocks.
    "floors": replace(
        _BY_NAME["tiny-vitas-anywhere"].config, image_size=63, patch_sizes=(31, 7, 32, 10, 8, 9), slots=2
    ),
    "sorted": replace(_BY_NAME["tiny-vitas-last"].config, image_size=32, patch_sizes=(4, 8), embed_dims=(1, 2, 30)),
}
SPACES: tuple[AnySpace, ...] = (
    *TINY,
    *(Vitas(name=name, config=config) for name, config in _WIDER.items()),
    replace(
        _BY_NAME["tiny-autoformer"],
        name="ties",
        config=replace(_BY_NAME["tiny-autoformer"].config, mlp_ratios=(0.5, 0.55, 0.6)),
    ),
    replace(
        _BY_NAME["tiny-glit-coded"],
        name="crossing",
        config=replace(_BY_NAME["tiny-glit-coded"].config, kernel_sizes=(1, 90), expansions=(1, 3), image_size=8),
    ),
)
every_space = pytest.mark.parametrize("space", SPACES, ids=space_id)


@cache
def canonical_genomes(space: AnySpace) -> Rows:
    """Every canonical genome of the space, in order."""
    rows = all_genomes(space)
    assert len(rows) == counts(space).prod() <= 60000
    return np.unique(space.canonical(rows[space.contains(rows)]), axis=0)


@every_space
def test_size_is_the_number_of_canonical_genomes(space: AnySpace) -> None:
    assert space.size == len(canonical_genomes(space))


@every_space
def test_different_canonical_genomes_are_different_networks(space: AnySpace) -> None:
    some = canonical_genomes(space)[:3000]
    archs = space.decode(some)
    assert len(set(archs)) == len(archs)
    assert (space.encode(archs) == some).all()


@every_space
def test_only_a_network_without_any_block_is_refused(space: AnySpace) -> None:
    rows = all_genomes(space)
    refused = rows[~space.contains(rows)]
    if getattr(space.config, "identity", None) == "anywhere":
        identity = counts(space)[space.columns("num_heads")] - 1
        assert (refused[:, space.columns("num_heads")] == identity).all()
        assert len(refused) == (rows[:, space.columns("num_heads")] == identity).all(axis=1).sum() > 0
        assert space.contains(space.repair(refused)).all()
    elif isinstance(space, Elastic):
        assert len(refused) == sum(skips_too_much(arch) for arch in archs_of(space, rows))
        assert space.contains(space.repair(refused)).all()
    else:
        assert len(refused) == 0


def archs_of(space: Elastic, rows: Rows) -> list[list[tuple[float, float]]]:
    """Heads and MLP width of each block, allowed or not."""
    depth, choices = space.config.depth, [dimension.choices for dimension in space.dimensions]
    values = [[choices[column][gene] for column, gene in enumerate(row)] for row in rows.tolist()]
    return [list(zip(row[-2 * depth : -depth], row[-depth:], strict=True)) for row in values]


def skips_too_much(blocks: list[tuple[float, float]]) -> bool:
    most = len(blocks) // 2
    too_many = any(sum(block[part] == 0 for block in blocks) > most for part in (0, 1))
    return too_many or any(first == second == (0, 0) for first, second in pairwise(blocks))


@every_space
def test_smallest_and_largest_are_the_extremes_of_all(space: AnySpace) -> None:
    genomes = canonical_genomes(space)
    costs = space.costs(genomes)
    keys = list(zip(costs.macs.tolist(), costs.params.tolist(), map(tuple, genomes.tolist()), strict=True))
    least, most = min(keys)[2], max(keys)[2]
    assert tuple(space.encode([space.smallest()])[0].tolist()) == least
    assert tuple(space.encode([space.largest()])[0].tolist()) == most


@every_space
def test_every_network_is_reached_by_neighbours(space: AnySpace) -> None:
    """From one network, a step at a time, the whole space."""
    genomes = canonical_genomes(space)
    known = {row.tobytes() for row in genomes.astype(np.int16)}
    frontier = genomes[:1].astype(np.int16)
    seen = {frontier[0].tobytes()}
    while len(frontier):
        moved = np.unique(space.neighbours(frontier).genomes, axis=0)
        frontier = np.array([row for row in moved if row.tobytes() not in seen], dtype=np.int16)
        seen |= {row.tobytes() for row in frontier}
    assert seen == known


def test_wider_choices_cost_more_one_at_a_time() -> None:
    """In the families without a trade-off between the genes, each ordinal step up costs more."""
    for name in ("tiny-autoformer", "tiny-resnas", "tiny-vitas-last", "tiny-twins"):
        space = _BY_NAME[name]
        for column, dimension in enumerate(space.dimensions):
            if dimension.kind == "ordinal":
                steps = np.repeat(space.encode([space.largest()]), len(dimension.choices), axis=0)
                steps[:, column] = np.arange(len(dimension.choices))
                macs, params = space.costs(steps).macs.tolist(), space.costs(steps).params.tolist()
                assert all(less <= more for less, more in pairwise(macs))
                assert all(less <= more for less, more in pairwise(params))
