"""Where profiles are: those measured here first, those that ship with hwnas last.

The places, in order: `--profiles` (or `HWNAS_PROFILES`) in place of all others; else `./profiles`, the data in the
installed package, and `profiles` at the root of a checkout.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.data_paths import DataPaths, Origin, data_search_path
from hwnas.errors import HwnasError, InputError, UnknownNameError, nearest
from hwnas.records import Profile, Setting, is_profile, load_profile
from hwnas.records.manifest import ProfileManifest, read_manifest
from hwnas.records.table import MANIFEST, TableManifest, is_table, read_table_manifest

FOLDER = "profiles"
"""Where a campaign writes, under the working folder."""

VARIABLE = "HWNAS_PROFILES"
"""Another place, where it is set; several are parted as in PATH."""


@dataclass(frozen=True, kw_only=True)
class ProfileEntry:
    """A profile that was found."""

    name: str
    """DEVICE/FOLDER."""
    path: Path
    origin: Origin
    manifest: ProfileManifest


@dataclass(frozen=True, kw_only=True)
class UnreadableProfile:
    """The folder of a profile whose manifest cannot be read."""

    name: str
    path: Path
    origin: Origin
    error: HwnasError


def folder_name(space: str | None, setting: Setting) -> str:
    """The folder of a profile under that of its device."""
    return f"{space or 'timm'}-{setting.deployment.slug}"


def free_name(parent: Path, name: str) -> str:
    """The name itself if it is free, else the first of NAME-2, NAME-3 and so on that is."""
    if not (parent / name).exists():
        return name
    number = 2
    while (parent / f"{name}-{number}").exists():
        number += 1
    return f"{name}-{number}"


def folders_of(parent: Path, name: str) -> tuple[Path, ...]:
    """The profiles NAME, NAME-2, NAME-3 and so on that are there, in this order."""
    numbered = {folder: folder.name.removeprefix(f"{name}-") for folder in parent.glob(f"{name}-*")}
    more = sorted((int(number), folder) for folder, number in numbered.items() if number.isdecimal())
    every = (parent / name, *(folder for _, folder in more))
    return tuple(folder for folder in every if is_profile(folder))


def search_path(
    given: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    working: Path | None = None,
    package: Path | None = None,
) -> DataPaths:
    """The places where profiles are looked for, in order; a place is listed once."""
    return data_search_path(FOLDER, given, variable=VARIABLE, environ=environ, working=working, package=package)


def scan_profiles(places: Sequence[tuple[Path, Origin]]) -> tuple[ProfileEntry | UnreadableProfile, ...]:
    """All profiles in those places, also those whose manifest cannot be read; of two with one name the first."""
    found: dict[str, ProfileEntry | UnreadableProfile] = {}
    for place, origin in places:
        for folder in _folders(place):
            name = f"{folder.parent.name}/{folder.name}"
            if name not in found:
                found[name] = _entry(name, folder, origin)
    return tuple(found.values())


def profile_entries(places: Sequence[tuple[Path, Origin]]) -> tuple[ProfileEntry, ...]:
    """The profiles in those places that can be read; of two with one name the first."""
    return tuple(entry for entry in scan_profiles(places) if isinstance(entry, ProfileEntry))


def find_profile(name: str, places: Sequence[tuple[Path, Origin]]) -> ProfileEntry:
    """The profile of that name (DEVICE/FOLDER, FOLDER alone where it is clear), or in a folder of that path."""
    if is_profile(Path(name)):
        path = Path(name)
        return ProfileEntry(name=name, path=path, origin="own", manifest=read_manifest(path))
    every = scan_profiles(places)
    same = [entry for entry in every if name in (entry.name, entry.path.name)]
    if len(same) == 1:
        return _readable(same[0])
    if same:
        names = [entry.name for entry in same]
        raise InputError(f"profile {name!r} must be named with its device", got=name, known=names)
    raise _unknown(name, [entry.name for entry in every], places)


def load_entry(entry: ProfileEntry) -> Profile:
    """The measurements of a profile that was found."""
    return load_profile(entry.path)


def _entry(name: str, folder: Path, origin: Origin) -> ProfileEntry | UnreadableProfile:
    try:
        return ProfileEntry(name=name, path=folder, origin=origin, manifest=read_manifest(folder))
    except HwnasError as error:
        return UnreadableProfile(name=name, path=folder, origin=origin, error=error)


def _readable(entry: ProfileEntry | UnreadableProfile) -> ProfileEntry:
    if isinstance(entry, UnreadableProfile):
        raise entry.error
    return entry


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(folder for folder in place.glob("*/*") if is_profile(folder))


def _unknown(name: str, names: list[str], places: Sequence[tuple[Path, Origin]]) -> UnknownNameError:
    near = nearest(name, names) or nearest(name, [other.split("/")[1] for other in names])
    where = ", ".join(str(place) for place, _ in places)
    hint = f"hwnas profiles show {near}" if near else f"hwnas profile to make one; looked in {where}"
    return UnknownNameError(f"profile {name!r} is not known", got=name, known=names, hint=hint)


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """A table that was found."""

    name: str
    path: Path
    origin: Origin
    manifest: TableManifest


def table_entries(places: DataPaths, *, device: str | None = None) -> tuple[TableEntry, ...]:
    """The tables in those places, of one device or of all; of two with one name the first."""
    found: dict[str, TableEntry] = {}
    for place, origin in places:
        for path in sorted(place.glob(f"{device or '*'}/*/{MANIFEST}")):
            name = f"{path.parents[1].name}/{path.parent.name}"
            if name not in found and is_table(path.parent):
                manifest = read_table_manifest(path.parent)
                found[name] = TableEntry(name=name, path=path.parent, origin=origin, manifest=manifest)
    return tuple(found.values())
