"""The digits and the images made of them."""

import hashlib
import warnings
from typing import Any

import numpy as np
import pytest

from hwnas.train.data import digits as module
from hwnas.train.data.digits import (
    ClutterConfig,
    ClutterSplit,
    load_originals,
    make_clutter,
    make_digits,
    resize_bilinear,
)


def made(count: int, split: ClutterSplit = "train", **options: int) -> Any:
    return make_clutter(ClutterConfig(split=split, count=count, **options)).array


def test_fewer_images_are_the_first_of_more() -> None:
    assert (made(300)[:130] == made(130)).all()
    few, many = (make_clutter(ClutterConfig(split="train", count=count)) for count in (130, 300))
    assert (few.labels == many.labels[:130]).all()
    assert list(few.keys) == list(many.keys)[:130]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(60)
    monkeypatch.setattr(module, "_CHUNK", 7)
    assert (made(60) == whole).all()


def test_seed_and_split_make_other_images_but_the_test_stays() -> None:
    assert (made(40) == made(40)).all()
    assert (made(40) != made(40, seed=1)).any()
    assert (made(40) != made(40, "heldout")).any()
    assert (made(40, "test") == made(40, "test", seed=1)).all()


def test_no_two_splits_share_an_original() -> None:
    source = load_originals()
    pools = []
    for split in ("train", "heldout", "test"):
        pixels, labels = module.originals_of_split(ClutterConfig(split=split, count=1))
        pools.append({image.tobytes() for image in pixels})
        assert np.bincount(labels).min() > 20
    assert sum(map(len, pools)) == len(set.union(*pools)) <= len(source.labels)


def test_shapes_classes_and_range() -> None:
    images = make_clutter(ClutterConfig(split="train", count=500, image_size=24, channels=1))
    assert images.array.shape == (500, 24, 24, 1)
    assert np.bincount(images.labels, minlength=10).min() > 25
    assert images.array.min() == 0
    assert images.array.max() == 255


def test_an_image_holds_its_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clutter, noise and movement a nearest neighbour among the originals tells the class."""
    for name, value in {
        "PIECE_CONTRAST": (0.0, 0.0),
        "NOISE": 0.0,
        "ROTATION_DEGREES": 0.0,
        "DIGIT_SIZE": (1.0, 1.0),
        "CONTRAST": (1.0, 1.0),
        "TINT": 0.0,
    }.items():
        monkeypatch.setattr(module, name, value)
    images = make_clutter(ClutterConfig(split="train", count=200))
    pixels, labels = module.originals_of_split(ClutterConfig(split="train", count=1))
    shrunk = pixels.reshape(len(pixels), 8, 4, 8, 4).mean(axis=(2, 4))
    right = 0
    for image, label in zip(images.array[..., 0], images.labels, strict=True):
        # The digit may be moved by 5 % of the side: centre both by their mass.
        small = image.reshape(8, 4, 8, 4).mean(axis=(1, 3)).astype(np.float64)
        small -= small.min()
        distance = ((shrunk / shrunk.sum((1, 2), keepdims=True) - small / small.sum()) ** 2).sum(axis=(1, 2))
        right += labels[np.argmin(distance)] == label
    assert right > 170


def test_pixels_alone_tell_little() -> None:
    """A linear classifier is far above chance and far below what a network reaches."""
    from sklearn.linear_model import LogisticRegression

    train, heldout = (make_clutter(ClutterConfig(split=split, count=1500)) for split in ("train", "heldout"))
    grey = [images.array.mean(axis=-1).reshape(len(images), -1)[:, ::2] / 255 - 0.5 for images in (train, heldout)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=1e-3, max_iter=20).fit(grey[0], train.labels)
    assert 0.13 < model.score(grey[1], heldout.labels) < 0.45


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    train, test = make_digits(8, 3)
    assert len(train) + len(test) == 1797
    assert len(test) == 359
    source = load_originals()
    expected = np.round(raw.images[source.test] / 16 * 255)
    assert (test.array == expected[..., None]).all()
    assert (test.labels == raw.target[source.test]).all()
    assert not set(train.keys) & set(test.keys)
    assert (
        hashlib.sha256(make_digits(32, 1)[0].array.tobytes()).digest()
        == hashlib.sha256(make_digits(32, 1)[0].array.tobytes()).digest()
    )


def test_enlarging_is_linear_interpolation() -> None:
    import torch

    pixels = load_originals().pixels[:5]
    expected = torch.nn.functional.interpolate(torch.from_numpy(pixels)[None], size=(32, 32), mode="bilinear")[0]
    np.testing.assert_allclose(resize_bilinear(pixels, 32), expected.numpy(), atol=1e-6)
