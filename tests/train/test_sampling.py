from collections import Counter
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.train.sampling import (
    IdentitySampler,
    SamplingConfig,
    WideningSampler,
    make_sampler,
    sample_with_identities,
    search_identity_prob,
)
from hwnas.train.seeds import generator
from tests.train.toys import AUTOFORMER, RESNAS, TWINS, VITAS, VITAS_ANYWHERE

TINY_RESNAS = SPACES.get("resnas-tiny")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_draws_are_a_function_of_seed_step_and_rank() -> None:
    sampler = make_sampler(TINY_RESNAS, SamplingConfig(), seed=0)
    draws = [sampler.draw(generator(*key), count=2, epoch=0).tolist() for key in KEYS]
    assert draws[0] == draws[1]
    assert all(draws[0] != draw for draw in draws[2:])


KEYS: list[tuple[Any, ...]] = [
    (1, "networks", 4, 0),
    (1, "networks", 4, 0),
    (2, "networks", 4, 0),
    (1, "networks", 5, 0),
    (1, "networks", 4, 1),
    (1, "mixing", 4, 0),
]


def test_uniform_is_uniform_over_every_gene() -> None:
    rows = make_sampler(AUTOFORMER, SamplingConfig(), seed=0).draw(rng(), count=4000, epoch=0)
    widths = Counter(AUTOFORMER.values(rows, "embed_dim")[:, 0].tolist())
    assert widths.keys() == {6, 9}
    assert abs(widths[6] / 4000 - 0.5) < 0.03


# The number of choices that are there, by the formula of the paper's code for n = 5, 4 and 7 choices.
@pytest.mark.parametrize(
    ("epoch", "embeds", "heads", "hidden"),
    [
        (0, 1, 1, 1),
        (4, 1, 1, 1),
        (5, 1, 1, 2),
        (8, 2, 1, 2),
        (10, 2, 2, 3),
        (29, 4, 3, 6),
        (30, 5, 4, 7),
        (99, 5, 4, 7),
    ],
)
def test_widening_lets_choices_in_from_the_widest(epoch: int, embeds: int, heads: int, hidden: int) -> None:
    sampler = WideningSampler(space=TINY_RESNAS, epochs=30, distinct=False)
    rows = sampler.draw(rng(), count=600, epoch=epoch)
    for name, count in (("embed_dim", embeds), ("num_heads", heads), ("hidden_dim", hidden)):
        column = TINY_RESNAS.columns(name).start
        choices = TINY_RESNAS.dimensions[column].choices
        seen = set(TINY_RESNAS.values(rows, name)[:, 0].tolist())
        assert seen == set(choices[-count:])


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (19, 0.0), (20, 1 / 3), (29, 1 / 3), (30, 1 / 2), (50, 1 / 2)])
def test_widening_drops_layers_in_later_epochs(epoch: int, share: float) -> None:
    sampler = WideningSampler(space=TINY_RESNAS, epochs=30, distinct=False)
    exists = TINY_RESNAS.values(sampler.draw(rng(), count=2000, epoch=epoch), "exists")
    assert 1 - exists.mean() == pytest.approx(share, abs=0.02)


def test_widening_without_epochs_has_all_choices_at_once() -> None:
    sampler = WideningSampler(space=TINY_RESNAS, epochs=0, distinct=True)
    rows = sampler.draw(rng(), count=5, epoch=0)
    assert set(TINY_RESNAS.values(rows, "embed_dim")[:, 0].tolist()) == {160, 176, 192, 224, 256}


def test_distinct_networks_differ_in_every_gene() -> None:
    sampler = WideningSampler(space=TINY_RESNAS, epochs=30, distinct=True)
    for seed in range(50):
        first, second = sampler.draw(rng(seed), count=2, epoch=30)
        used = np.ones(len(first), dtype=bool)
        used[TINY_RESNAS.columns("exists")] = False  # its list holds each choice twice
        both = used & (TINY_RESNAS._used(np.stack([first, second])).all(axis=0))
        assert (first[both] != second[both]).all()


def test_more_networks_than_choices_do_not_agree_in_all_of_them() -> None:
    sampler, heads = WideningSampler(space=TINY_RESNAS, epochs=30, distinct=True), TINY_RESNAS.columns("num_heads")
    for seed in range(10):
        rows = sampler.draw(rng(seed), count=8, epoch=30)
        first, fifth = (np.asarray(row)[heads] for row in np.asarray(TINY_RESNAS._used(rows))[[0, 4]])
        used = first & fifth
        assert (rows[0, heads][used] != rows[4, heads][used]).any()  # there are four numbers of heads


def test_distinct_networks_share_the_only_choice() -> None:
    rows = WideningSampler(space=TINY_RESNAS, epochs=30, distinct=True).draw(rng(), count=2, epoch=0)
    assert (rows[0] == rows[1]).all()
    assert TINY_RESNAS.decode(rows)[0] == TINY_RESNAS.largest()


def test_identities_are_binomial_where_they_are_last() -> None:
    rows = IdentitySampler(space=VITAS, probability=0.3).draw(rng(), count=6000, epoch=0)
    depths = Counter(VITAS.values(rows, "depth")[:, 0].tolist())
    # Three slots, each a block with 0.7; no block at all becomes one block.
    expected = {1: 3 * 0.7 * 0.3**2 + 0.3**3, 2: 3 * 0.7**2 * 0.3, 3: 0.7**3}
    assert {depth: count / 6000 for depth, count in depths.items()} == pytest.approx(expected, abs=0.02)


