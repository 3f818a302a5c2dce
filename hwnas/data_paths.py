"""Where profiles and predictors are: those made here first, those that ship with hwnas last."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from hwnas.errors import InputError

Origin = Literal["own", "shipped"]

Places = tuple[tuple[Path, Origin], ...]


def search_places(
    folder: str,
    given: Path | None = None,
    *,
    variable: str,
    environ: Mapping[str, str] = os.environ,
    working: Path | None = None,
    package: Path | None = None,
) -> Places:
    """The places of data of one kind, in order; a place is listed once.

    What is `given`, or what the variable names, stands in place of all others; else it is FOLDER where hwnas is run,
    in the installed package, and at the root of a checkout.
    """
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--{folder} must name a folder of {folder}", got=given)
        return ((given, "own"),)
    if environ.get(variable):
        return tuple((Path(part), "own") for part in environ[variable].split(os.pathsep) if part)
    root = package or Path(__file__).resolve().parent
    places: list[tuple[Path, Origin]] = [((working or Path.cwd()) / folder, "own")]
    places += [(root / folder, "shipped"), (root.parent / folder, "shipped")]
    found: dict[Path, tuple[Path, Origin]] = {}
    for path, origin in places:
        found.setdefault(path.resolve(), (path, origin))
    return tuple(found.values())
