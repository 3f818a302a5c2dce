"""Folders of pictures, one folder a class."""

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


@dataclass(frozen=True)
class FolderDataset:
    """Pictures in files."""

    root: Path
    keys: Sequence[str]
    """Paths of the files under the root."""
    labels: Labels

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> "Image":
        """One picture."""
        key = self.keys[index]
        try:
            data = (self.root / key).read_bytes()
        except OSError as error:
            raise BadImageError(key, error) from error
        return decode_image(data, key)


@dataclass(frozen=True)
class ImageFolder:
    """A folder with the folders of a set."""

    path: Path

    @cached_property
    def train(self) -> Path | None:
        """The folder of the training pictures, if they have one of their own."""
        return _first_folder(self.path, TRAIN_FOLDERS)

    @cached_property
    def test(self) -> Path | None:
        """The folder of the test pictures; of several, the first of `TEST_FOLDERS`."""
        return _first_folder(self.path, TEST_FOLDERS) if self.train else None

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        from timm.utils.misc import natural_key

        top = self.train or self.path
        found = [child.name for child in top.iterdir() if child.is_dir() and not child.name.startswith(".")]
        return tuple(sorted(found, key=natural_key))

    def images(self, folder: Path, classes: Sequence[str]) -> FolderDataset:
        """The pictures of one folder; every class must have some, and there must be no other class."""
        from timm.data.readers.img_extensions import get_img_extensions

        extensions = get_img_extensions(as_set=True)  # type: ignore[no-untyped-call]
        strange = [child.name for child in folder.iterdir() if child.is_dir() and child.name not in classes]
        strange = sorted(name for name in strange if not name.startswith("."))
        if strange:
            raise InputError(f"{folder} must have the classes of the training pictures", got=", ".join(strange[:8]))
        files = {name: sorted(_files(folder / name, extensions)) for name in classes}
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            raise InputError(f"every class in {folder} must have pictures", got=f"none in {', '.join(empty[:8])}")
        keys = [path.relative_to(self.path).as_posix() for paths in files.values() for path in paths]
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in files.values()])
        return FolderDataset(self.path, keys, labels.astype(np.int64))


def _files(folder: Path, extensions: set[str]) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in extensions] if folder.is_dir() else []


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Members that are pictures; the one with the same name and the suffix cls holds the number of the class."""


class TarMember(NamedTuple):
    """Where a picture lies."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True)
class ShardDataset:
    """Pictures in tar files."""

    places: Sequence[TarMember]
    keys: Sequence[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> "Image":
        """One picture."""
        place = self.places[index]
        try:
            with place.shard.open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.size)
        except OSError as error:
            raise BadImageError(self.keys[index], error) from error
        return decode_image(data, self.keys[index])


def find_shards(folder: Path, words: Sequence[str]) -> list[Path]:
    """The tar files of a folder that have the first of these words that occurs in their names."""
    for word in words:
        if files := sorted(folder.glob(f"*{word}*.tar")):
            return files
    return []


def open_shards(files: Sequence[Path]) -> ShardDataset:
    """List the pictures of some tar files."""
    places, keys, labels = [], [], []
    for file in files:
        for name, (place, label) in sorted(_members(file).items()):
            places.append(place)
            keys.append(f"{name} of {file.name}")
            labels.append(label)
    if not places:
        raise InputError("tar files must hold pictures with their classes", got=f"none in {files[0]}")
    return ShardDataset(places, keys, np.asarray(labels, dtype=np.int64))


def _members(file: Path) -> dict[str, tuple[TarMember, int]]:
    places: dict[str, TarMember] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name, _, suffix = member.name.partition(".")
                if suffix.casefold() in IMAGE_SUFFIXES:
                    places[name] = TarMember(file, member.offset_data, member.size)
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    labels[name] = int(content.read()) if content else -1
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{file} must be an uncompressed tar file of pictures and classes", got=error) from error
    lonely = sorted(places.keys() - labels.keys())
    if lonely:
        message = f"each picture of {file} must have a member .cls beside it"
        raise InputError(message, got=f"{len(lonely)} have none, {lonely[0]} for example")
    return {name: (place, labels[name]) for name, place in places.items()}


NAMES = ("cifar10", "cifar100", "fashion_mnist", "image_folder", "imagenet", "kmnist", "mnist", "places365", "qmnist")
"""What timm knows under `torch/` and what gives its labels without reading its pictures."""


@dataclass(frozen=True)
class TorchvisionDataset:
    """Pictures of a torchvision dataset."""

    dataset: Any
    labels: Labels
    name: str

    @cached_property
    def keys(self) -> Sequence[str]:
        """Paths where there are files, else numbers."""
        samples = getattr(self.dataset, "samples", None)
        if samples is None:
            return [f"{self.name} {index}" for index in range(len(self))]
        return [str(path) for path, _ in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> "Image":
        """One picture."""
        try:
            image: Image = self.dataset[index][0].convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise BadImageError(self.keys[index], error) from error
        return image


def open_torch(name: str, *, root: Path | None, train: bool, download: bool) -> tuple[ImageDataset, tuple[str, ...]]:
    """One part of a set, and the names of its classes."""
    from timm.data.dataset_factory import create_dataset

    short = name.removeprefix("torch/").casefold()
    if short not in NAMES:
        raise unknown("data: torch/", short, NAMES, hint="--data torch/{}")
    if root is None:
        raise InputError(f"{name} needs the folder in which it lies", hint="--root DIR")
    split = "train" if train else "validation"
    try:
        dataset = create_dataset(name.casefold(), root=str(root), split=split, download=download)
    except (RuntimeError, OSError) as error:  # torchvision's own words for what is not there or broken
        raise InputError(f"{name} must lie in {root}", got=error, hint="download it (--download)") from error
    return _images(dataset, f"{name} {'train' if train else 'test'}"), _classes(dataset)


def _images(dataset: Any, name: str) -> ImageDataset:
    labels = np.asarray(dataset.targets, dtype=np.int64)
    if labels.ndim == 2:  # QMNIST keeps more beside the class
        labels = labels[:, 0]
    array = np.asarray(getattr(dataset, "data", ()))
    if array.dtype == np.uint8 and array.ndim in (3, 4) and len(array) == len(labels):
        pixels = array[..., None] if array.ndim == 3 else array
        return ArrayDataset(pixels, labels, [f"{name} {index}" for index in range(len(labels))])
    return TorchvisionDataset(dataset, labels, name)


def _classes(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or range(int(np.max(dataset.targets)) + 1)
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)
