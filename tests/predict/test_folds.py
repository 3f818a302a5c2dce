import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.predict.folds import make_folds


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
