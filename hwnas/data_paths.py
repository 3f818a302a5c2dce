"""Search paths of profiles and predictors: the user's own first, those that ship with hwnas last."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from hwnas.errors import InputError

Origin = Literal["own", "shipped"]

DataPaths = tuple[tuple[Path, Origin], ...]
"""Folders to search in order, with the origin of their data."""


def data_search_path(
    kind: str,
    given: Path | None = None,
    *,
    variable: str,
    environ: Mapping[str, str] = os.environ,
    working: Path | None = None,
    package: Path | None = None,
) -> DataPaths:
    """Return the folders to search for data of one kind, each once.

    Args:
        kind: Kind of data, which is also the name of its folders: "profiles" or "predictors".
        given: Folder named by the user, to be searched alone.
        variable: Environment variable whose folders replace the default search path.
        environ: The environment.
        working: Working folder; None: the current one.
        package: Folder of the installed package; None: that of hwnas.

    Returns:
        The given folder; else those of the variable; else the folder in the working folder, in the installed package
        and at the root of a checkout.

    Raises:
        InputError: The given folder does not exist.
    """
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--{kind} must name a folder of {kind}", got=given)
        return ((given, "own"),)
    if environ.get(variable):
        return tuple((Path(part), "own") for part in environ[variable].split(os.pathsep) if part)
    root = package or Path(__file__).resolve().parent
    paths: list[tuple[Path, Origin]] = [((working or Path.cwd()) / kind, "own")]
    paths += [(root / kind, "shipped"), (root.parent / kind, "shipped")]
    distinct: dict[Path, tuple[Path, Origin]] = {}
    for path, origin in paths:
        distinct.setdefault(path.resolve(), (path, origin))
    return tuple(distinct.values())
