"""Position tables at another image size."""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from hwnas.errors import InputError


def resize_positions(table_1ND: Tensor, *, tokens: int) -> Tensor:
    """A position table interpolated (bicubic) to another square grid; a class token's row stays as it is.

    Both tables must have a row per grid cell, with or without one more for the class token at the start.
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


def _grid(tokens: int) -> tuple[int, int]:
    """Side of the grid, and 1 if there is a class token besides."""
    for extra in (0, 1):
        side = isqrt(tokens - extra)
        if side * side == tokens - extra:
            return side, extra
    raise InputError("a position table must cover a square grid, with or without a class token", got=f"{tokens} rows")
