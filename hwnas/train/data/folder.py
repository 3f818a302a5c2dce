"""Folders of pictures, one folder a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError
from hwnas.train.data.images import BadImageError, Labels, decode

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FolderImages:
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
        return decode(data, key)


@dataclass(frozen=True)
class Folder:
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

    def images(self, folder: Path, classes: Sequence[str]) -> FolderImages:
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
        return FolderImages(self.path, keys, labels.astype(np.int64))


def _files(folder: Path, extensions: set[str]) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in extensions] if folder.is_dir() else []


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
