"""Reader of images with instances in COCO's format: boxes, and masks as polygons or in run-length code.

Two layouts are known: `annotations/instances_train*.json` with folders of images, and Roboflow's folder per split with
a file `_annotations.coco.json` among the images.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from hwnas.config import Between, from_mapping, load_json
from hwnas.errors import InputError
from hwnas.files import file_errors, path_within, printable, read_bytes
from hwnas.train.data.images import BadImageError, decode_image, oriented, to_array
from hwnas.train.data.masks import decode_mask
from hwnas.train.data.readers import TEST_FOLDERS, TRAIN_FOLDERS
from hwnas.train.data.samples import AnnotatedSource, Sample, instances_target

ANNOTATIONS = "_annotations.coco.json"
"""Roboflow's file of the annotations of a split, among its images."""

_LIMIT = 1e7
_MAX_LISTED = 8
Coordinate = Annotated[float, Between(-_LIMIT, _LIMIT)]
Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image of the file."""

    id: Annotated[int, Between(-(2**63), 2**63 - 1)]
    """Torch holds it in 64 bits."""
    file_name: str
    width: Annotated[int, Between(1, _LIMIT)] | None = None
    height: Annotated[int, Between(1, _LIMIT)] | None = None


@dataclass(frozen=True, kw_only=True)
class CocoCategory:
    """A class of the file."""

    id: int
    name: str
    supercategory: str | None = None


@dataclass(frozen=True, kw_only=True)
class CocoAnnotation:
    """A box of the file."""

    image_id: int
    category_id: int
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    """Left, top, width and height."""
    iscrowd: Annotated[int, Between(0, 1)] = 0
    segmentation: Any = None


@dataclass(kw_only=True)
class Instances:
    """The boxes of an image."""

    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Left, top, right and bottom."""
    labels: list[int] = field(default_factory=list)
    crowds: list[int] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)

    def add(self, row: CocoAnnotation, label: int) -> None:
        """Add a box."""
        left, top, width, height = row.bbox
        self.boxes.append((left, top, left + width, top + height))
        self.labels.append(label)
        self.crowds.append(row.iscrowd)
        self.segmentations.append(_compact(row.segmentation))


@dataclass(frozen=True, kw_only=True)
class CocoImages:
    """The images of one file of annotations."""

    folder: Path
    images: Sequence[CocoImage]
    instances: Mapping[int, Instances]
    """Boxes by the number of the image."""
    masks: bool
    """Decode masks, which every box has."""

    @cached_property
    def keys(self) -> Sequence[str]:
        """Paths of the files, relative to the folder."""
        return [image.file_name for image in self.images]

    def read(self, index: int) -> Sample:
        """Read an image and its boxes; raise BadImageError if that is not possible."""
        row = self.images[index]
        size_stated = None if row.width is None or row.height is None else (row.width, row.height)
        image = oriented(read_image(self.folder, row.file_name), size_stated, row.file_name)
        pixels = to_array(image, channels=3)
        size = pixels.shape[1:]
        stated = (row.height or size[0], row.width or size[1])
        if size != stated:
            reason = f"{size[1]} x {size[0]} pixels, where its annotations are for {stated[1]} x {stated[0]}"
            raise BadImageError(row.file_name, reason)
        found = self.instances.get(row.id, Instances())
        target = instances_target(
            np.asarray(found.boxes, dtype=np.float32),
            np.asarray(found.labels, dtype=np.int64),
            size=size,
            image_id=row.id,
            iscrowd=np.asarray(found.crowds, dtype=np.int64),
            masks=self._masks(row.file_name, found, size) if self.masks else None,
        )
        return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels))), target

    def _masks(self, key: str, found: Instances, size: tuple[int, int]) -> NDArray[np.uint8]:
        masks = np.zeros((len(found.boxes), *size), dtype=np.uint8)
        for number, segmentation in enumerate(found.segmentations):
            try:
                masks[number] = decode_mask(segmentation, size)
            except InputError as error:
                raise BadImageError(key, f"mask {number + 1}: {error}") from error
        return masks


@dataclass(frozen=True)
class CocoPart:
    """Annotations of a split, and the folder of its images."""

    file: Path
    folder: Path


def find_coco(root: Path) -> tuple[CocoPart, CocoPart | None] | None:
    """Find the annotations of training and test images in a folder; None: it is of another layout.

    Raises:
        InputError: There are several files of training images.
    """
    with file_errors(root):
        if (root / ANNOTATIONS).is_file():
            return CocoPart(root / ANNOTATIONS, root), None
        parts = [_roboflow_part(root, names) or _instances_part(root, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS)]
    return (parts[0], parts[1]) if parts[0] else None


