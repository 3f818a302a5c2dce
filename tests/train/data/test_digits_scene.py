"""Scenes of digits."""

import numpy as np
import pytest
import torch

from hwnas.train.data.digits import ClutterSplit
from hwnas.train.data.digits_scene import MAX_DIGITS, DigitsScenes, box_of_mask


def scenes(split: ClutterSplit = "train", *, count: int = 40, size: int = 64, seed: int = 0) -> DigitsScenes:
    return DigitsScenes(split=split, count=count, image_size=size, seed=seed)


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    first, again = scenes().read(3), scenes(count=9).read(3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])
    others = [scenes().read(4), scenes(seed=1).read(3), scenes("heldout").read(3)]
    assert not any(torch.equal(first[0], other[0]) for other in others)
    assert torch.equal(scenes("test").read(3)[0], scenes("test", seed=1).read(3)[0])


def test_boxes_are_those_of_the_masks() -> None:
    counts, labels = [], set()
    for index in range(40):
        image, target = scenes().read(index)
        assert image.shape == (3, 64, 64)
        assert image.dtype == torch.uint8
        masks = target["masks"].numpy().astype(bool)
        assert masks.sum(axis=0).max() <= 1
        assert target["boxes"].tolist() == [list(box_of_mask(mask)) for mask in masks]
        counts.append(len(masks))
        labels |= set(target["labels"].tolist())
    assert 1 <= min(counts) < 3 < max(counts) <= MAX_DIGITS
    assert labels == set(range(1, 11))


def test_masks_show_digits() -> None:
    """Pixels of a digit are brighter than those around it."""
    brighter = []
    for index in range(20):
        image, target = scenes().read(index)
        grey, masks = image.float().mean(0), target["masks"].bool()
        background = grey[~masks.any(0)].mean()
        brighter += [float(grey[mask].mean() - background) for mask in masks]
    assert np.mean(brighter) > 60
    assert np.mean(np.asarray(brighter) > 0) > 0.95


def test_sizes_show_the_same_scene() -> None:
    small, large = scenes(size=64).read(5)[1], scenes(size=128).read(5)[1]
    assert small["labels"].tolist() == large["labels"].tolist()
    assert (small["boxes"] * 2 - large["boxes"]).abs().max() <= 3


def test_an_index_out_of_range_ends_the_dataset() -> None:
    with pytest.raises(IndexError):
        scenes(count=2).read(2)
