"""Modules of others that add spaces, runtimes and devices to the registries, loaded once in every process.

An installed package names its module in the entry-point group `hwnas.extensions`; a module or a file that is not
installed is named in `HWNAS_EXTENSIONS`. Importing it must do no more than call `add` of registries.
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from hwnas.errors import InputError

VARIABLE = "HWNAS_EXTENSIONS"
"""Modules, or files that end in `.py`; several are parted as in PATH."""

GROUP = "hwnas.extensions"
"""The entry points of installed packages: `NAME = "MODULE"`."""


def load_extensions(*, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Import all extensions and return their modules' names; worker processes do so too."""
    installed = [entry.module for entry in metadata.entry_points(group=GROUP)]
    named = [part for part in environ.get(VARIABLE, "").split(os.pathsep) if part]
    return tuple(_loaded(name) for name in dict.fromkeys([*installed, *named]))


def _loaded(name: str) -> str:
    try:
        return _from_file(Path(name)) if name.endswith(".py") else import_module(name).__name__
    except InputError:
        raise
    except Exception as error:  # whatever a module of others does wrong, it is not ours
        got = f"{type(error).__name__}: {error}"
        raise InputError(f"the extension {name} must be a module that can be imported", got=got) from error


def _from_file(path: Path) -> str:
    """The module in a file, under the name of the file; the same file is run once."""
    name, known = path.stem, sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return name
        hint = f"rename the file: my_{name}.py"
        raise InputError(f"the extension {path} must not be named like a module that is loaded", got=name, hint=hint)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name
