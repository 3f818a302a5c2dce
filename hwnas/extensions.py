"""Third-party modules that add spaces, runtimes and devices to the registries, loaded once per process.

An installed package names its module in the entry-point group `hwnas.extensions`; a module or file that is not
installed is named in `HWNAS_EXTENSIONS`. Importing it must only call `add` of registries.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from hwnas.errors import InputError, Interrupted
from hwnas.files import printable, require_regular

_log = logging.getLogger(__name__)

VARIABLE = "HWNAS_EXTENSIONS"
"""Modules, or files that end in `.py`, separated as in PATH."""

GROUP = "hwnas.extensions"
"""Entry-point group of installed packages: `NAME = "MODULE"`."""


def load_extensions(*, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Import all extensions; worker processes do so as well.

    Args:
        environ: The environment that may name extensions.

    Returns:
        The names of their modules.

    Raises:
        InputError: An extension cannot be imported.
    """
    installed = [entry.module for entry in metadata.entry_points(group=GROUP)]
    named = [part for part in environ.get(VARIABLE, "").split(os.pathsep) if part]
    modules = tuple(_load(name) for name in dict.fromkeys([*installed, *named]))
    if modules:
        _log.info("extensions: %s", ", ".join(modules))
    return modules


def _load(name: str) -> str:
    message = f"the extension {printable(name)} must be a module that can be imported"
    hint = f"mend it, or take it out of {VARIABLE}, or uninstall its package"
    try:
        if name.endswith(".py"):
            require_regular(Path(name))  # reading a named pipe would wait for a writer
    except InputError as error:
        raise InputError(message, got=error.message, hint=hint) from error
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            return _load_file(Path(name)) if name.endswith(".py") else import_module(name).__name__
    except (InputError, Interrupted):
        raise
    except BaseException as error:  # third-party code may raise anything, and call exit()
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise  # the user's Ctrl-C, if a program that imports hwnas has no handler; the command has one
        reason = traceback.format_exception_only(error)[-1].strip()
        raise InputError(message, got=reason, hint=hint) from error


def _load_file(path: Path) -> str:
    """Import a file as a module of the same name, once."""
    name, loaded = path.stem, sys.modules.get(path.stem)
    if loaded is not None:
        if Path(getattr(loaded, "__file__", None) or "").resolve() == path.resolve():
            return name
        hint = f"rename the file: my_{name}.py"
        raise InputError(f"the extension {path} must not have the name of a loaded module", got=name, hint=hint)
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
