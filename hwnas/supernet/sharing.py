"""Sharing rules: which entries of a shared tensor a sub-network uses, each rule written once.

A rule gives the index of one axis: a span where the entries stand together (a view, free of charge), else a list of
positions. A tensor of a sub-network is one part of a shared tensor, or several put one after another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """`length` entries from `start` on."""

    start: int
    length: int

    def take(self, tensor: Tensor, *, axis: int) -> Tensor:
        """These entries of one axis, as a view."""
        if self.start == 0 and self.length == tensor.shape[axis]:
            return tensor
        return tensor.narrow(axis, self.start, self.length)


@dataclass(frozen=True)
class Pick:
    """Entries at given positions, in their order."""

    positions: tuple[int, ...]
    _tensors: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def take(self, tensor: Tensor, *, axis: int) -> Tensor:
        """These entries of one axis, copied."""
        return tensor.index_select(axis, self._on(tensor.device))

    def _on(self, device: torch.device) -> Tensor:
        index = self._tensors.get(device)
        if index is None:
            with torch.inference_mode(False):  # it is kept, and autograd refuses what inference mode made
                index = torch.tensor(self.positions, device=device)
            if type(index) is Tensor:  # while an exporter traces, tensors are stand-ins of one trace
                self._tensors[device] = index
        return index


Index = Span | Pick


@dataclass(frozen=True)
class Part:
    """Entries of the shared tensor of one name; axes without an index are taken whole."""

    name: str
    axes: tuple[Index | None, ...] = ()

    def take(self, shared: Mapping[str, Tensor]) -> Tensor:
        """The entries, gradients flowing back to them and to no others."""
        tensor = shared[self.name]
        for axis, index in enumerate(self.axes):
            if index is not None:
                tensor = index.take(tensor, axis=axis)
        return tensor


Source = tuple[Part, ...]
"""Where a tensor of a sub-network comes from: parts put one after another along the first axis."""


def take(source: Source, shared: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a sub-network."""
    tensors = [part.take(shared) for part in source]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


@cache
def prefix(width: int) -> Span:
    """The first entries: every wider choice contains every narrower one."""
    return Span(0, width)


@cache
def suffix(width: int, *, total: int) -> Span:
    """The last entries: the right side of bilateral sharing, whose left side is the prefix."""
    return Span(total - width, width)


@cache
def cyclic(width: int, *, widths: tuple[int, ...]) -> Index:
    """An arc of a ring of as many channels as the widest choice has: ViTAS's cyclic sharing.

    The arcs of all choices lie end to end in the order of their widths, so that every channel serves about the same
    number of choices, narrow and wide ones alike. Positions are in ascending order.
    """
    total = max(widths)
    start = sum(choice for choice in widths if choice < width) % total
    over = start + width - total
    if over <= 0 or width == total:
        return Span(min(start, total - width), width)
    return Pick((*range(over), *range(start, total)))


@cache
def centre(width: int, *, total: int) -> Span:
    """The middle taps of a kernel, those of the same offsets: a kernel of n taps starts n // 2 before its token."""
    return Span(total // 2 - width // 2, width)


@cache
def thirds(width: int, *, total: int) -> Pick:
    """A prefix of each third of the rows [q | k | v], `width` of `total` rows in all."""
    starts = range(0, total, total // 3)
    return Pick(tuple(start + row for start in starts for row in range(width // 3)))


@cache
def interleaved(width: int) -> Pick:
    """AutoFormer's q, k and v, whose shared rows are q0, k0, v0, q1, k1, v1, …: `width` rows in all."""
    return Pick(tuple(3 * row + part for part in range(3) for row in range(width // 3)))
