"""Readers of image folders, of WebDataset tar files and of torchvision's datasets.

A folder has one folder of images per class. A tar file is indexed once and its images are then read where they lie:
WebDataset itself streams, so that it can neither hold out images by class nor resume in the middle of an epoch.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.train.data.images import ArrayDataset, BadImageError, ImageDataset, Labels, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")

TAR_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images in a tar file; a member of the same name with the suffix `cls` has the class index."""

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
            data = (self.root / key).read_bytes()
        except OSError as error:
            raise BadImageError(key, error) from error
        return decode_image(data, key)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of classes, or of training and test folders that have the classes."""

    path: Path

    @cached_property
    def train(self) -> Path | None:
        """Folder of the training images, if they have one."""
        return _first_folder(self.path, TRAIN_FOLDERS)

    @cached_property
    def test(self) -> Path | None:
        """Folder of the test images; of several, the first of `TEST_FOLDERS`."""
        return _first_folder(self.path, TEST_FOLDERS) if self.train else None

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels, which is timm's natural order."""
        from timm.utils.misc import natural_key

        top = self.train or self.path
        found = [child.name for child in top.iterdir() if child.is_dir() and not child.name.startswith(".")]
        return tuple(sorted(found, key=natural_key))

    def dataset(self, folder: Path, classes: Sequence[str]) -> FolderDataset:
        """List the images of a folder.

        Args:
            folder: This folder, or its training or test folder.
            classes: Names of the classes, in the order of their labels.

        Raises:
            InputError: A class has no images, or the folder has another class.
        """
        from timm.data.readers.img_extensions import get_img_extensions

        extensions = get_img_extensions(as_set=True)  # type: ignore[no-untyped-call]
        unknown_names = [child.name for child in folder.iterdir() if child.is_dir() and child.name not in classes]
        unknown_names = sorted(name for name in unknown_names if not name.startswith("."))
        if unknown_names:
            got = ", ".join(unknown_names[:8])
            raise InputError(f"{folder} must have the classes of the training images", got=got)
        files = {name: sorted(_image_files(folder / name, extensions)) for name in classes}
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            raise InputError(f"every class in {folder} must have images", got=f"none in {', '.join(empty[:8])}")
        keys = [path.relative_to(self.path).as_posix() for paths in files.values() for path in paths]
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in files.values()])
        return FolderDataset(self.path, keys, labels.astype(np.int64))


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
            with member.shard.open("rb") as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except OSError as error:
            raise BadImageError(self.keys[index], error) from error
        return decode_image(data, self.keys[index])


def find_shards(folder: Path, words: Sequence[str]) -> list[Path]:
    """Return the tar files of a folder whose names have the first of these words that occurs at all."""
    for word in words:
        if files := sorted(folder.glob(f"*{word}*.tar")):
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
    return ShardDataset(members, keys, np.asarray(labels, dtype=np.int64))


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
            image: Image = self.dataset[index][0].convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
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
    except (RuntimeError, OSError) as error:  # torchvision's own words for files that are missing or broken
        raise InputError(f"{name} must be in {root}", got=error, hint="download it (--download)") from error
    classes = getattr(dataset, "classes", None) or range(int(np.max(dataset.targets)) + 1)
    names = tuple(name[0] if isinstance(name, tuple) else str(name) for name in classes)
    return _torchvision_images(dataset, f"{name} {'train' if train else 'test'}"), names


def _image_files(folder: Path, extensions: set[str]) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in extensions] if folder.is_dir() else []


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _index_shard(file: Path) -> dict[str, tuple[TarMember, int]]:
    """Return position and class of each image of a tar file by its name without suffix."""
    members: dict[str, TarMember] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name, _, suffix = member.name.partition(".")
                if suffix.casefold() in TAR_IMAGE_SUFFIXES:
                    members[name] = TarMember(file, member.offset_data, member.size)
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    labels[name] = int(content.read()) if content else -1
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{file} must be an uncompressed tar file of images and classes", got=error) from error
    unlabeled = sorted(members.keys() - labels.keys())
    if unlabeled:
        message = f"each image of {file} must have a member of the same name with the suffix .cls"
        raise InputError(message, got=f"{len(unlabeled)} have none, {unlabeled[0]} for example")
    return {name: (member, labels[name]) for name, member in members.items()}


def _torchvision_images(dataset: Any, name: str) -> ImageDataset:
    labels = np.asarray(dataset.targets, dtype=np.int64)
    if labels.ndim == 2:  # QMNIST keeps more than the class
        labels = labels[:, 0]
    array = np.asarray(getattr(dataset, "data", ()))
    if array.dtype == np.uint8 and array.ndim in (3, 4) and len(array) == len(labels):
        pixels = array[..., None] if array.ndim == 3 else array
        return ArrayDataset(pixels, labels, [f"{name} {index}" for index in range(len(labels))])
    return TorchvisionDataset(dataset, labels, name)
