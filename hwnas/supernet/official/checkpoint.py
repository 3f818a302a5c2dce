"""Files that the official trainers wrote: weights beside optimiser state and an argument namespace."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwnas.errors import InputError

_WEIGHTS = ("model", "state_dict", "net", "model_state_dict")
_PREFIX = "module."


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, under their official names.

    Nothing in the file is run: it may hold tensors, plain values and an `argparse.Namespace`, and is refused otherwise.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no checkpoint makes the reader stumble over
        message = f"{path} is not a checkpoint that can be read without running code from it"
        raise InputError(message, got=str(error).split("\n")[0]) from error
    return _without_prefix(_state(content, path))


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for candidate in (content, *(content.get(name) for name in _WEIGHTS)):
            if isinstance(candidate, Mapping) and candidate and _are_tensors(candidate):
                return {str(name): tensor for name, tensor in candidate.items()}
    found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise InputError(f"{path} must hold weights, by themselves or as one of its entries", got=found, known=_WEIGHTS)


def _are_tensors(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values.values())


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the bare module has them; distributed training puts a prefix before all of them."""
    if all(name.startswith(_PREFIX) for name in state):
        return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    return state
