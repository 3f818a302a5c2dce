import numpy as np
import pytest

from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.predict.arrays import round_last_bits
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes
from tests.search.toys import MICROS, accuracy


def split(space: AnySpace, count: int) -> tuple[Genomes, Genomes]:
    genomes = np.unique(space.sample(np.random.default_rng(3), 2 * count), axis=0)
    genomes = genomes[np.random.default_rng(0).permutation(len(genomes))]
    return genomes[:count], genomes[count:]


def test_it_ranks_networks_that_it_has_not_seen() -> None:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    space = SPACES.get("autoformer-micro")
    seen, unseen = split(space, 60)
    surrogate = accuracy_surrogate(space)(seen, accuracy(space, seen), 1)
    found, truth = surrogate(unseen), accuracy(space, unseen)
    assert spearmanr(found.mean, truth).statistic > 0.75
    inside = (found.lower <= truth) & (truth <= found.upper)
    assert inside.mean() > 0.75
    assert (found.upper > found.lower).all()


@pytest.mark.parametrize("space", MICROS, ids=lambda space: space.name)
def test_the_same_arguments_give_the_same_surrogate_in_every_family(space: AnySpace) -> None:
    seen, unseen = split(space, 14)
    fit = accuracy_surrogate(space)
    first, second = (fit(seen, accuracy(space, seen), 2**40 + 5)(unseen) for _ in range(2))
    assert np.array_equal(first, second)
    # the remaining bits depend on the CPU, and a search must not choose by them
    assert np.array_equal(first, [round_last_bits(values) for values in first])
    assert np.isfinite(first.mean).all()


def test_a_handful_of_networks_is_enough_for_something() -> None:
    space = SPACES.get("autoformer-micro")
    seen, unseen = split(space, 3)
    found = accuracy_surrogate(space)(seen, accuracy(space, seen), 0)(unseen)
    assert np.isfinite(found.mean).all()
