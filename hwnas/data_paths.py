"""Search paths of profiles and predictors: the user's own first, those that ship with hwnas last."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.errors import InputError
from hwnas.files import file_errors, printable

Origin = Literal["own", "shipped"]

DataPaths = tuple[tuple[Path, Origin], ...]
"""Folders to search in order, with the origin of their data."""

CACHE_VARIABLE = "HWNAS_CACHE"
"""Environment variable with the folder of files that can be made again."""

PROFILES = "profiles"
"""Kind of data: measured profiles and published tables."""

PREDICTORS = "predictors"
"""Kind of data: fitted predictors."""


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """A folder of data that was found."""

    name: str
    """Path below the searched folder, such as DEVICE/FOLDER."""
    path: Path
    origin: Origin


def data_search_path(
    kind: str,
    given: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    working: Path | None = None,
    package: Path | None = None,
) -> DataPaths:
    """Return the folders to search for data of one kind, each once.

    Args:
        kind: Kind of data, which is also the name of its folders: `PROFILES` or `PREDICTORS`.
        given: Folder named by the user, to be searched alone.
        environ: The environment. Folders in HWNAS_PROFILES or HWNAS_PREDICTORS replace the default search path.
        working: Working folder; None: the current one.
        package: Folder of the installed package; None: that of hwnas.

    Returns:
        The given folder; else those of the variable; else the folder in the working folder, in the installed package
        and at the root of a checkout.

    Raises:
        InputError: The given folder, or one of the variable, does not exist.
    """
    if given is not None:
        return ((_require_folder(given, f"--{kind} must name a folder of {kind}"), "own"),)
    variable = f"HWNAS_{kind.upper()}"
    if environ.get(variable):
        folders = [Path(part) for part in environ[variable].split(os.pathsep) if part]
        return tuple((_require_folder(folder, f"{variable} must name folders of {kind}"), "own") for folder in folders)
    root = package or Path(__file__).resolve().parent
    paths: list[tuple[Path, Origin]] = [((working or Path.cwd()) / kind, "own")]
    paths += [(root / kind, "shipped"), (root.parent / kind, "shipped")]
    distinct: dict[Path, tuple[Path, Origin]] = {}
    for path, origin in paths:
        distinct.setdefault(path.resolve(), (path, origin))
    return tuple(distinct.values())


def _require_folder(path: Path, message: str) -> Path:
    with file_errors(path):
        exists = path.is_dir()
    if not exists:
        raise InputError(message, got=printable(path))
    return path


def cache_folder() -> Path:
    """Return the folder of files that can be made again: HWNAS_CACHE, or `hwnas` in the user's cache.

    Raises:
        InputError: The variable is not set, and the user has no home folder.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "hwnas"
    try:
        return Path.home() / ".cache" / "hwnas"
    except RuntimeError as error:
        raise InputError("there must be a folder for caches", got=error, hint=f"{CACHE_VARIABLE}=DIR") from error


def find_data_folders(paths: DataPaths, pattern: str) -> tuple[DataFolder, ...]:
    """Find folders that contain a certain file; of several with the same name the first on the path.

    Args:
        paths: Folders to search.
        pattern: Glob pattern of the file, such as "*/*/manifest.json". Hidden folders are skipped: a killed process may
            have left one half written.
    """
    # What has the name of the file is found whatever it is, such that a reader can say what is wrong with it.
    parent_pattern, _, file_name = pattern.rpartition("/")
    folders: dict[str, DataFolder] = {}
    for root, origin in paths:
        with file_errors(root):
            candidates = sorted(root.glob(parent_pattern))
        for folder in candidates:
            name = printable(folder.relative_to(root).as_posix())
            if os.path.lexists(folder / file_name) and not folder.name.startswith("."):
                folders.setdefault(name, DataFolder(name=name, path=folder, origin=origin))
    return tuple(folders.values())
