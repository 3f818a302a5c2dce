"""Weights for another image size or number of classes: position tables interpolated, classifiers left fresh."""

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError

_POSITIONS = ("position", "pos_embed")
_CLASSIFIERS = ("classifier", "distillation_classifier", "patch_classifier", "head")


@torch.no_grad()
def carry_over(weights: Mapping[str, Tensor], module: nn.Module) -> tuple[str, ...]:
    """Copy weights into a module of the same structure.

    Args:
        weights: Tensors by the names that the module has for them.
        module: The module, for other images or classes perhaps. Position tables are interpolated to its grid.

    Returns:
        The names of the tensors that keep their values: classifiers for another number of classes.

    Raises:
        InputError: The names differ, or another tensor has another shape.
    """
    saved = module.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in module.named_buffers() if name in saved]
    targets = dict((*module.named_parameters(), *buffers))
    if targets.keys() != weights.keys():
        names = ", ".join(sorted(targets.keys() ^ weights.keys())[:3])
        raise InputError("the weights must be those of the same network", got=f"{names} on one side only")
    fresh = []
    for name, target in targets.items():
        tensor = _fitted(name, weights[name], target)
        if tensor is None:
            fresh.append(name)
        else:
            target.copy_(tensor)
    return tuple(fresh)


def resize_positions(table_1ND: Tensor, *, tokens: int) -> Tensor:
    """Interpolate a position table (bicubic) to another square grid.

    Args:
        table_1ND: One row per grid cell, with or without rows for one or two tokens in front, which are kept as they
            are.
        tokens: Rows of the new table, with the tokens in front that the old table has.

    Returns:
        The new table, (1, tokens, channels).

    Raises:
        InputError: A table does not cover a square grid, or the two have not the same tokens in front.
    """
    if table_1ND.ndim != 3 or table_1ND.shape[0] != 1 or 0 in table_1ND.shape:
        raise InputError("a position table must have the shape (1, tokens, channels)", got=tuple(table_1ND.shape))
    if table_1ND.shape[1] == tokens:
        return table_1ND
    (old, extra), (new, extra_wanted) = _grid(table_1ND.shape[1]), _grid(tokens)
    if extra != extra_wanted:
        raise InputError("only one of the two position tables has a class token", got=f"{table_1ND.shape[1]}, {tokens}")
    cells = table_1ND[:, extra:].transpose(1, 2).reshape(1, -1, old, old)
    resized = F.interpolate(cells.float(), size=(new, new), mode="bicubic", align_corners=False, antialias=new < old)
    return torch.cat([table_1ND[:, :extra], resized.flatten(2).transpose(1, 2).to(table_1ND.dtype)], dim=1)


def _fitted(name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
    """Return the tensor in the shape of its target; None for a classifier of other classes."""
    *_, parent, last = ("", *name.split("."))
    if tensor.shape == target.shape:
        return tensor
    if last in _POSITIONS and tensor.ndim == 3:
        return resize_positions(tensor, tokens=target.shape[1])
    if parent in _CLASSIFIERS and tensor.shape[1:] == target.shape[1:]:
        return None
    raise InputError(f"{name} must have the shape {tuple(target.shape)}", got=tuple(tensor.shape))


def _grid(tokens: int) -> tuple[int, int]:
    """Return the side of the grid, and the number of tokens in front of it."""
    for extra in (0, 1, 2):
        side = isqrt(tokens - extra)
        if side * side == tokens - extra:
            return side, extra
    raise InputError("a position table must cover a square grid, with or without a class token", got=f"{tokens} rows")
