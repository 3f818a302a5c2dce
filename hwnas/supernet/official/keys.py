"""Official state dicts to ours: names translated, every key accounted for."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from hwnas.errors import InputError

_NAMED = 40
"""Keys that a message names."""

BLOCK_NUMBER = r"blocks\.(0|[1-9][0-9]{0,3})\."
"""The start of a block's keys; a number spelled otherwise is none, so that no two keys have the same."""

Rule = tuple[str, str]
"""A regular expression for an official key, and our name for it; an empty name drops the key."""


def translate(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors under our names; a key that no rule knows, or two for one name, is an error."""
    translated: dict[str, Tensor] = {}
    unknown_keys = []
    for key, tensor in state.items():
        name = _renamed(key, rules)
        if name is None or name in translated:
            unknown_keys.append(key)
        elif name:
            translated[name] = tensor
    if unknown_keys:
        message = "the checkpoint holds keys that this family does not have"
        raise InputError(message, got=_some(unknown_keys), hint="check the family, and that it is the seed's own file")
    return translated


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same names, all or nothing.

    Buffers that are computed, and the counters of batch norms, may be absent.
    """
    targets = dict((*module.named_parameters(), *module.named_buffers()))
    required = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    if missing := required - tensors.keys():
        raise InputError("the checkpoint lacks weights of this network", got=f"no {_some(sorted(missing))}")
    if extra := tensors.keys() - targets.keys():
        raise InputError("the checkpoint holds weights that this network does not have", got=_some(sorted(extra)))
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            expected = tuple(targets[name].shape)
            raise InputError(f"{name} must have the shape {expected}", got=tuple(tensor.shape))
    for name, tensor in tensors.items():
        targets[name].data.copy_(tensor)


def _renamed(key: str, rules: Iterable[Rule]) -> str | None:
    for pattern, name in rules:
        if found := re.fullmatch(pattern, key):
            return found.expand(name)
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")
