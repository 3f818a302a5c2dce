"""Find profiles and published tables on the search path: PATH/DEVICE/SPACE-RUNTIME-PRECISION-BATCH-THREADS."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwnas.data_paths import DataFolder, DataPaths, Origin, find_data_folders
from hwnas.errors import HwnasError, InputError, UnknownNameError, nearest
from hwnas.files import file_errors
from hwnas.records import Setting, is_profile
from hwnas.records.manifest import MANIFEST, ProfileManifest, read_manifest
from hwnas.records.table import TABLE_MANIFEST, TableManifest, read_table_manifest

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, kw_only=True)
class ProfileEntry:
    """A profile on the search path, with its manifest but not its measurements."""

    name: str
    """DEVICE/FOLDER."""
    path: Path
    origin: Origin
    manifest: ProfileManifest


@dataclass(frozen=True, kw_only=True)
class UnreadableProfile:
    """A profile or table whose manifest cannot be read."""

    name: str
    path: Path
    origin: Origin
    error: HwnasError


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """A published table on the search path, with its manifest but not its rows."""

    name: str
    path: Path
    origin: Origin
    manifest: TableManifest


def profile_folder_name(space: str | None, setting: Setting) -> str:
    """Return the name of a profile's folder below that of its device."""
    return f"{space or 'timm'}-{setting.deployment.slug}"


def free_name(parent: Path, name: str) -> str:
    """Return the first of NAME, NAME-2, NAME-3, ... that does not exist in a folder."""
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    with file_errors(parent):
        return next(free for free in names if not os.path.lexists(parent / free))


def numbered_profiles(parent: Path, name: str) -> tuple[Path, ...]:
    """Return the profiles NAME, NAME-2, NAME-3, ... in a folder, in this order."""
    with file_errors(parent):
        suffixes = {folder: folder.name.removeprefix(f"{name}-") for folder in parent.glob(f"{name}-*")}
    numbered = sorted((int(suffix), folder) for folder, suffix in suffixes.items() if suffix.isdecimal())
    return tuple(folder for folder in (parent / name, *(folder for _, folder in numbered)) if is_profile(folder))


def scan_profiles(paths: DataPaths) -> tuple[ProfileEntry | UnreadableProfile, ...]:
    """Return all profiles on a search path, also those whose manifest cannot be read."""

    def load(folder: DataFolder) -> ProfileEntry:
        manifest = read_manifest(folder.path)
        return ProfileEntry(name=folder.name, path=folder.path, origin=folder.origin, manifest=manifest)

    return _scan(paths, f"*/*/{MANIFEST}", load)


def profile_entries(paths: DataPaths) -> tuple[ProfileEntry, ...]:
    """Return the profiles on a search path whose manifest can be read."""
    return tuple(entry for entry in scan_profiles(paths) if isinstance(entry, ProfileEntry))


def scan_tables(paths: DataPaths, *, device: str | None = None) -> tuple[TableEntry | UnreadableProfile, ...]:
    """Return the published tables on a search path, of one device or of all, also those that cannot be read."""

    def load(folder: DataFolder) -> TableEntry:
        manifest = read_table_manifest(folder.path)
        return TableEntry(name=folder.name, path=folder.path, origin=folder.origin, manifest=manifest)

    return _scan(paths, f"{device or '*'}/*/{TABLE_MANIFEST}", load)


def table_entries(paths: DataPaths, *, device: str | None = None) -> tuple[TableEntry, ...]:
    """Return the published tables on a search path, of one device or of all.

    Raises:
        InputError: A table cannot be read.
    """
    entries = scan_tables(paths, device=device)
    for entry in entries:
        if isinstance(entry, UnreadableProfile):
            raise entry.error
    return tuple(entry for entry in entries if isinstance(entry, TableEntry))


def find_profile(name: str, paths: DataPaths) -> ProfileEntry:
    """Find a profile by name or path.

    Args:
        name: DEVICE/FOLDER, FOLDER alone if it is unambiguous, or the path of a profile.
        paths: Folders to search.

    Raises:
        UnknownNameError: There is no such profile.
        InputError: The name is ambiguous, or the manifest cannot be read.
    """
    if is_profile(Path(name)):
        path = Path(name)
        return ProfileEntry(name=name, path=path, origin="own", manifest=read_manifest(path))
    entries = scan_profiles(paths)
    names = [entry.name for entry in entries]
    matching = [entry for entry in entries if name in (entry.name, entry.path.name)]
    if not matching:
        near = nearest(name, names) or nearest(name, [entry.path.name for entry in entries])
        searched = ", ".join(str(path) for path, _ in paths)
        hint = f"hwnas profiles show {near}" if near else f"hwnas profile to measure one; searched in {searched}"
        raise UnknownNameError(f"profile {name!r} is not known", got=name, known=names, hint=hint)
    if len(matching) > 1:
        ambiguous = [entry.name for entry in matching]
        raise InputError(f"profile {name!r} must be named with its device", got=name, known=ambiguous)
    entry = matching[0]
    if isinstance(entry, UnreadableProfile):
        raise entry.error
    return entry


def _scan(
    paths: DataPaths, pattern: str, load: Callable[[DataFolder], _Entry]
) -> tuple[_Entry | UnreadableProfile, ...]:
    entries: list[_Entry | UnreadableProfile] = []
    for folder in find_data_folders(paths, pattern):
        try:
            entries.append(load(folder))
        except HwnasError as error:
            entries.append(UnreadableProfile(name=folder.name, path=folder.path, origin=folder.origin, error=error))
    return tuple(entries)
