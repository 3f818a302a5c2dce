"""Translation of the names in official state dicts; every key is accounted for."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from hwnas.errors import InputError

_NAMED = 40
"""Most keys that an error lists."""

BLOCK_NUMBER = r"blocks\.(0|[1-9][0-9]{0,3})\."
"""Start of the keys of a block. Numbers with leading zeros do not match, so that no two keys mean the same block."""

Rule = tuple[str, str]
"""A regular expression for an official key, and the name that replaces it; an empty name drops the key."""


def translate(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Rename the tensors of an official state dict.

    Args:
        state: Tensors by their official keys.
        rules: Rules in order; the first one that matches a key applies.

    Returns:
        The tensors by the names of hwnas's modules.

    Raises:
        InputError: No rule matches a key, or two keys have the same name.
    """
    translated: dict[str, Tensor] = {}
    unknown_keys = []
    for key, tensor in state.items():
        matches = ((re.fullmatch(pattern, key), name) for pattern, name in rules)
        name = next((match.expand(name) for match, name in matches if match), None)
        if name is None or name in translated:
            unknown_keys.append(key)
        elif name:
            translated[name] = tensor
    if unknown_keys:
        message = "the checkpoint holds keys that this family does not have"
        raise InputError(
            message,
            got=_listed(unknown_keys),
            hint="check the family and the file",
        )
    return translated


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same names, all or none.

    Args:
        module: The module to fill.
        tensors: Tensors by name. Computed buffers and the counters of batch norms may be absent.

    Raises:
        InputError: A tensor is missing, superfluous or of another shape.
    """
    targets = dict((*module.named_parameters(), *module.named_buffers()))
    required = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    if missing := required - tensors.keys():
        raise InputError("the checkpoint lacks weights of this network", got=f"no {_listed(sorted(missing))}")
    if extra := tensors.keys() - targets.keys():
        raise InputError("the checkpoint holds weights that this network does not have", got=_listed(sorted(extra)))
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            expected = tuple(targets[name].shape)
            raise InputError(f"{name} must have the shape {expected}", got=tuple(tensor.shape))
    for name, tensor in tensors.items():  # all checks come first, so that the module is filled completely or not at all
        targets[name].data.copy_(tensor)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")
