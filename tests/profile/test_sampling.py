from dataclasses import replace

import numpy as np
import pytest

from hwnas.profile.sampling import even_sequence, sample_evenly
from hwnas.profile.subjects import select_subjects
from hwnas.space import SPACES

TINY = ("autoformer-tiny", "resnas-tiny", "glit-tiny")


@pytest.mark.parametrize("name", [*TINY, "vitas-deit-small-shifted", "vitas-twins-small"])
def test_macs_are_spread_evenly_over_the_whole_space(name: str) -> None:
    space = SPACES.get(name)
    macs = space.costs([candidate.genome for candidate in sample_evenly(space, 100, seed=0)]).macs
    low, high = space.costs(space.encode([space.smallest(), space.largest()])).macs
    counts, _ = np.histogram(macs, bins=5, range=(macs.min(), macs.max()))
    assert counts.sum() == 100
    assert counts.min() >= 12
    assert macs.min() <= low + 0.15 * (high - low)
    assert macs.max() >= high - 0.25 * (high - low)


def test_uniform_genomes_are_not_spread_evenly() -> None:
    """What the sequence is for: the ends of a space are rare among genomes drawn uniformly."""
    space = SPACES.get("resnas-tiny")
    macs = space.costs(space.sample(np.random.default_rng(0), 100)).macs
    chosen = space.costs([candidate.genome for candidate in sample_evenly(space, 100, seed=0)]).macs
    assert np.histogram(macs, bins=5, range=(chosen.min(), chosen.max()))[0].min() < 5


def test_every_depth_is_met_at_small_and_at_large_macs() -> None:
    space = SPACES.get("autoformer-tiny")
    candidates = sample_evenly(space, 90, seed=1)
    macs = space.costs([candidate.genome for candidate in candidates]).macs
    depths = np.array([len(candidate.arch.to_mapping()["blocks"]) for candidate in candidates])
    for depth in (12, 13, 14):
        assert 20 <= (depths == depth).sum() <= 40
    middle = np.abs(macs - np.median(macs)) < 0.25 * (macs.max() - macs.min())
    assert set(depths[middle]) == {12, 13, 14}


@pytest.mark.parametrize("name", ["autoformer-micro", "glit-tiny"])
def test_more_networks_extend_fewer(name: str) -> None:
    space = SPACES.get(name)
    assert sample_evenly(space, 40, seed=3)[:15] == sample_evenly(space, 15, seed=3)


def test_the_networks_are_those_of_the_seed_and_all_different() -> None:
    space = SPACES.get("autoformer-tiny")
    first, again, other = (sample_evenly(space, 50, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({candidate.network_id for candidate in first}) == 50


def test_a_small_space_gives_all_that_it_has_and_ends() -> None:
    space = SPACES.get("autoformer-micro")
    small = replace(space, config=replace(space.config, depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2.0,)))
    candidates = list(even_sequence(small, seed=0))
    assert len({candidate.network_id for candidate in candidates}) == len(candidates) == small.size


def test_no_network_is_no_work() -> None:
    assert sample_evenly(SPACES.get("autoformer-micro"), 0, seed=0) == ()


def test_each_network_is_decoded_once_and_the_published_ones_together(coded_rows: dict[str, list[int]]) -> None:
    select_subjects(SPACES.get("vitas-deit-small"), 20, seed=0)
    assert coded_rows == {"encode": [4], "decode": [4] + [1] * 20}
