"""Readers of image folders, of WebDataset tar files and of torchvision's datasets.

A folder has one folder of images per class. A tar file is indexed once and its images are then read where they lie:
WebDataset itself streams, so that it can neither hold out images by class nor resume in the middle of an epoch.
"""

import lzma
import os
import shlex
import struct
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, printable, require_regular
from hwnas.train.data.folder_index import FolderIndex
from hwnas.train.data.images import (
    DECODER_ERRORS,
    ArrayDataset,
    BadImageError,
    ImageDataset,
    Labels,
    decode_image,
    number_classes,
    require_labels,
)

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")

TAR_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images in a tar file; a member of the same name with the suffix `cls` has the class index."""

_MAX_CLASS_BYTES = 32
"""Bytes of a member with a class index that are read."""

TORCHVISION_NAMES = (
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "image_folder",
    "imagenet",
    "kmnist",
    "mnist",
    "places365",
    "qmnist",
)
"""Datasets that timm opens as `torch/NAME` and whose labels are known without decoding images."""


@dataclass(frozen=True)
class FolderDataset:
    """Image files below a folder."""

    root: Path
    keys: Sequence[str]
    """Paths of the files, relative to the root."""
    labels: Labels

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        key = self.keys[index]
        try:
            require_regular(self.root / key)
            with file_errors(self.root / key):
                data = (self.root / key).read_bytes()  # not files.read_bytes, which logs each file
        except InputError as error:
            raise BadImageError(key, error.got or error.message) from error
        return decode_image(data, key)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of classes, or of training and test folders that have the classes."""

    path: Path

    @cached_property
    def train(self) -> str | None:
        """Name of the folder of training images, if they have one."""
        return self._first_folder(TRAIN_FOLDERS)

    @cached_property
    def test(self) -> str | None:
        """Name of the folder of test images; of several, the first of `TEST_FOLDERS`."""
        return self._first_folder(TEST_FOLDERS) if self.train else None

    @cached_property
    def index(self) -> FolderIndex:
        """Lists of the image files."""
        from timm.data.readers.img_extensions import get_img_extensions

        return FolderIndex.open(self.path, get_img_extensions(as_set=True))  # type: ignore[no-untyped-call]

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels, which is timm's natural order."""
        from timm.utils.misc import natural_key

        return tuple(sorted(_subfolders(self.path / (self.train or "")), key=natural_key))

    def dataset(self, folder: str, classes: Sequence[str]) -> FolderDataset:
        """List the images of a folder.

        Args:
            folder: Name of the training or test folder; empty: this folder.
            classes: Names of the classes, in the order of their labels.

        Raises:
            InputError: A class has no images, the folder has another class, or a folder cannot be read.
        """
        path, present = self.path / folder, set(_subfolders(self.path / folder))
        unknown_names = sorted(present - set(classes))
        if unknown_names:
            got = printable(", ".join(unknown_names[:8]))
            raise InputError(f"{path} must have the classes of the training images", got=got)
        prefix = f"{folder}/" if folder else ""
        files = {name: self.index.files(prefix + name) if name in present else [] for name in classes}
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            got = printable(f"none in {', '.join(empty[:8])}")
            nested = [name for name, paths in files.items() if paths and len(_subfolders(path / name)) > 1]
            hint = f"images in {printable(path / empty[0])}, or that folder elsewhere"
            if nested:
                most = max(nested, key=lambda name: len(files[name]))
                hint += f"; or --data {shlex.quote(printable(path / most))}, if the classes are the folders in it"
            raise InputError(f"every class in {path} must have images", got=got, hint=hint)
        keys = [path for paths in files.values() for path in paths]
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in files.values()])
        return FolderDataset(self.path, keys, labels.astype(np.int64))

    def _first_folder(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if (self.path / name).is_dir()), None)


