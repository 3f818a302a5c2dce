"""The library onnxruntime, loaded without torch and onnx: a machine that is only measured on may have neither."""

from importlib import import_module
from typing import Any

from hwnas.errors import MissingError

EXACT_INT8 = "session.x64quantprecision"
"""Setting of a session at which products of 8-bit values do not saturate on x86 CPUs without VNNI instructions."""


def load_onnxruntime() -> Any:
    """Import onnxruntime, which is no dependency of hwnas: its builds for CPUs and for GPUs write the same files.

    Returns:
        The module.

    Raises:
        MissingError: It is not installed, or what is installed cannot be used.
    """
    hint = "pip install 'hwnas[cpu]', or 'hwnas[gpu]' where there is an NVIDIA GPU"
    try:
        library = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        message = "onnxruntime must be installed: exported ONNX graphs are checked with it"
        raise MissingError(message, got=error, hint=hint) from error
    except ImportError as error:
        raise MissingError("onnxruntime is installed, but cannot be loaded", got=error, hint="hwnas doctor") from error
    if not hasattr(library, "InferenceSession"):  # what is left of two builds of which one was removed
        got = f"a module without InferenceSession in {', '.join(library.__path__)}"
        raise MissingError("onnxruntime is installed, but not complete", got=got, hint="hwnas doctor")
    return library