def open_coco(train: CocoPart, test: CocoPart | None, *, masks: bool) -> AnnotatedSource:
    """Open the images of a dataset.

    Args:
        train: Training images.
        test: Test images.
        masks: Read masks, if every box of the training images has one.

    Raises:
        InputError: A file is no valid file of annotations, or the classes of the test images are others.
    """
    table = _read(train.file)
    classes = _used_categories(table)
    labels = {row.id: label for label, row in enumerate(classes, start=1)}
    found = _index(table, labels, train.file)
    missing = sum(not _has_mask(part) for row in found.values() for part in row.segmentations)
    total = sum(len(row.boxes) for row in found.values())
    if not total:
        raise InputError(f"{train.file} must have boxes", got=f"none in {len(table.images)} images")
    notes = (f"{missing} of {total} boxes have no mask: masks are not used",) if masks and 0 < missing < total else ()
    with_masks = masks and not missing
    parts = [part for part in (train, test) if part]
    return AnnotatedSource(
        classes=tuple(row.name for row in classes),
        train=CocoImages(folder=train.folder, images=table.images, instances=found, masks=with_masks),
        test=None if test is None else _open_test(test, classes, masks=with_masks),
        identity=" ".join(["coco", *(f"{part.file.name} {_digest(part.file)}" for part in parts)]),
        masks=with_masks,
        notes=notes,
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()[:24]


def read_image(folder: Path, name: str) -> Any:
    """Decode an image of a folder, by a name that comes from data; raise BadImageError if that is not possible."""
    try:
        data = read_bytes(path_within(folder, name))
    except InputError as error:
        raise BadImageError(name, error.got or error.message) from error
    return decode_image(data, name)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The content of a file."""

    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoAnnotation, ...]


def _roboflow_part(root: Path, names: Sequence[str]) -> CocoPart | None:
    files = (root / name / ANNOTATIONS for name in names)
    return next((CocoPart(file, file.parent) for file in files if file.is_file()), None)


def _instances_part(root: Path, names: Sequence[str]) -> CocoPart | None:
    for name in names:
        files = sorted((root / "annotations").glob(f"instances_{name}*.json"))
        if len(files) > 1:
            message = f"{root / 'annotations'} must have one file instances_{name}*.json"
            raise InputError(message, got=", ".join(file.name for file in files[:_MAX_LISTED]))
        if files:
            split = files[0].stem.removeprefix("instances_")
            folders = [root / split, root / "images" / split, root / name, root / "images" / name, root / "images"]
            return CocoPart(files[0], next((folder for folder in folders if folder.is_dir()), root))
    return None


def _read(file: Path) -> _Table:
    data = load_json(file)
    if not isinstance(data, Mapping):
        raise InputError(f"{file} must be a table with images, annotations and categories")
    table = _Table(
        images=tuple(_rows(CocoImage, data, "images", file)),
        categories=tuple(_rows(CocoCategory, data, "categories", file)),
        annotations=tuple(_rows(CocoAnnotation, data, "annotations", file)),
    )
    _require_unique([row.id for row in table.images], "images", file)
    _require_unique([row.file_name for row in table.images], "names of images", file)
    _require_unique([row.id for row in table.categories], "categories", file)
    _require_unique([row.name for row in table.categories], "names of categories", file)
    for row in table.images:
        _require_name(row.file_name, file)
    return table


def _rows(cls: type[Row], data: Mapping[str, Any], key: str, file: Path) -> Iterator[Row]:
    """Read the rows of a list; keys that are not used are allowed."""
    rows = data.get(key)
    if not isinstance(rows, list):
        raise InputError(f"{file} must have a list {key!r}", got=f"only {', '.join(map(str, data))}"[:200])
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    for number, row in enumerate(rows):
        used = {name: row[name] for name in known & row.keys()} if isinstance(row, Mapping) else row
        yield from_mapping(cls, used, where=f"{file}: {key}[{number}]")


def _require_unique(values: Sequence[object], what: str, file: Path) -> None:
    if len(set(values)) < len(values):
        seen: set[object] = set()
        twice = next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise InputError(f"{what} of {file} must be unique", got=printable(str(twice)))


def _require_name(name: str, file: Path) -> None:
    """Require a name that can lead to a file of the folder, and be a line of a list of images."""
    path = PurePosixPath(name)
    if not name.isprintable() or path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise InputError(f"file names in {file} must be paths within its folder of images", got=printable(name))


def _used_categories(table: _Table) -> list[CocoCategory]:
    """Return the classes by their number, without Roboflow's class that only names the group of the others."""
    used = {row.category_id for row in table.annotations}
    groups = {row.supercategory for row in table.categories if row.supercategory != row.name}
    chosen = [row for row in table.categories if row.id in used or row.name not in groups]
    return sorted(chosen, key=lambda row: row.id)


def _index(table: _Table, labels: Mapping[int, int], file: Path) -> dict[int, Instances]:
    """Group the boxes by image."""
    found: dict[int, Instances] = {}
    images = {row.id for row in table.images}
    for number, row in enumerate(table.annotations):
        if row.image_id not in images or row.category_id not in labels:
            kind = "image" if row.image_id not in images else "category"
            value = row.image_id if kind == "image" else row.category_id
            raise InputError(f"{file}: annotations[{number}].{kind}_id must be the id of one of the file", got=value)
        found.setdefault(row.image_id, Instances()).add(row, labels[row.category_id])
    return found


def _open_test(part: CocoPart, classes: Sequence[CocoCategory], *, masks: bool) -> CocoImages:
    """Open the test images, whose classes are found by their names."""
    table = _read(part.file)
    numbers = {row.name: label for label, row in enumerate(classes, start=1)}
    used = _used_categories(table)
    others = [row.name for row in used if row.name not in numbers]
    if others:
        got = printable(", ".join(others[:_MAX_LISTED]))
        raise InputError(f"{part.file} must have the categories of the training images", got=got)
    found = _index(table, {row.id: numbers[row.name] for row in used}, part.file)
    if masks and not all(_has_mask(item) for row in found.values() for item in row.segmentations):
        raise InputError(f"{part.file} must have a mask for each box, as the training images do")
    return CocoImages(folder=part.folder, images=table.images, instances=found, masks=masks)


def _has_mask(segmentation: Any) -> bool:
    return bool(segmentation)


def _compact(segmentation: Any) -> Any:
    """Store polygons as arrays: the lists of a large dataset take gigabytes."""
    if isinstance(segmentation, list) and segmentation and all(_is_polygon(part) for part in segmentation):
        return tuple(np.asarray(part, dtype=np.float32) for part in segmentation)
    return segmentation


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(value, (int, float)) and abs(value) <= _LIMIT for value in part)