class TarMember(NamedTuple):
    """Position of an image in a tar file."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True)
class ShardDataset:
    """Images in uncompressed tar files."""

    members: Sequence[TarMember]
    keys: Sequence[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        member = self.members[index]
        try:
            require_regular(member.shard)
            with file_errors(member.shard), member.shard.open("rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except InputError as error:
            raise BadImageError(self.keys[index], error.got or error.message) from error
        return decode_image(data, self.keys[index])


def find_shards(folder: Path, words: Sequence[str]) -> list[Path]:
    """Return the tar files of a folder whose names have the first of these words that occurs at all."""
    for word in words:
        with file_errors(folder):
            files = sorted(folder.glob(f"*{word}*.tar"))
        if files:
            return files
    return []


def open_shards(files: Sequence[Path]) -> ShardDataset:
    """Index the images of tar files.

    Raises:
        InputError: A file is compressed or broken, or an image has no class.
    """
    members, keys, labels = [], [], []
    for file in files:
        for name, (member, label) in sorted(_index_shard(file).items()):
            members.append(member)
            keys.append(f"{name} of {file.name}")
            labels.append(label)
    if not members:
        raise InputError("tar files must hold images with their classes", got=f"none in {files[0]}")
    return ShardDataset(members, keys, require_labels(labels, source=f"the tar files in {files[0].parent}"))


@dataclass(frozen=True)
class TorchvisionDataset:
    """Images of a torchvision dataset that are decoded when they are read."""

    dataset: Any
    labels: Labels
    name: str

    @cached_property
    def keys(self) -> Sequence[str]:
        """Paths of the files if there are any, else indices."""
        samples = getattr(self.dataset, "samples", None)
        if samples is None:
            return [f"{self.name} {index}" for index in range(len(self))]
        return [str(path) for path, _ in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> "Image":
        """Decode one image to RGB."""
        try:
            if hasattr(self.dataset, "samples"):  # files, which may have become something that would block
                require_regular(Path(self.keys[index]))
            image: Image = self.dataset[index][0].convert("RGB")
        except (*DECODER_ERRORS, InputError) as error:
            raise BadImageError(self.keys[index], error) from error
        return image


def open_torchvision(
    name: str, *, root: Path | None, train: bool, download: bool
) -> tuple[ImageDataset, tuple[str, ...]]:
    """Open one part of a torchvision dataset.

    Args:
        name: `torch/NAME`, one of `TORCHVISION_NAMES`.
        root: Folder of the dataset.
        train: Open the training part, else the test part.
        download: Allow it to be downloaded.

    Returns:
        The images, and the names of the classes.

    Raises:
        InputError: The name is unknown, or the dataset is not in the folder.
    """
    from timm.data.dataset_factory import create_dataset

    short = name.removeprefix("torch/").casefold()
    if short not in TORCHVISION_NAMES:
        raise unknown("data: torch/", short, TORCHVISION_NAMES, hint="--data torch/{}")
    if root is None:
        raise InputError(f"{name} needs the folder of the dataset", hint="--root DIR")
    split = "train" if train else "validation"
    try:
        dataset = create_dataset(name.casefold(), root=str(root), split=split, download=download)
    except (*DECODER_ERRORS, lzma.LZMAError, tarfile.TarError) as error:  # files that are missing or damaged
        got = printable(str(error) or type(error).__name__)
        raise InputError(f"{name} must be in {root}", got=got, hint="download it (--download)") from error
    images = _torchvision_images(dataset, f"{name} {'train' if train else 'test'}")
    classes = getattr(dataset, "classes", None) or (number_classes(images.labels, source=name) if train else ())
    names = tuple(name[0] if isinstance(name, tuple) else str(name) for name in classes)
    return images, names


def _subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, or links to folders, that are not hidden."""
    with file_errors(folder, "listed"), os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _index_shard(file: Path) -> dict[str, tuple[TarMember, int]]:
    """Return position and class of each image of a tar file by its name without suffix."""
    members: dict[str, TarMember] = {}
    labels: dict[str, int] = {}
    require_regular(file)
    try:
        with tarfile.open(file, "r:") as archive:
            for member in _regular_members(archive):
                folder, slash, last = member.name.rpartition("/")
                name, _, suffix = last.partition(".")
                name = folder + slash + name
                if suffix.casefold() in TAR_IMAGE_SUFFIXES:
                    members[name] = TarMember(file, member.offset_data, member.size)
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    labels[name] = int(content.read(_MAX_CLASS_BYTES)) if content else -1
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError, struct.error) as error:
        message = f"{printable(file)} must be an uncompressed tar file of images and classes"
        raise InputError(message, got=error) from error
    unlabeled = sorted(members.keys() - labels.keys())
    if unlabeled:
        message = f"each image of {file} must have a member of the same name with the suffix .cls"
        raise InputError(message, got=f"{len(unlabeled)} have none, {unlabeled[0]} for example")
    return {name: (member, labels[name]) for name, member in members.items()}


def _regular_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar file, without links and devices.

    Raises:
        ValueError: A member has a size with which the next one would not lie behind it: tarfile would read in a circle.
    """
    end = 0
    for member in archive:
        if member.size < 0 or archive.offset <= end:
            raise ValueError(f"{printable(member.name)} has the size {member.size}")
        end = archive.offset
        if member.isreg() and not member.issparse():
            yield member


def _torchvision_images(dataset: Any, name: str) -> ImageDataset:
    raw = np.asarray(dataset.targets)
    labels = require_labels(raw[:, 0] if raw.ndim == 2 else raw, source=name)  # QMNIST keeps more than the class
    array = np.asarray(getattr(dataset, "data", ()))
    if array.dtype == np.uint8 and array.ndim in (3, 4) and len(array) == len(labels):
        pixels = array[..., None] if array.ndim == 3 else array
        return ArrayDataset(pixels, labels, [f"{name} {index}" for index in range(len(labels))])
    return TorchvisionDataset(dataset, labels, name)
