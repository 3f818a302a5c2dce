from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.features.table import Features, joined
from hwnas.predict.folds import group_equal_networks, make_folds
from tests.predict.synthetic import networks


@given(count=st.integers(5, 60), num_folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_row_is_held_out_once(count: int, num_folds: int, seed: int) -> None:
    folds = make_folds(count, num_folds=num_folds, seed=seed)
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(count))
    sizes = [len(fold.held_out) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert sorted([*fold.fit, *fold.held_out]) == list(range(count))


@given(groups=st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=40), seed=st.integers(0, 99))
def test_a_group_is_held_out_together(groups: list[str], seed: int) -> None:
    distinct = len(set(groups))
    if distinct < 3:
        return
    for fold in make_folds(len(groups), num_folds=3, seed=seed, groups=groups):
        assert not {groups[row] for row in fold.fit} & {groups[row] for row in fold.held_out}


def test_the_seed_decides() -> None:
    first, again, other = (make_folds(30, num_folds=3, seed=seed)[0].held_out for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5 distinct networks") as caught:
        make_folds(10, num_folds=5, seed=0, groups=["a"] * 10)
    assert caught.value.got == 1


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="as many groups as networks"):
        make_folds(10, num_folds=5, seed=0, groups=["a"] * 9)


@pytest.mark.parametrize("towards", [-np.inf, np.inf])
def test_the_last_bit_of_a_feature_changes_no_fold(towards: float) -> None:
    features = networks(40)
    moved = _moved(features, towards, np.random.default_rng(0).random(features.costs.shape) < 0.5)
    assert (moved.costs != features.costs).any()
    assert group_equal_networks(moved) == group_equal_networks(features)
    first, again = (
        make_folds(40, num_folds=5, seed=3, groups=group_equal_networks(given)) for given in (features, moved)
    )
    for fold, other in zip(first, again, strict=True):
        assert fold.held_out.tolist() == other.held_out.tolist()


def test_the_same_network_is_one_network_whatever_its_last_bits() -> None:
    features = networks(20)
    twice = joined([features, _moved(features, np.inf, np.ones(features.costs.shape, dtype=np.bool_))])
    labels = group_equal_networks(twice)
    assert labels[:20] == labels[20:]
    assert sorted(labels[:20]) == list(range(20))


def test_networks_of_other_blocks_are_others_whatever_their_costs() -> None:
    features = networks(120)
    assert len(set(group_equal_networks(features))) == 114
    assert len(set(group_equal_networks(networks(120, counts=True)))) == 120


def test_the_number_of_a_network_does_not_depend_on_its_row() -> None:
    features = networks(20)
    turned = features.take(np.arange(20)[::-1])
    assert group_equal_networks(turned) == group_equal_networks(features)[::-1]


def test_no_networks_have_no_numbers() -> None:
    assert group_equal_networks(networks(8).take(slice(0, 0))) == []


def _moved(features: Features, towards: float, chosen: NDArray[np.bool_]) -> Features:
    """The features with the last bit of the chosen costs, and of all shapes, moved on; what is 0 is so everywhere."""
    costs, shapes = (np.where(own == 0, 0, np.nextafter(own, towards)) for own in (features.costs, features.shapes))
    return replace(features, costs=np.where(chosen, costs, features.costs), shapes=shapes)
