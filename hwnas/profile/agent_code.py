"""The code of the agent as a zip file of the modules that measure, and the program that starts it elsewhere."""

import functools
import hashlib
import io
import zipfile
from importlib.resources import files
from pathlib import Path

_LEFT_OUT = ("cli", "pipeline", "predict", "predictors", "profiles", "report", "search", "train")
"""Packages that only decide and display; the others measure."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""A time for all members, so that the same code has the same bytes."""


@functools.cache
def agent_code() -> bytes:
    """Return the zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _modules():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def bootstrap() -> str:
    """Return the program that takes the zip file from its standard input and starts the agent in it."""
    return files("hwnas.profile.remote").joinpath("bootstrap.py").read_text(encoding="utf-8")


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 of the modules that measure, which is the same for installed modules and for those sent."""
    digest = hashlib.sha256()
    for name, data in _modules():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _modules() -> list[tuple[str, bytes]]:
    """Names and contents of the modules, in order."""
    found: list[tuple[str, bytes]] = []
    folders = [(files("hwnas"), "hwnas")]
    while folders:
        folder, path = folders.pop()
        for item in folder.iterdir():
            name = f"{path}/{item.name}"
            if item.is_dir() and not item.name.startswith("_") and name not in {f"hwnas/{left}" for left in _LEFT_OUT}:
                folders.append((item, name))
            elif Path(item.name).suffix == ".py":
                found.append((name, item.read_bytes()))
    return sorted(found)
