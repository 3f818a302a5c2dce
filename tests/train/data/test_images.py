"""Images by number, in memory and from bytes."""

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.errors import InputError
from hwnas.train.data.augment import eval_transform
from hwnas.train.data.images import (
    ArrayDataset,
    BadImageError,
    BadImageLog,
    ObjectDataset,
    SubsetDataset,
    decode_image,
    read_image_list,
    require_same_images,
    stratified_sample,
    stratified_split,
    subset,
    write_image_list,
)
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
        assert list(part.keys) == ["image 6", "image 2"]
        assert (np.asarray(part.read(1)) == images.array[2]).all()
    assert isinstance(subset(images, [1]), ArrayDataset)
    assert isinstance(part, SubsetDataset)
    assert isinstance(part.dataset, CountedImages)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((2, 8, 8, 3))]
)
def test_arrays_must_hold_images(array: Any) -> None:
    with pytest.raises(InputError, match="uint8 of the shape"):
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
    [b"", b"no image", png(pixels(1, size=64)[0])[:900], saved(Image.fromarray(np.ones((4, 4), np.uint16) * 500))],
    ids=["empty", "text", "cut", "16 bits"],
)
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"cat/7\.png is not an image that can be read") as caught:
        decode_image(data, "cat/7.png")
    assert caught.value.key == "cat/7.png"
    assert caught.value.reason


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


HOSTILE = {
    "spider": saved(Image.new("F", (8, 8)), "SPIDER"),
    "eps": saved(Image.new("RGB", (8, 8)), "EPS"),
    "bomb": png_of_size(60_000, 60_000),
    "no pixels": png_of_size(0, 8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_formats_that_do_harm_are_bad_images(name: str) -> None:
    with pytest.raises(BadImageError, match="is not an image"):
        decode_image(HOSTILE[name], name)


def test_a_bad_image_is_named_and_no_object_of_the_decoder() -> None:
    with pytest.raises(BadImageError) as caught:
        decode_image(b"not an image", "ant/broken.jpg")
    assert (caught.value.key, caught.value.reason) == ("ant/broken.jpg", "cannot identify image file")


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged tags
@pytest.mark.parametrize("format_name", ["AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "PNG", "PPM", "QOI", "TIFF"])
def test_whatever_a_decoder_raises_is_one_bad_image(format_name: str) -> None:
    try:
        content = saved(Image.fromarray(pixels(1, size=16)[0]), format_name)
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write the format")
    rng = random.Random(0)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(BadImageError):
            decode_image(bytes(damaged[: rng.randrange(1, len(damaged) + 1)]), "image")


@pytest.mark.parametrize(
    "error", [AttributeError("x"), RuntimeError("x"), KeyError(), MemoryError(), ZeroDivisionError()]
)
def test_errors_of_decoders_have_no_common_type(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImageError) as caught:
        decode_image(png(pixels(1)[0]), "image")
    assert caught.value.reason


def test_a_long_line_is_cropped_before_it_is_resized() -> None:
    line = Image.fromarray(np.full((1, 60_000, 3), 7, np.uint8))
    found = eval_transform(image_size=64)(line)  # 64 x 3,840,000 pixels otherwise
    assert found.size == (64, 64)
    assert (np.asarray(found) == 7).all()


def test_the_tally_counts_each_once_and_ends() -> None:
    bad = BadImageLog(limit=2)
    for key in ("a", "b", "a", "b"):
        bad.add(key, "cut off")
    assert len(bad) == 2
    assert bad.summary() == "2: a (cut off); b (cut off)"
    with pytest.raises(InputError, match="more than 2 images cannot be read") as caught:
        bad.add("c", "empty")
    assert caught.value.got == "3: a (cut off); b (cut off); c (empty)"


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
    with pytest.raises(InputError, match="have one of each class and leave one of each"):
        stratified_split(np.array(labels), amount, seed=0)


def test_lists_are_read_back_and_compared(tmp_path: Path) -> None:
    images = array_images(6)
    path = tmp_path / "heldout.txt"
    write_image_list(path, images)
    assert path.read_text() == "".join(f"image {index}\n" for index in range(6))
    assert read_image_list(path) == tuple(images.keys)
    require_same_images(path, images)
    with pytest.raises(InputError, match="held-out images must be those of") as caught:
        require_same_images(path, subset(images, [0, 1, 2]))
    assert caught.value.got == "3 images, where 6 are listed; 3 differ"
    with pytest.raises(InputError, match="there is no file"):
        read_image_list(tmp_path / "none.txt")


class Raising:
    """A dataset whose items cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[object, int]:
        raise RuntimeError("no such file on the server")


@pytest.mark.parametrize(
    ("items", "message", "got"),
    [
        (None, "must have __len__ and __getitem__", "NoneType"),
        ("images", "must have __len__ and __getitem__", "str"),
        (iter([]), "must have __len__ and __getitem__", "list_iterator"),
        ([5], "item 0 of a dataset must be a pair", "TypeError"),
        ([(np.zeros((4, 4, 3), np.uint8),)], "item 0 of a dataset must be a pair", "ValueError"),
        ({"a": 1}, "item 0 of a dataset must be a pair", "KeyError"),
        (Raising(), "item 0 of a dataset must be a pair", "RuntimeError: no such file on the server"),
        ([(np.zeros((4, 4, 3), np.uint8), None)], "class indices of a dataset object must be whole", "object"),
        ([(np.zeros((4, 4, 3), np.uint8), "cat")], "class indices of a dataset object must be whole", "<U3"),
        ([(np.zeros((4, 4, 3), np.uint8), -1)], "must not be negative", "-1"),
        ([(np.zeros((4, 4, 3), np.uint8), 10**30)], "class indices of a dataset object must be whole", "object"),
    ],
)
def test_an_object_that_is_no_dataset_is_an_error(items: Any, message: str, got: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ObjectDataset(items)
    assert got in str(caught.value.got)


@pytest.mark.parametrize("image", [None, "a.png", np.zeros((4, 4)), np.zeros((0, 4, 3), np.uint8), [[1], [2, 3]]])
def test_an_item_without_an_image_is_a_bad_image(image: Any) -> None:
    with pytest.raises(BadImageError):
        ObjectDataset([(image, 0)]).read(0)
