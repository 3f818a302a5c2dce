"""Datasets in COCO's format: layouts, classes, boxes, masks, and everything that may be wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import InputError
from hwnas.train.data.coco import ANNOTATIONS
from hwnas.train.data.detection import load_detection, load_segmentation
from hwnas.train.data.images import BadImageError
from hwnas.train.data.masks import load_coco
from hwnas.train.data.samples import IGNORED, AnnotatedData

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog", "supercategory": "animal"}]


def row(number: int, image: int, **options: Any) -> dict[str, Any]:
    made = {"id": number, "image_id": image, "category_id": 3, "bbox": [2, 4, 6, 8], "area": 48, "iscrowd": 0}
    return made | options


def table(count: int = 12, *, annotations: list[dict[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
    images = [{"id": 100 + number, "file_name": f"{number}.png", "width": 32, "height": 16} for number in range(count)]
    rows = [row(number, 100 + number) for number in range(count)] if annotations is None else annotations
    return {"info": {}, "images": images, "annotations": rows, "categories": CATEGORIES} | options


def write_images(folder: Path, count: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (32, 16), (number, 0, 0)).save(folder / f"{number}.png")


def write_coco(root: Path, train: dict[str, Any], test: dict[str, Any] | None = None) -> None:
    (root / "annotations").mkdir(parents=True)
    write_images(root / "train2017")
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(train))
    if test is not None:
        write_images(root / "val2017")
        (root / "annotations" / "instances_val2017.json").write_text(json.dumps(test))


def opened(root: Path, **options: Any) -> AnnotatedData:
    return load_detection(str(root), image_size=32, heldout=0, **options)


def one(root: Path, *rows: dict[str, Any], **options: Any) -> AnnotatedData:
    """A dataset of which the first image has some boxes."""
    others = [row(900 + number, 100 + number) for number in range(1, 12)]
    write_coco(root, table(annotations=[*rows, *others], **options), table(3))
    return opened(root)


def test_cocos_layout_is_read_and_split(tmp_path: Path) -> None:
    write_coco(tmp_path, table(), table(3))
    data = load_detection(str(tmp_path), image_size=32, heldout=0.25, seed=1)
    assert (len(data.train), len(data.heldout)) == (9, 3)
    assert data.test is not None
    assert list(data.test.keys) == ["0.png", "1.png", "2.png"]
    assert sorted([*data.train.keys, *data.heldout.keys]) == sorted(f"{number}.png" for number in range(12))
    assert data.classes == ("cat", "dog")
    image, target = data.test[2]
    assert image[:, 0, 0].tolist() == [2, 0, 0]
    assert target["boxes"].tolist() == [[2, 4, 8, 12]]
    assert int(target["image_id"]) == 102
    assert data.notes == ()


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    write_coco(tmp_path, table())
    parts = [load_detection(str(tmp_path), image_size=32, heldout=3, seed=seed) for seed in (0, 0, 1)]
    assert list(parts[0].heldout.keys) == list(parts[1].heldout.keys)
    assert list(parts[0].heldout.keys) != list(parts[2].heldout.keys)
    tests = [list(part.test.keys) if part.test else [] for part in parts]
    assert tests[0] == tests[2]
    assert len(tests[0]) == 1
    assert "split off for testing" in parts[0].notes[0]


def test_roboflows_layout_is_read_without_its_group_of_classes(tmp_path: Path) -> None:
    group = [{"id": 0, "name": "pets", "supercategory": "none"}]
    classes = [{"id": 1, "name": "cat", "supercategory": "pets"}, {"id": 2, "name": "dog", "supercategory": "pets"}]
    for name in ("train", "valid"):
        write_images(tmp_path / name)
        rows = [row(number, 100 + number, category_id=1 + number % 2, segmentation=[]) for number in range(12)]
        content = table(annotations=rows, categories=group + classes)
        (tmp_path / name / ANNOTATIONS).write_text(json.dumps(content))
    data = opened(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.test is not None
    assert data.test[1][1]["labels"].tolist() == [2]
    assert "masks" not in data.test[1][1]


def test_gaps_between_categories_are_closed(tmp_path: Path) -> None:
    data = one(tmp_path, row(1, 100), row(2, 100, category_id=90))
    assert data.train[0][1]["labels"].tolist() == [1, 2]


def test_classes_of_test_images_are_found_by_name(tmp_path: Path) -> None:
    swapped = [{"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}]
    write_coco(tmp_path, table(), table(3, categories=swapped))
    data = opened(tmp_path)
    assert data.test is not None
    assert data.test[0][1]["labels"].tolist() == [2]


def test_other_classes_of_test_images_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, table(), table(3, categories=[*CATEGORIES, {"id": 4, "name": "cow"}]))
    with pytest.raises(InputError, match="categories of the training images") as caught:
        opened(tmp_path)
    assert caught.value.got == "cow"


def test_boxes_are_clipped_and_empty_ones_dropped(tmp_path: Path) -> None:
    boxes = [[-4, 4, 10, 50], [40, 2, 5, 5], [3, 3, 0, 4], [8, 8, -2, 4]]
    data = one(tmp_path, *(row(number, 100, bbox=box) for number, box in enumerate(boxes)))
    assert data.train[0][1]["boxes"].tolist() == [[0, 4, 6, 16]]


def test_images_may_have_no_boxes(tmp_path: Path) -> None:
    target = one(tmp_path).train[0][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_crowds_are_no_objects_of_a_training(tmp_path: Path) -> None:
    rows = [row(number, 100 + number, iscrowd=number % 2) for number in range(12)]
    write_coco(tmp_path, table(annotations=rows), table(2, annotations=rows[:2]))
    data = opened(tmp_path)
    assert [len(data.train[index][1]["labels"]) for index in (0, 1)] == [1, 0]
    assert data.test is not None
    assert [data.test[index][1]["iscrowd"].tolist() for index in (0, 1)] == [[0], [1]]


POLYGON = [[2, 4, 8, 4, 8, 12, 2, 12]]


def runs(mask: Any) -> list[int]:
    """Run lengths of a mask down its columns, beginning with a run of zeros."""
    flat = np.asarray(mask).T.ravel()
    starts = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return [int(length) for length in np.diff(np.concatenate([[0], starts]))]


def square() -> Any:
    mask = np.zeros((16, 32), dtype=np.uint8)
    mask[4:12, 2:8] = 1
    return mask


def compressed(mask: Any) -> dict[str, Any]:
    code = load_coco("mask").encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.mark.parametrize(
    "segmentation", [POLYGON, {"size": [16, 32], "counts": runs(square())}, compressed(square())], ids=str
)
def test_masks_are_polygons_or_run_lengths(tmp_path: Path, segmentation: Any) -> None:
    rows = [row(number, 100 + number, segmentation=segmentation) for number in range(12)]
    write_coco(tmp_path, table(annotations=rows))
    masks = opened(tmp_path).train[0][1]["masks"]
    assert masks.dtype == torch.uint8
    assert torch.equal(masks[0, :16], torch.from_numpy(square()))
    assert not masks[0, 16:].any()
    assert "masks" not in load_detection(str(tmp_path), image_size=32, masks=False).train[0][1]


def test_masks_become_classes_of_pixels(tmp_path: Path) -> None:
    rows = [row(number, 100 + number, segmentation=POLYGON, category_id=90) for number in range(12)]
    write_coco(tmp_path, table(annotations=rows))
    data = load_segmentation(str(tmp_path), image_size=32, heldout=2)
    classes = data.train[0][1]
    assert torch.equal(classes[:16] == 2, torch.from_numpy(square()).bool())
    assert (classes[16:] == IGNORED).all()


def test_boxes_alone_are_no_classes_of_pixels(tmp_path: Path) -> None:
    write_coco(tmp_path, table())
    with pytest.raises(InputError, match="must have masks"):
        load_segmentation(str(tmp_path), image_size=32)


def test_masks_that_only_some_boxes_have_are_not_used(tmp_path: Path) -> None:
    data = one(tmp_path, row(1, 100, segmentation=POLYGON))
    assert "masks" not in data.train[0][1]
    assert data.notes == ("11 of 12 boxes have no mask: masks are not used",)


FULL = {"size": [16, 32], "counts": [512]}


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [8, 32], "counts": [256]}, "size of its image"),
        ({"size": [16, 32], "counts": [511]}, "must cover its image"),
        ({"size": [16, 32], "counts": [-1, 513]}, "lengths of runs"),
        ({"size": [16, 32], "counts": [1.5]}, "lengths of runs"),
        ({"size": [16, 32], "counts": "~~~~"}, "compressed code"),
        ({"size": [16, 32], "counts": "P" * 50}, "compressed code"),
        ({"size": [16, 32], "counts": "P"}, "must be complete"),
        ({"counts": [512]}, "size of its image"),
        ([[1, 2, 3]], "at least 3 points"),
        ([["a"] * 6], "at least 3 points"),
        ([[1, 2, 3, 4, 5]], "at least 3 points"),
        (7, "at least 3 points"),
    ],
    ids=str,
)
def test_a_bad_mask_makes_a_bad_image(tmp_path: Path, segmentation: Any, reason: str) -> None:
    rows = [row(number, 100 + number, segmentation=FULL) for number in range(12)]
    rows[0]["segmentation"] = segmentation
    write_coco(tmp_path, table(annotations=rows), None)
    data = opened(tmp_path)
    index = list(data.train.keys).index("0.png") if "0.png" in data.train.keys else None
    dataset = data.train if index is not None else data.test
    assert dataset is not None
    with pytest.raises(BadImageError, match=r"0\.png") as caught:
        dataset[index or list(dataset.keys).index("0.png")]
    assert reason in str(caught.value.got)


def test_far_points_of_polygons_take_no_memory(tmp_path: Path) -> None:
    rows = [row(number, 100 + number, segmentation=[[0, 0, 1e7, 0, 1e7, 1e7, -1e7, 1e7]]) for number in range(12)]
    write_coco(tmp_path, table(annotations=rows))
    assert opened(tmp_path).train[0][1]["masks"][0].sum() > 400


def test_an_image_of_another_size_or_without_a_file_is_bad(tmp_path: Path) -> None:
    write_coco(tmp_path, table(), table(3))
    Image.new("RGB", (16, 16)).save(tmp_path / "train2017" / "0.png")
    (tmp_path / "train2017" / "1.png").unlink()
    (tmp_path / "train2017" / "2.png").write_bytes(b"no image")
    data = opened(tmp_path)
    for index, reason in enumerate(("annotations are for 32 x 16", "there is no file", "cannot identify")):
        with pytest.raises(BadImageError, match=rf"{index}\.png") as caught:
            data.train[index]
        assert reason in str(caught.value.got)


def test_sizes_need_not_be_stated(tmp_path: Path) -> None:
    content = table()
    for image in content["images"]:
        del image["width"], image["height"]
    write_coco(tmp_path, content)
    assert opened(tmp_path).train[0][0].shape == (3, 32, 32)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "..\\b.png", "", "a\nb.png"])
def test_names_of_images_must_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    content = table()
    content["images"][3]["file_name"] = name
    write_coco(tmp_path, content)
    with pytest.raises(InputError, match="must be paths within"):
        opened(tmp_path)


def test_links_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere")
    write_coco(tmp_path / "data", table(), table(3))
    (tmp_path / "data" / "train2017" / "0.png").unlink()
    (tmp_path / "data" / "train2017" / "0.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    with pytest.raises(BadImageError, match=r"0\.png"):
        opened(tmp_path / "data").train[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": None}, "must have a list 'images'"),
        ({"annotations": {}}, "must have a list 'annotations'"),
        ({"categories": [7]}, r"categories\[0\] must be a table"),
        ({"categories": [{"id": 3}]}, r"categories\[0\]\.name is missing"),
        ({"categories": CATEGORIES * 2}, "must be unique"),
        ({"annotations": []}, "must have boxes"),
        ({"annotations": [row(1, 100, bbox=[1, 2, 3])]}, r"annotations\[0\]\.bbox must have 4 values"),
        ({"annotations": [row(1, 100, bbox=[1, 2, 3, 1e300])]}, r"bbox\[3\] must be between"),
        ({"annotations": [row(1, 100, bbox=None)]}, "bbox must be a list"),
        ({"annotations": [row(1, 100, iscrowd=2)]}, "iscrowd must be between"),
        ({"annotations": [row(1, 7)]}, r"annotations\[0\]\.image_id"),
        ({"annotations": [row(1, 100, category_id=1)]}, r"annotations\[0\]\.category_id"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "images of .* must be unique"),
        ({"images": [{"id": "1", "file_name": "a"}]}, r"images\[0\]\.id must be a whole number"),
    ],
    ids=str,
)
def test_files_are_checked(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    write_coco(tmp_path, table() | change)
    with pytest.raises(InputError, match=match):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '{"images": [NaN]}', "[" * 5000])
def test_hostile_json_is_an_error(tmp_path: Path, text: str) -> None:
    write_coco(tmp_path, table())
    (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(InputError, match=r"instances_train2017\.json"):
        opened(tmp_path)


def test_two_files_of_training_images_are_ambiguous(tmp_path: Path) -> None:
    write_coco(tmp_path, table())
    (tmp_path / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(InputError, match="must have one file"):
        opened(tmp_path)


def test_ids_of_images_have_64_bits(tmp_path: Path) -> None:
    content = table()
    content["images"][0]["id"] = 2**63
    write_coco(tmp_path, content, table(3))
    with pytest.raises(InputError, match="id"):
        opened(tmp_path)


def test_edited_annotations_are_other_data(tmp_path: Path) -> None:
    write_coco(tmp_path, table(), table(3))
    before = opened(tmp_path).fingerprint
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace("[2, 4, 6, 8]", "[2, 4, 6, 9]"))
    assert opened(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    ("width", "height", "pixel"), [(16, 32, [[2, 0, 0], [1, 0, 0]]), (32, 16, [[1, 0, 0], [2, 0, 0]])]
)
def test_images_are_turned_as_exif_says_unless_annotated_as_stored(
    tmp_path: Path, width: int, height: int, pixel: list[list[int]]
) -> None:
    content = table()
    content["images"][0] |= {"width": width, "height": height}
    write_coco(tmp_path, content, table(3))
    stored = Image.new("RGB", (32, 16), (1, 0, 0))
    stored.paste((2, 0, 0), (0, 8, 32, 16))  # the lower half, which is the left one of the turned image
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "train2017" / "0.png", exif=exif)
    image, _ = opened(tmp_path).train.read(0)
    assert image.shape == (3, height, width)
    corners = [image[:, 0, 0].tolist(), image[:, -1, -1].tolist()]
    assert corners == pixel


def test_classes_get_the_numbers_of_a_training_by_their_names(tmp_path: Path) -> None:
    data = one(tmp_path, row(1, 100), row(2, 100, category_id=90))
    assert data.with_classes(("cat", "dog")) is data
    other = data.with_classes(("cow", "dog", "cat"))
    assert other.train[0][1]["labels"].tolist() == [3, 2]
    assert other.num_classes == 4
    with pytest.raises(InputError, match="must be those that the networks were trained on") as caught:
        data.with_classes(("cow", "dog"))
    assert caught.value.got == "cat"


def test_masks_are_left_out_where_they_are_not_needed(tmp_path: Path) -> None:
    polygon = [[2, 4, 8, 4, 8, 12]]
    write_coco(
        tmp_path,
        table(annotations=[row(n, 100 + n, segmentation=polygon) for n in range(12)]),
        table(3, annotations=[]),
    )
    assert "masks" in opened(tmp_path).train[0][1]
    assert "masks" not in opened(tmp_path, masks=False).train[0][1]
    assert "masks" not in load_detection("digits-scene", image_size=32, max_images=4, masks=False).train[0][1]


def test_no_class_of_pixels_is_the_number_of_those_that_do_not_count(tmp_path: Path) -> None:
    polygon = [[2, 4, 8, 4, 8, 12]]
    many = [{"id": number, "name": f"c{number}"} for number in range(IGNORED)]
    rows = [row(n, 100 + n, segmentation=polygon) for n in range(12)]
    write_coco(tmp_path, table(annotations=rows, categories=many))
    with pytest.raises(InputError, match="at most 254 classes beside the background"):
        load_segmentation(str(tmp_path), image_size=32)
    assert len(opened(tmp_path).classes) == IGNORED