def test_identities_are_independent_where_they_may_be_anywhere() -> None:
    rows = IdentitySampler(space=VITAS_ANYWHERE, probability=0.25).draw(rng(), count=6000, epoch=0)
    absent = (VITAS_ANYWHERE.values(rows, "num_heads") == 0).mean(axis=0)
    assert absent == pytest.approx([0.25] * 3, abs=0.02)


def test_stages_of_twins_have_identities_of_their_own() -> None:
    rows = sample_with_identities(TWINS, rng(), count=4000, probability=0.4)
    assert (TWINS.values(rows, "depth")[:, 0] == 2).mean() == pytest.approx(0.36, abs=0.03)


@pytest.mark.parametrize(("probability", "macs"), [(0.39, 1.15e9), (0.23, 1.45e9)])
def test_published_probabilities_give_the_lower_end_of_their_budget(probability: float, macs: float) -> None:
    # The official search raises the mean in steps of 0.01 until it is in the budget, by the official count.
    space = SPACES.get("vitas-deit-small")
    rows = sample_with_identities(space, rng(), count=3000, probability=probability)
    official = space.official(rows)
    assert official is not None
    assert official.macs.mean() == pytest.approx(macs, rel=0.015)


@pytest.mark.parametrize("name", ["vitas-deit-small", "vitas-deit-small-shifted", "vitas-twins-small"])
def test_the_search_centres_the_mean_in_the_budget(name: str) -> None:
    space = SPACES.get(name)
    middle = float(space.costs(sample_with_identities(space, rng(), count=500, probability=0.4)).macs.mean())
    config = SamplingConfig(budget="identity", macs_low=int(0.8 * middle), macs_high=int(1.2 * middle))
    sampler = make_sampler(space, config, seed=1)
    macs = space.costs(sampler.draw(rng(9), count=3000, epoch=0)).macs
    assert macs.mean() == pytest.approx(middle, rel=0.02)


def test_a_mean_out_of_reach_is_an_error() -> None:
    with pytest.raises(InputError, match=r"middle of the budget must be a mean that tiny-vitas-last can have"):
        search_identity_prob(VITAS, mean_macs=1e12, rng=rng())


def test_a_budget_by_rejection_holds_for_every_network() -> None:
    macs = AUTOFORMER.costs(AUTOFORMER.sample(rng(), 500)).macs
    low, high = int(np.quantile(macs, 0.4)), int(np.quantile(macs, 0.6))
    config = SamplingConfig(budget="reject", macs_low=low, macs_high=high)
    drawn = make_sampler(AUTOFORMER, config, seed=0).draw(rng(), count=40, epoch=0)
    found = AUTOFORMER.costs(drawn).macs
    assert len(found) == 40
    assert ((found >= low) & (found <= high)).all()


def test_a_budget_that_nothing_fits_is_an_error() -> None:
    config = SamplingConfig(budget="reject", macs_low=1, macs_high=2)
    with pytest.raises(InputError, match=r"the drawn networks must have 1 to 2 MACs"):
        make_sampler(AUTOFORMER, config, seed=0).draw(rng(), count=1, epoch=0)


@pytest.mark.parametrize("space", [AUTOFORMER, RESNAS], ids=lambda space: str(space.name))
def test_identities_need_a_space_that_has_them(space: AnySpace) -> None:
    with pytest.raises(InputError, match="whose slots can be identities"):
        make_sampler(space, SamplingConfig(identity_prob=0.2), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity_prob": 1.0}, "between 0 and 0.999"),
        ({"budget": "reject"}, "macs_low <= macs_high"),
        ({"widening_epochs": -1}, "between 0 and 100000"),
        ({"widening_epochs": 3, "identity_prob": 0.2}, "cannot be combined"),
        ({"distinct": True, "budget": "reject", "macs_high": 1}, "cannot be combined with drawing again"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(**changes)


def test_uniform_macs_reach_from_the_smallest_to_the_largest() -> None:
    shares = {}
    for spread in ("genes", "macs"):
        sampler = make_sampler(TINY_RESNAS, SamplingConfig(spread=spread), seed=0)
        rows = np.concatenate([sampler.draw(rng(step), count=2, epoch=0) for step in range(200)])
        macs = TINY_RESNAS.costs(rows).macs
        low, high = TINY_RESNAS.costs(TINY_RESNAS.encode([TINY_RESNAS.smallest(), TINY_RESNAS.largest()])).macs
        shares[spread] = np.quantile((macs - low) / (high - low), [0.1, 0.9])
    assert shares["macs"][0] < shares["genes"][0] - 0.1
    assert shares["macs"][1] > shares["genes"][1] + 0.1


def test_uniform_macs_keep_to_the_choices_of_the_epoch() -> None:
    config = SamplingConfig(spread="macs", widening_epochs=30, first_choices=2)
    sampler = make_sampler(TINY_RESNAS, config, seed=0)
    rows = np.concatenate([sampler.draw(rng(step), count=2, epoch=0) for step in range(100)])
    choices = TINY_RESNAS.dimensions[TINY_RESNAS.columns("hidden_dim").start].choices
    assert set(TINY_RESNAS.values(rows, "hidden_dim")[:, 0].tolist()) == set(choices[-2:])


def test_uniform_macs_exclude_distinct_choices() -> None:
    with pytest.raises(InputError, match="uniform MACs"):
        SamplingConfig(spread="macs", distinct=True)
