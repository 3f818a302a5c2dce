"""Checkpoint files of the official trainers: weights, optimiser state and an argument namespace."""

import argparse
import codecs
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwnas.devices.memory import require_memory
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors

_WEIGHTS = ("model", "state_dict", "net", "model_state_dict")
_PREFIX = "module."
_COUNTER = "num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """The weights of a checkpoint under their official names, and the entry of the file that held them."""

    weights: Mapping[str, Tensor]
    entry: str | None
    """Entry of the file; None: the file holds the weights alone."""
    other_entries: tuple[str, ...]
    """Other entries that hold weights."""


def read_checkpoint(path: Path, *, entry: str | None = None) -> OfficialCheckpoint:
    """Read the weights of an official checkpoint without running code from it.

    Args:
        path: The file. It may hold tensors, plain values and an `argparse.Namespace`.
        entry: Entry with the weights; None: the first of the entries that official trainers use.

    Returns:
        The weights, all finite, under the names of the bare module.

    Raises:
        InputError: The file is missing or no such checkpoint, the entry is unknown, or a tensor cannot be a weight.
    """
    content = _content(path)
    if _are_weights(content):
        if entry is not None:
            raise InputError(f"{path} has no entries: it holds weights alone", got=entry, hint="leave out --entry")
        return OfficialCheckpoint(weights=_checked(content, path), entry=None, other_entries=())
    held = content if isinstance(content, Mapping) else {}
    entries = {name: values for name, values in held.items() if isinstance(name, str) and _are_weights(values)}
    chosen = _chosen(entries, entry, path=path, content=content)
    others = tuple(name for name in entries if name != chosen)
    return OfficialCheckpoint(weights=_checked(entries[chosen], path), entry=chosen, other_entries=others)


def _content(path: Path) -> Any:
    _require_file(path)
    # The content must fit into memory, and may be larger than the file: an archive may be compressed.
    with file_errors(path, also=(zipfile.BadZipFile, ValueError, NotImplementedError)):
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
    require_memory(size, what=f"the content of {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to the author of the file; tensors are checked below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint can make torch raise anything
        raise _unreadable(path, error) from error


def _require_file(path: Path) -> None:
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError as error:  # a name that is too long
        raise InputError(f"{path} cannot be read", got=error.strerror) from error
    if folder:
        raise InputError(f"{path} is a folder, but it must be the file of a checkpoint")
    if not file:
        raise InputError(f"there is no file {path}")


def _unreadable(path: Path, error: Exception) -> InputError:
    """Explain why a file cannot be read; torch's own message recommends reading it unsafely."""
    if isinstance(error, OSError):
        return InputError(f"{path} cannot be read", got=error.strerror or error)
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        message = f"{path} is not a checkpoint that can be read without running code from it"
        return InputError(message, got=f"a call of {code[1]}", hint="a file with its state dict alone")
    return InputError(f"{path} is not a checkpoint that torch wrote", got=_kind(path) or _reason(error))


def _kind(path: Path) -> str | None:
    """Name the kind of a file by its first bytes; None for a kind that torch writes."""
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        return "an empty file"
    if start.startswith((b"PK", b"\x80")):  # a zip archive, a pickle
        return None
    if start[8:10] == b'{"':
        return "a safetensors file"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return None
    line = (text.strip().splitlines() or [""])[0]
    return f"text that begins with {line[:60]!r}" if "".join(text.split()).isprintable() else None


def _reason(error: Exception) -> str:
    if "TorchScript" in str(error):
        return "a TorchScript archive, which is code"
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return text.split("\n")[0].split(". ")[0] or type(error).__name__


def _chosen(entries: Iterable[str], entry: str | None, *, path: Path, content: Any) -> str:
    known = tuple(entries)
    if entry is not None and known:
        if entry not in known:
            raise unknown(f"{path}: an entry of weights named", entry, known, hint="--entry {}")
        return entry
    for name in _WEIGHTS:
        if name in known:
            return name
    found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    message = f"{path} must hold weights, by themselves or as one of its entries"
    raise InputError(message, got=found, known=_WEIGHTS, hint=f"--entry {known[0]}" if known else None)


def _are_weights(values: object) -> bool:
    if not isinstance(values, Mapping) or not values:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items())


def _checked(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights under the names of the bare module after checking every tensor."""
    for name, tensor in weights.items():
        if problem := _problem(tensor, counter=name.endswith(_COUNTER)):
            raise InputError(f"{path}: {name} must be a dense tensor of finite numbers", got=problem)
    if all(name.startswith(_PREFIX) for name in weights):  # distributed training puts it before all names
        return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    return dict(weights)


def _problem(tensor: Tensor, *, counter: bool) -> str | None:
    """Return why a tensor cannot be a weight, or None; only the counters of batch norms may be integers."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "a sparse or nested tensor"
    if counter and tensor.dtype in _INTEGERS:
        return None
    if tensor.dtype not in _FLOATS:
        return f"numbers of the type {str(tensor.dtype).removeprefix('torch.')}"
    # A file can claim a shape that its storage does not hold, as with expanded or meta tensors.
    if not 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes() or tensor.is_meta:
        return f"the shape {tuple(tensor.shape)} with fewer numbers stored, or none"
    # Finite float64 values beyond float32 would become infinite; NaN fails both comparisons.
    low, high = tensor.detach().aminmax()
    bound = torch.finfo(torch.float32).max
    if not (-bound <= low.item() and high.item() <= bound):
        return "NaN or infinite values"
    return None
