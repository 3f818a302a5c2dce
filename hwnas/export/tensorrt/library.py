"""The TensorRT library, as it is installed here."""

from importlib import import_module
from typing import Any

from hwnas.errors import MissingError

OLDEST = 10
"""The oldest major version that is supported."""

STRONG_ONLY = 11
"""From this major version on every network is strongly typed, and there are no flags for precision."""

_INSTALL = "pip install 'hwnas[tensorrt]'"


def load_tensorrt() -> Any:
    """The module `tensorrt`; where it cannot be had, the error says what to install."""
    try:
        library = import_module("tensorrt")
    except ImportError as error:
        raise MissingError("TensorRT must be installed here", got=error, hint=_INSTALL) from error
    except OSError as error:  # the bindings are here, and a library under them is not
        raise MissingError("TensorRT is installed, but cannot be loaded", got=error, hint=_INSTALL) from error
    if major_version(library) < OLDEST:
        version = library.__version__
        raise MissingError(f"TensorRT must be {OLDEST} or newer", got=version, hint="pip install -U 'tensorrt>=10'")
    return library


def major_version(library: Any) -> int:
    """10 of `10.16.1.11`."""
    return int(str(library.__version__).partition(".")[0])


def always_strong(library: Any) -> bool:
    """Whether this version knows strongly typed networks only."""
    return major_version(library) >= STRONG_ONLY
