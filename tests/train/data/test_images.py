"""Pictures by number, in memory and from bytes."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwnas.errors import InputError
from hwnas.train.data.images import ArrayDataset, BadImageError, BadImageLog, SubsetDataset, decode_image, subset
from tests.train.data.image_files import CountedImages, array_images, pixels, png


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_arrays_are_read_as_colour() -> None:
    images = array_images(3, channels=1)
    assert images.read(1).mode == "RGB"
    assert (np.asarray(images.read(1)) == images.array[1]).all()
    assert (np.asarray(array_images(3).read(2)) == array_images(3).array[2]).all()


def test_a_subset_has_its_own_numbers() -> None:
    images = array_images(10, classes=5)
    for whole in (images, CountedImages(images)):
        part = subset(subset(whole, [8, 6, 4, 2]), [1, 3])
        assert len(part) == 2
        assert part.labels.tolist() == [1, 2]
        assert list(part.keys) == ["picture 6", "picture 2"]
        assert (np.asarray(part.read(1)) == images.array[2]).all()
    assert isinstance(subset(images, [1]), ArrayDataset)
    assert isinstance(part, SubsetDataset)
    assert isinstance(part.images, CountedImages)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((2, 8, 8, 3))]
)
def test_arrays_must_hold_pictures(array: Any) -> None:
    with pytest.raises(InputError, match="bytes of the shape"):
        ArrayDataset(array, np.zeros(2, dtype=np.int64), ["a", "b"])


def test_there_must_be_a_label_each() -> None:
    with pytest.raises(InputError, match="one label and one key"):
        ArrayDataset(pixels(2), np.zeros(3, dtype=np.int64), ["a", "b"])


def test_every_mode_becomes_colour() -> None:
    array = pixels(1)[0]
    colour = Image.fromarray(array)
    assert (np.asarray(decode_image(png(array), "a")) == array).all()
    grey = decode_image(saved(colour.convert("L")), "a")
    assert grey.mode == "RGB"
    assert (np.asarray(grey)[..., 0] == np.asarray(grey)[..., 2]).all()
    assert decode_image(saved(colour.convert("P"), transparency=bytes(range(256))), "a").mode == "RGB"
    assert decode_image(saved(colour.convert("CMYK"), "JPEG"), "a").mode == "RGB"


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", png(pixels(1, size=64)[0])[:900], saved(Image.fromarray(np.ones((4, 4), np.uint16) * 500))],
    ids=["empty", "text", "cut", "16 bits"],
)
def test_what_is_no_picture_is_named(data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"cat/7\.png is not a picture that can be read") as caught:
        decode_image(data, "cat/7.png")
    assert caught.value.key == "cat/7.png"
    assert caught.value.reason


def test_the_tally_counts_each_once_and_ends() -> None:
    bad = BadImageLog(limit=2)
    for key in ("a", "b", "a", "b"):
        bad.add(key, "cut off")
    assert len(bad) == 2
    assert bad.summary() == "2: a (cut off); b (cut off)"
    with pytest.raises(InputError, match="more than 2 pictures cannot be read") as caught:
        bad.add("c", "empty")
    assert caught.value.got == "3: a (cut off); b (cut off); c (empty)"
