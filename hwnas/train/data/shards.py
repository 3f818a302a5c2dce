"""Tar files in the form of WebDataset, read by number.

WebDataset itself is a stream: it can neither hold pictures out by class nor go on in the middle of an epoch. Shards
on a disk need no stream; their members are listed once and then read where they lie.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hwnas.errors import InputError
from hwnas.train.data.images import BadImageError, Labels, decode

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Members that are pictures; the one with the same name and the suffix cls holds the number of the class."""


class Place(NamedTuple):
    """Where a picture lies."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True)
class ShardImages:
    """Pictures in tar files."""

    places: Sequence[Place]
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
        return decode(data, self.keys[index])


def shard_files(folder: Path, words: Sequence[str]) -> list[Path]:
    """The tar files of a folder that have the first of these words that occurs in their names."""
    for word in words:
        if files := sorted(folder.glob(f"*{word}*.tar")):
            return files
    return []


def open_shards(files: Sequence[Path]) -> ShardImages:
    """List the pictures of some tar files."""
    places, keys, labels = [], [], []
    for file in files:
        for name, (place, label) in sorted(_members(file).items()):
            places.append(place)
            keys.append(f"{name} of {file.name}")
            labels.append(label)
    if not places:
        raise InputError("tar files must hold pictures with their classes", got=f"none in {files[0]}")
    return ShardImages(places, keys, np.asarray(labels, dtype=np.int64))


def _members(file: Path) -> dict[str, tuple[Place, int]]:
    places: dict[str, Place] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name, _, suffix = member.name.partition(".")
                if suffix.casefold() in IMAGE_SUFFIXES:
                    places[name] = Place(file, member.offset_data, member.size)
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
