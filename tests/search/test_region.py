import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import UnknownNameError
from hwnas.search.region import dimension_columns, full_region, gene_counts, region_of, region_without
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from tests.search.toys import rows_as_set
from tests.strategies import TINY, all_genomes, space_id

GLIT = SPACES.get("glit-micro")


@pytest.mark.parametrize("space", TINY, ids=space_id)
def test_the_whole_space_is_reached_by_neighbours(space: AnySpace) -> None:
    region, edge = full_region(space), space.repair(np.zeros((1, len(space.dimensions)), dtype=np.int16))
    met = rows_as_set(edge)
    while len(edge):
        moved = region.neighbours(edge).genomes
        edge = np.array([row for row in {tuple(r) for r in moved.tolist()} if row not in met], dtype=np.int16)
        met |= rows_as_set(edge) if len(edge) else set()
        edge = edge.reshape(-1, len(space.dimensions))
    everything = all_genomes(space)
    assert met == rows_as_set(space.canonical(everything[space.contains(everything)]))
    assert len(met) == space.size


@given(seed=st.integers(0, 2**32 - 1))
def test_only_the_first_level_differs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    region = region_of(GLIT, ["groups"])
    rows = region.sample(rng, 8)
    used, middle = GLIT.used(rows), gene_counts(GLIT) // 2
    frozen = used & ~dimension_columns(GLIT, ["groups"])
    assert (rows == np.where(frozen, middle, rows)).all()
    moved = region.neighbours(rows).genomes
    frozen = GLIT.used(moved) & ~dimension_columns(GLIT, ["groups"])
    assert (moved == np.where(frozen, middle, moved)).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_the_second_level_stands_on_its_bases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bases = region_of(GLIT, ["groups"]).sample(rng, 3)
    region = region_without(GLIT, ["groups"], bases=bases)
    layouts = rows_as_set(bases[:, GLIT.columns("groups")])
    rows = region.sample(rng, 20)
    assert rows_as_set(rows[:, GLIT.columns("groups")]) <= layouts
    moved = region.neighbours(rows)
    assert (moved.genomes[:, GLIT.columns("groups")] == rows[moved.origins][:, GLIT.columns("groups")]).all()


def test_an_unknown_dimension_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as error:
        region_of(SPACES.get("autoformer-micro"), ["groups"])
    assert error.value.message == "dimension of autoformer-micro: 'groups' is not known"
    assert error.value.known == ("embed_dim", "depth", "num_heads", "mlp_ratio")
