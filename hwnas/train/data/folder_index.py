"""Lists of the image files below a folder; those of large folders are cached.

Listing a million files takes minutes on a slow disk. The cache keeps the list of each folder with the folder's times,
which change whenever a file is added, removed or renamed. A list is used while they are the same, and only folders that
have changed are listed again. The cache never adds an image: a file that is gone is an unreadable image like any other.
"""

import hashlib
import io
import json
import logging
import os
import time
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data_paths import CACHE_VARIABLE, cache_folder
from hwnas.errors import InputError
from hwnas.files import READ_ERRORS, absolute_path, file_errors, write_atomic

SCHEMA = "hwnas.images/1"
"""Schema of the cache that this version writes and reads."""

MIN_CACHED = 20_000
"""Files from which on a list is cached; smaller folders are listed in a fraction of a second."""

_SETTLED_NS = 2_000_000_000
"""Times of a folder are trusted once they are this old: coarse clocks give two changes within a tick the same time."""

_NEVER = (0, 0, 0)
"""Stamp that no folder has."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderListing:
    """Content of one folder."""

    stamp: tuple[int, int, int]
    """Times of modification and of change in nanoseconds, and number of the inode."""
    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Files that have the suffix of an image."""
    special: tuple[str, ...]
    """Pipes, sockets and devices with the suffix of an image, which are never opened."""


@dataclass
class FolderIndex:
    """Lists image files below a folder.

    Attributes:
        root: The folder.
        suffixes: Suffixes of image files, in lower case and with their dots.
        special: Pipes, sockets and devices that were met, relative to the root.
    """

    root: Path
    suffixes: Collection[str]
    special: list[str] = field(default_factory=list)
    _listings: dict[str, FolderListing] = field(default_factory=dict)
    _cached: dict[str, FolderListing] = field(default_factory=dict)
    _num_listed: int = 0

    @classmethod
    def open(cls, root: Path, suffixes: Collection[str]) -> "FolderIndex":
        """Create the index of a folder, with its cached lists if there are any."""
        index = cls(root, suffixes)
        with suppress(InputError):  # without a home folder there is no cache
            index._cached = _read(index._cache_file(), index._identity())
        return index

    def files(self, folder: str) -> list[str]:
        """Return the image files in a folder and its subfolders.

        Links to files are followed, and so is a link as which the folder itself is given; other links to folders are
        not, because they may lead in a circle.

        Args:
            folder: Path of the folder, relative to the root.

        Returns:
            Paths of the files relative to the root, sorted by their parts.

        Raises:
            InputError: A folder cannot be read.
        """
        found: list[str] = []
        waiting, is_flat = [folder], True
        while waiting:
            current = waiting.pop()
            listing = self._list(current)
            prefix = "" if current in ("", ".") else f"{current}/"
            found.extend(prefix + name for name in listing.files)
            self.special.extend(prefix + name for name in listing.special)
            waiting.extend(prefix + name for name in listing.folders)
            is_flat = is_flat and not listing.folders
        return sorted(found) if is_flat else sorted(found, key=lambda path: path.split("/"))

    def save(self) -> None:
        """Cache the lists if any of them is new and there are many files; a failure only costs time later."""
        if not self._num_listed or sum(len(listing.files) for listing in self._listings.values()) < MIN_CACHED:
            return
        try:
            file = self._cache_file()
            with file_errors(file, "written"):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, _packed(self._identity(), self._listings))
        except InputError as error:
            _log.warning("the list of the images in %s is not cached (%s): %s", self.root, CACHE_VARIABLE, error)

    def _list(self, folder: str) -> FolderListing:
        path = self.root / folder
        with file_errors(path, "listed"):
            # Read before the folder is listed: after a change in between, the next call sees other times. The time of
            # change catches what sets the time of modification back, as unpacking an archive does.
            status, listing = path.stat(), self._cached.get(folder)
            stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            if listing is None or listing.stamp != stamp:
                listing = _scan(path, stamp, self.suffixes)
                self._num_listed += 1
        self._listings[folder] = listing
        return listing

    def _identity(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "root": os.fsencode(absolute_path(self.root)).hex(),
            "suffixes": sorted(self.suffixes),
        }

    def _cache_file(self) -> Path:
        digest = hashlib.sha256(json.dumps(self._identity()).encode()).hexdigest()
        return cache_folder() / "images" / f"{digest[:24]}.npz"


def _scan(folder: Path, stamp: tuple[int, int, int], suffixes: Collection[str]) -> FolderListing:
    folders, files, special = [], [], []
    if max(stamp[:2]) > time.time_ns() - _SETTLED_NS:
        stamp = _NEVER
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif stem and f".{suffix.lower()}" in suffixes:
                # A broken link is an unreadable image, to be named when it is read.
                if entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
                    files.append(entry.name)
                elif not entry.is_dir():
                    special.append(entry.name)
    return FolderListing(stamp, tuple(folders), tuple(files), tuple(special))


def _packed(identity: dict[str, Any], listings: dict[str, FolderListing]) -> bytes:
    """Return the cache file: identity, a row of numbers per folder, and all names separated by zero bytes."""
    rows = [
        (*listing.stamp, len(listing.folders), len(listing.files), len(listing.special))
        for listing in listings.values()
    ]
    names = "\0".join(name for item in listings.items() for name in _names(*item))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        identity=np.frombuffer(json.dumps(identity).encode(), dtype=np.uint8),
        folders=np.asarray(rows, dtype=np.int64).reshape(-1, 6),
        names=np.frombuffer(os.fsencode(names), dtype=np.uint8),
    )
    return buffer.getvalue()


def _names(folder: str, listing: FolderListing) -> Iterator[str]:
    yield folder
    yield from listing.folders
    yield from listing.files
    yield from listing.special


def _read(file: Path, identity: dict[str, Any]) -> dict[str, FolderListing]:
    """Return the cached lists by folder; none if there is no cache file, or another or a damaged one."""
    try:
        if not file.is_file():
            return {}
        with np.load(file, allow_pickle=False) as arrays:
            if json.loads(arrays["identity"].tobytes()) != identity:
                raise ValueError("another folder")
            return _unpacked(arrays["folders"].tolist(), os.fsdecode(arrays["names"].tobytes()).split("\0"))
    except (*READ_ERRORS, LookupError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        _log.warning("%s is damaged and is made anew: %s", file, error)
        return {}


def _unpacked(rows: list[list[int]], names: list[str]) -> dict[str, FolderListing]:
    listings: dict[str, FolderListing] = {}
    end = 0
    for modified, changed, inode, *counts in rows:
        parts = []
        start, end = end, end + 1
        for count in counts:
            parts.append(tuple(names[end : end + max(count, 0)]))
            end += max(count, 0)
        folder = names[start]
        if any("/" in name for part in parts for name in part) or ".." in folder.split("/") or folder.startswith("/"):
            raise ValueError("a name that leads elsewhere")
        listings[folder] = FolderListing((modified, changed, inode), parts[0], parts[1], parts[2])
    if end != len(names):
        raise ValueError("a number of names that is not that of the folders")
    return listings
