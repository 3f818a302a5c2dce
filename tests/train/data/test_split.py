"""Splits: balanced, fixed, and written down."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.train.data.images import (
    read_image_list,
    require_same_images,
    stratified_sample,
    stratified_split,
    subset,
    write_image_list,
)
from tests.train.data.image_files import array_images


@given(sizes=st.lists(st.integers(2, 40), min_size=2, max_size=6), share=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_each_class_gives_its_share(sizes: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    if not len(sizes) <= count <= len(labels) - len(sizes):
        return
    stay, away = stratified_split(labels, share, seed=seed)
    assert len(away) == count
    assert sorted([*stay, *away]) == list(range(len(labels)))
    given_away = np.bincount(labels[away], minlength=len(sizes))
    assert (given_away >= 1).all()
    assert (given_away < sizes).all()
    if min(sizes) * share >= 1 and min(sizes) * (1 - share) >= 1:
        assert (np.abs(given_away - share * np.asarray(sizes)) <= 1.5).all()


def test_a_split_is_a_function_of_its_seed() -> None:
    labels = np.arange(200) % 4
    first = stratified_split(labels, 40, seed=1)[1]
    assert (stratified_split(labels, 0.2, seed=1)[1] == first).all()
    assert (stratified_split(labels, 40, seed=2)[1] != first).any()
    assert np.bincount(labels[first]).tolist() == [10, 10, 10, 10]


def test_a_choice_may_take_all() -> None:
    labels = np.array([0, 1, 1, 2])
    assert stratified_sample(labels, 4, seed=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("labels", "amount"), [([0, 0, 1, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 0, 1], 2)])
def test_a_split_must_leave_some_of_each(labels: list[int], amount: float) -> None:
    with pytest.raises(InputError, match="hold one of each class and leave one of each"):
        stratified_split(np.array(labels), amount, seed=0)


def test_lists_are_read_back_and_compared(tmp_path: Path) -> None:
    images = array_images(6)
    path = tmp_path / "heldout.txt"
    write_image_list(path, images)
    assert path.read_text() == "".join(f"picture {index}\n" for index in range(6))
    assert read_image_list(path) == tuple(images.keys)
    require_same_images(path, images)
    with pytest.raises(InputError, match="held-out pictures must be those of") as caught:
        require_same_images(path, subset(images, [0, 1, 2]))
    assert caught.value.got == "3 pictures, listed are 6, 3 differ"
    with pytest.raises(InputError, match="cannot be read"):
        read_image_list(tmp_path / "none.txt")
