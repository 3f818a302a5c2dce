from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.active import choose_next, spread_out
from hwnas.predict.features.table import joined
from hwnas.predict.intervals import WhitenedComponents
from tests.predict.synthetic import measured_times, networks


def test_chosen_networks_are_distinct_and_the_seed_decides() -> None:
    pool, measured = networks(200), networks(15, seed=3)
    first, again = (choose_next(pool, measured, measured_times(measured), count=20, seed=1).tolist() for _ in range(2))
    assert len(set(first)) == 20
    assert first == again


def test_what_is_already_measured_is_chosen_last() -> None:
    pool = networks(30)
    measured = pool.take(slice(0, 20))
    chosen = choose_next(pool, measured, measured_times(measured), count=30)
    assert set(chosen[:10].tolist()) == set(range(20, 30))


def test_a_network_unlike_all_others_is_chosen_first() -> None:
    pool = joined([networks(60), networks(1, space="vitas-twins-small")])
    measured = networks(15, seed=3)
    assert choose_next(pool, measured, measured_times(measured), count=1).tolist() == [60]


def test_networks_to_begin_with_lie_farther_apart_than_random_ones() -> None:
    pool = networks(300)
    places = WhitenedComponents.fit(pool).coordinates(pool)

    def closest(rows: object) -> float:
        chosen = places[rows]  # type: ignore[call-overload]
        distance = np.sqrt(((chosen[:, None] - chosen[None]) ** 2).sum(axis=2))
        return float((distance + 99 * np.eye(len(chosen))).min())

    random = [closest(np.random.default_rng(seed).permutation(300)[:12]) for seed in range(9)]
    assert closest(spread_out(pool, count=12)) > np.median(random)


def test_of_networks_that_are_as_far_the_first_is_chosen_whatever_the_last_bits() -> None:
    pool, measured = networks(40), networks(15, seed=3)
    again = replace(pool, costs=np.nextafter(pool.costs, 0), shapes=np.nextafter(pool.shapes, 0))
    for both in (joined([pool, again]), joined([again, pool])):
        assert (spread_out(both, count=12)[1:] < 40).all()
        assert (choose_next(both, measured, measured_times(measured), count=12) < 40).all()


@pytest.mark.parametrize("count", [0, 31])
def test_more_than_there_are_cannot_be_chosen(count: int) -> None:
    pool = networks(30)
    with pytest.raises(InputError, match="as many candidates as are to be chosen"):
        choose_next(pool, pool, measured_times(pool), count=count)
    with pytest.raises(InputError, match="as many candidates as are to be chosen"):
        spread_out(pool, count=count)
