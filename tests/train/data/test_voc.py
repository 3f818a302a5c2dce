"""Datasets in the layout of Pascal VOC."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import InputError
from hwnas.train.data.detection import load_detection, load_segmentation
from hwnas.train.data.images import BadImageError
from hwnas.train.data.samples import IGNORED, AnnotatedData
from hwnas.train.data.voc import VOC_CLASSES

NAMES = [f"a{number}" for number in range(10)]
COLORS = [0, 0, 0, 128, 0, 0, 0, 128, 0]


def classes(number: int = 1) -> Any:
    pixels = np.zeros((16, 32), dtype=np.uint8)
    pixels[4:12, 2:8], pixels[0] = number, IGNORED
    return pixels


def write_voc(root: Path, *, train: list[str] = NAMES, val: list[str] | None = None, mode: str = "P") -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in [*train, *(val or [])]:
        Image.new("RGB", (32, 16), (9, 9, 9)).save(root / "JPEGImages" / f"{name}.jpg")
        image = Image.fromarray(classes(1 + len(name) % 2))
        image.putpalette([*COLORS, *[224, 224, 192] * 253])
        image.convert(mode).save(root / "SegmentationClass" / f"{name}.png")
    for listed, names in (("train", train), ("val", val)):
        if names is not None:
            (root / "ImageSets" / "Segmentation" / f"{listed}.txt").write_text("".join(f"{name}\n" for name in names))


def opened(root: Path, **options: Any) -> AnnotatedData:
    return load_segmentation(str(root), image_size=32, **options)


def test_lists_and_classes_are_read(tmp_path: Path) -> None:
    write_voc(tmp_path, val=["b0", "long"])
    data = opened(tmp_path, heldout=0.2)
    assert (len(data.train), len(data.heldout)) == (8, 2)
    assert data.classes == ("1",)
    assert data.test is not None
    assert list(data.test.keys) == ["b0", "long"]
    image, target = data.test[0]
    assert image.shape == (3, 32, 32)
    assert torch.equal(target[:16], torch.from_numpy(classes()).long())
    assert (target[16:] == IGNORED).all()


def test_without_a_second_list_test_images_are_split_off(tmp_path: Path) -> None:
    write_voc(tmp_path)
    data = opened(tmp_path, heldout=3)
    assert data.test is not None
    assert (len(data.train), len(data.heldout), len(data.test)) == (6, 3, 1)
    assert "split off for testing" in data.notes[0]


def test_colors_are_classes_by_a_label_map(tmp_path: Path) -> None:
    for mode in ("RGB", "P"):
        root = tmp_path / mode
        write_voc(root, mode=mode, train=[*NAMES, "odd"])
        (root / "labelmap.txt").write_text(
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsky:0,128,0::\ntree:128,0,0::\n"
        )
        data = opened(root, heldout=0)
        assert data.classes == ("sky", "tree")
        by_name = {
            key: part[index][1] for part in (data.train, data.test) if part for index, key in enumerate(part.keys)
        }
        assert torch.equal(by_name["a0"][:16], torch.from_numpy(np.where(classes() == 1, 2, classes())).long())
        assert set(by_name["odd"].unique().tolist()) == {0, 1, IGNORED}


def test_folders_named_as_vocs_have_its_classes(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2012")
    assert opened(tmp_path / "VOC2012").classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda root: Image.new("L", (16, 16)).save(root / "SegmentationClass" / "b0.png"),
            "16 x 16 pixels, the image",
        ),
        (lambda root: Image.new("L", (32, 16), 9).save(root / "SegmentationClass" / "b0.png"), "below 2, not 9"),
        (lambda root: Image.new("RGB", (32, 16)).save(root / "SegmentationClass" / "b0.png"), "not RGB"),
        (lambda root: (root / "SegmentationClass" / "b0.png").write_bytes(b"x"), "cannot identify"),
        (lambda root: (root / "JPEGImages" / "b0.jpg").write_bytes(b"x"), "cannot identify"),
        (lambda root: (root / "JPEGImages" / "b0.jpg").unlink(), "there is no file"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, change: Any, reason: str) -> None:
    write_voc(tmp_path, val=["b0"])
    change(tmp_path)
    test = opened(tmp_path, heldout=0).test
    assert test is not None
    with pytest.raises(BadImageError, match="b0") as caught:
        test[0]
    assert reason in str(caught.value)


def test_unknown_colors_make_a_bad_image(tmp_path: Path) -> None:
    write_voc(tmp_path, mode="RGB", val=["b0"])
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nsky:0,128,0::\n")
    with pytest.raises(BadImageError, match="a0") as caught:
        opened(tmp_path, heldout=0).train[0]
    assert "800000" in str(caught.value.got)


@pytest.mark.parametrize("text", ["sky", "sky:1,2::", "sky:300,0,0::", "background:0,0,0::", "a:1,0,0::\nb:1,0,0::"])
def test_label_maps_are_checked(tmp_path: Path, text: str) -> None:
    write_voc(tmp_path, mode="RGB")
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(InputError, match=r"labelmap\.txt"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\x00b"])
def test_names_must_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text(f"a0\n{name}\n")
    with pytest.raises(InputError, match="must be those of images"):
        opened(tmp_path)


def test_lists_must_have_different_names(tmp_path: Path) -> None:
    write_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("a1\n")
    with pytest.raises(InputError, match="no training images"):
        opened(tmp_path)
    (lists / "train.txt").write_text("a1\na1\n")
    with pytest.raises(InputError, match="must be unique"):
        opened(tmp_path)
    (lists / "train.txt").write_text("\n")
    with pytest.raises(InputError, match="list of training images"):
        opened(tmp_path)


def test_classes_of_pixels_are_no_boxes(tmp_path: Path) -> None:
    write_voc(tmp_path)
    with pytest.raises(InputError, match="has no boxes"):
        load_detection(str(tmp_path), image_size=32)


def test_edited_classes_are_other_data(tmp_path: Path) -> None:
    write_voc(tmp_path)
    before = opened(tmp_path).fingerprint
    Image.fromarray(classes(1)[:, ::-1]).resize((16, 16)).save(tmp_path / "SegmentationClass" / "a3.png")
    assert opened(tmp_path).fingerprint != before


def test_classes_without_names_are_those_of_the_same_numbers(tmp_path: Path) -> None:
    write_voc(tmp_path)
    data = opened(tmp_path, heldout=0)
    named = data.with_classes(("cat", "dog"))
    assert (named.classes, named.num_classes) == (("cat", "dog"), 3)
    assert named.train is data.train
    with pytest.raises(InputError, match="those that the networks were trained on"):
        replace(named, classes=("cow",)).with_classes(("cat", "dog"))


def test_images_are_turned_to_fit_their_classes_which_get_other_numbers_by_name(tmp_path: Path) -> None:
    write_voc(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (16, 32), (9, 9, 9)).save(tmp_path / "JPEGImages" / "a0.jpg", exif=exif)
    data = opened(tmp_path, heldout=0).with_classes(("0", "1"))
    index = list(data.train.keys).index("a0")
    image, target = data.train.read(index)
    assert image.shape == (3, 16, 32)
    assert set(target.unique().tolist()) == {0, 2, IGNORED}
