"""Datasets with boxes and classes of pixels, by name."""

import pytest
import torch

from hwnas.errors import InputError, UnknownNameError
from hwnas.train.data.detection import load_detection, load_segmentation


def test_scenes_of_digits_are_split() -> None:
    data = load_detection("digits-scene", image_size=48, max_images=40, heldout=0.25)
    assert (len(data.train), len(data.heldout), data.task) == (40, 10, "detection")
    assert data.test is not None
    assert not set(data.train.keys) & set(data.heldout.keys) | set(data.heldout.keys) & set(data.test.keys)
    assert data.classes == tuple("0123456789")
    assert data.num_classes == 11
    image, target = data.heldout[9]
    assert image.shape == (3, 48, 48)
    assert target["masks"].shape == (len(target["labels"]), 48, 48)


def test_the_seed_decides_held_out_scenes_but_no_test_scenes() -> None:
    zero, one = (load_detection("digits-scene", image_size=32, max_images=8, seed=seed) for seed in (0, 1))
    assert zero.fingerprint != one.fingerprint
    assert zero.fingerprint == load_detection("digits-scene", image_size=32, max_images=8).fingerprint
    assert not torch.equal(zero.heldout[0][0], one.heldout[0][0])
    assert zero.test is not None
    assert one.test is not None
    assert torch.equal(zero.test[0][0], one.test[0][0])


def test_digits_are_classes_of_pixels_too() -> None:
    data = load_segmentation("digits-scene", image_size=48, max_images=8)
    boxes = load_detection("digits-scene", image_size=48, max_images=8)
    classes, target = data.train[2][1], boxes.train[2][1]
    assert classes.shape == (48, 48)
    assert classes.dtype == torch.int64
    assert set(classes.unique().tolist()) == {0, *target["labels"].tolist()}
    assert torch.equal(classes > 0, target["masks"].bool().any(0))


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="digits-scen"):
        load_detection("digits-scen", image_size=48)
    with pytest.raises(InputError, match="heldout must be"):
        load_detection("digits-scene", image_size=48, heldout=1.5)
    with pytest.raises(InputError, match="heldout must be"):
        load_segmentation("digits-scene", image_size=48, heldout=-1)
    with pytest.raises(InputError, match="side of"):
        load_detection("digits-scene", image_size=0)
