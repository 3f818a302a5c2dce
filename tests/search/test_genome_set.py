import numpy as np
import pytest

from hwnas.search.genome_set import GenomeSet, genome_keys, sample_unseen
from hwnas.search.operators import sample_levels
from hwnas.search.region import full_region, region_of
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes
from tests.search.toys import rows_as_set
from tests.strategies import TINY, space_id


def test_keys_are_equal_for_equal_rows_only() -> None:
    rows = np.array([[1, 2], [2, 1], [1, 2], [256, 0]], dtype=np.int16)
    assert genome_keys(rows) == [b"\1\0\2\0", b"\2\0\1\0", b"\1\0\2\0", b"\0\1\0\0"]


def test_new_rows_are_the_first_of_their_kind() -> None:
    seen = GenomeSet()
    rows = np.array([[1, 2], [2, 1], [1, 2], [3, 3]], dtype=np.int16)
    assert seen.is_new(rows).tolist() == [True, True, False, True]
    seen.add(rows[1:2])
    other = seen.copy()
    other.add(rows[3:])
    assert seen.is_new(rows).tolist() == [True, False, False, True]
    assert other.is_new(rows).tolist() == [True, False, False, False]
    assert (len(seen), len(other)) == (1, 2)


@pytest.mark.parametrize("space", [space for space in TINY if space.size < 3000], ids=space_id)
def test_a_region_is_exhausted_to_its_last_network(space: AnySpace) -> None:
    region, seen, rng = full_region(space), GenomeSet(), np.random.default_rng(0)
    parts = []
    while len(rows := sample_unseen(lambda n: sample_levels(region, rng, n), 97, seen=seen, region=region)):
        seen.add(rows)
        parts.append(rows)
    everything = np.concatenate(parts)
    assert len(everything) == len(rows_as_set(everything)) == space.size
    assert all(len(part) == 97 for part in parts[:-1])


def test_a_level_is_exhausted_too() -> None:
    space = SPACES.get("glit-micro")
    region, seen, rng = region_of(space, ["groups"]), GenomeSet(), np.random.default_rng(0)
    rows = sample_unseen(lambda n: region.sample(rng, n), 1000, seen=seen, region=region)
    assert len(rows) == len(rows_as_set(rows)) == 4**4


def test_rare_new_networks_take_few_large_draws() -> None:
    region, seen, rng = full_region(SPACES.get("autoformer-micro")), GenomeSet(), np.random.default_rng(0)
    known, sizes = region.sample(rng, 50), []
    seen.add(known)

    def make(count: int) -> Genomes:
        sizes.append(count)
        old = rng.random(count) < 0.9
        return np.where(old[:, None], known[rng.integers(0, len(known), size=count)], region.sample(rng, count))

    rows = sample_unseen(make, 100, seen=seen, region=region)
    assert len(rows) == len(rows_as_set(rows)) == 100
    assert seen.is_new(rows).all()
    assert sizes[0] == 100
    assert len(sizes) <= 6


def test_draws_that_bring_nothing_come_to_an_end() -> None:
    space = SPACES.get("autoformer-micro")
    nothing = np.zeros((0, len(space.dimensions)), dtype=np.int16)
    rows = sample_unseen(lambda count: nothing, 7, seen=GenomeSet(), region=full_region(space))
    assert len(rows) == 7
