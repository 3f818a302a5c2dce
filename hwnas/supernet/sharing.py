"""Sharing rules: which entries of the shared tensors a sub-network uses.

A rule selects entries along one axis: a `Span` where they are contiguous (a view, no copy), else a `Pick` of positions.
A tensor of a sub-network is one `Part` of a shared tensor, or the concatenation of several. The functions at the end
give the axes of the layers that all families share.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """`length` contiguous entries from `start`."""

    start: int
    length: int

    def take(self, tensor: Tensor, *, axis: int) -> Tensor:
        """Select the entries along an axis, as a view."""
        if self.start == 0 and self.length == tensor.shape[axis]:
            return tensor
        return tensor.narrow(axis, self.start, self.length)

    @cached_property
    def slice(self) -> slice:
        """The entries as Python selects them."""
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True)
class Pick:
    """Entries at given positions, in that order."""

    positions: tuple[int, ...]
    _tensors: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def take(self, tensor: Tensor, *, axis: int) -> Tensor:
        """Select the entries along an axis, as a copy."""
        index = self._tensors.get(tensor.device)
        if index is None:
            with torch.inference_mode(False):  # the index is cached, and autograd refuses inference tensors
                index = torch.tensor(self.positions, device=tensor.device)
            if type(index) is Tensor:  # an exporter's trace replaces tensors by stand-ins of that trace alone
                self._tensors[tensor.device] = index
        return tensor.index_select(axis, index)


Index = Span | Pick
_ALL = slice(None)


@dataclass(frozen=True)
class Part:
    """Entries of the shared tensor of a name; an axis without an index is taken in full."""

    name: str
    axes: tuple[Index | None, ...] = ()

    def take(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Select the entries; gradients flow back to them alone."""
        tensor = shared[self.name]
        picks = [(axis, index) for axis, index in enumerate(self.axes) if isinstance(index, Pick)]
        if len(picks) < len(self.axes):
            # One call takes all spans, in half the time, and what is picked is then copied of no more than these.
            tensor = tensor[tuple([index.slice if isinstance(index, Span) else _ALL for index in self.axes])]
        for axis, index in picks:
            tensor = index.take(tensor, axis=axis)
        return tensor


Mode = Literal["patches", "positions"]
"""Patches are resampled such that tokens of resized images stay alike, positions are interpolated."""


@dataclass(frozen=True)
class Resampled(Part):
    """All entries of a shared kernel of patches or table of positions, resampled to another size as timm does."""

    mode: Mode = "positions"
    size: int = 1
    """Side of the kernel, or of the grid of patches."""
    prefix_tokens: int = 0
    """Positions in front of those of patches."""

    def take(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Resample the tensor; gradients flow back to all of its entries."""
        tensor = shared[self.name]
        if self.mode == "patches":
            kernels = _resampled(tensor.flatten(2), self.mode, self.size)
            return kernels.reshape(*kernels.shape[:2], self.size, self.size)
        front, table = tensor[:, : self.prefix_tokens], tensor[:, self.prefix_tokens :]
        resampled = _resampled(table.transpose(1, 2), self.mode, self.size).transpose(1, 2)
        return torch.cat([front, resampled], dim=1)


def _resampled(values: Tensor, mode: Mode, size: int) -> Tensor:
    matrix = _resampling(mode, math.isqrt(values.shape[-1]), size, values.device)
    with torch.autocast(values.device.type, enabled=False):
        resampled: Tensor = values.float() @ matrix
    return resampled.to(values.dtype)


@lru_cache(maxsize=256)
def _resampling(mode: Mode, before: int, after: int, device: torch.device) -> Tensor:
    """Return the linear map from squares of one side, flattened, to squares of another."""
    from timm.layers.patch_embed import resample_patch_embed
    from timm.layers.pos_embed import resample_abs_pos_embed

    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        basis = torch.eye(before**2)
        if mode == "patches":
            images: Tensor = resample_patch_embed(basis.reshape(-1, 1, before, before), [after, after])
            return images.reshape(before**2, after**2).to(device)
        table: Tensor = resample_abs_pos_embed(basis[None], [after, after], num_prefix_tokens=0)
        return table[0].T.contiguous().to(device)


Source = tuple[Part, ...]
"""Origin of a tensor of a sub-network: parts that are concatenated along the first axis."""


def take(source: Source, shared: Mapping[str, Tensor]) -> Tensor:
    """Assemble a tensor of a sub-network from the shared tensors."""
    tensors = [part.take(shared) for part in source]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


@cache
def prefix(width: int) -> Span:
    """Select the first entries: every wider choice contains every narrower one."""
    return Span(0, width)


@cache
def suffix(width: int, *, total: int) -> Span:
    """Select the last entries: the right side of bilateral sharing, whose left side is the prefix."""
    return Span(total - width, width)


@cache
def cyclic(width: int, *, widths: tuple[int, ...]) -> Index:
    """Select an arc of a ring that has as many channels as the widest choice: ViTAS's cyclic sharing.

    Args:
        width: The choice.
        widths: All choices of this width.

    Returns:
        The channels of the arc, in ascending order where it wraps around.
    """
    # With prefixes, the first channels would be trained in every choice and the last ones in the widest alone. Here the
    # arcs of all choices lie end to end in the order of their widths, so that every channel serves about as many
    # choices as any other, narrow and wide ones alike.
    total = max(widths)
    start = sum(choice for choice in widths if choice < width) % total
    wrapped = start + width - total
    if wrapped <= 0 or width == total:
        return Span(min(start, total - width), width)
    return Pick((*range(wrapped), *range(start, total)))


@cache
def centre(width: int, *, total: int) -> Span:
    """Select the middle taps of a kernel."""
    # A kernel of n taps starts n // 2 before its token: these are the taps of the same offsets in both kernels.
    return Span(total // 2 - width // 2, width)


@cache
def thirds(width: int, *, total: int) -> Pick:
    """Select a prefix of each of q, k and v in the rows [q | k | v]: `width` of `total` rows."""
    starts = range(0, total, total // 3)
    return Pick(tuple(start + row for start in starts for row in range(width // 3)))


@cache
def interleaved(width: int) -> Pick:
    """Select q, k and v from AutoFormer's interleaved rows q0, k0, v0, q1, k1, v1, …: `width` rows, as [q | k | v].

    In this layout the rows of a narrower network are a prefix of the shared rows, as in the original implementation.
    """
    return Pick(tuple(3 * row + part for part in range(3) for row in range(width // 3)))


Axes = Mapping[str, tuple[Index | None, ...]]
"""Per tensor of a segment, the index of each axis; tensors that are not listed are taken in full."""


def stem_axes(embed: Index) -> Axes:
    """Return the axes of a `PatchStem`."""
    return {
        "patch_embed.weight": (embed,),
        "patch_embed.bias": (embed,),
        "class_token": (None, None, embed),
        "position": (None, None, embed),
    }


def attention_axes(embed: Index, *, rows: Index, bias: Index, width: Index) -> Axes:
    """Return the axes of the attention branch of a `TransformerBlock`.

    Args:
        embed: Embedding channels.
        rows: Rows of the weight of q, k and v.
        bias: Entries of the bias of q, k and v.
        width: Channels of all heads.
    """
    return {
        **norm_axes("norm1", embed),
        "attention.qkv.weight": (rows, embed),
        "attention.qkv.bias": (bias,),
        **linear_axes("attention.proj", width, embed),
    }


def mlp_axes(embed: Index, *, hidden: Index) -> Axes:
    """Return the axes of the MLP branch of a `TransformerBlock`."""
    return {
        **norm_axes("norm2", embed),
        **linear_axes("mlp.fc1", embed, hidden),
        **linear_axes("mlp.fc2", hidden, embed),
    }


def head_axes(embed: Index) -> Axes:
    """Return the axes of a `ClassifierHead`, which always has all classes."""
    return {**norm_axes("norm", embed), "classifier.weight": (None, embed)}


def norm_axes(name: str, channels: Index) -> Axes:
    """Return the axes of the scale and shift of a norm."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def linear_axes(name: str, inputs: Index, outputs: Index) -> Axes:
    """Return the axes of the weight and bias of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
