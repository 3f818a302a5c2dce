"""Networks of their own: plain modules that run one after another."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError


class SegmentConfig(Protocol):
    """The config of a segment: a frozen, hashable value that can build it."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""

    def __hash__(self) -> int: ...


class Network(nn.Module):
    """Stem, blocks and head in sequence, with fresh weights.

    Args:
        outline: The config of each segment by its dotted name (`stem`, `blocks.3`, `head`), in the order in which they
            run. The names are also the prefixes of their weights in the state dict.
        input_shape: Channels, height and width that images must have; None: images are not checked.
    """

    def __init__(
        self, outline: Mapping[str, SegmentConfig], *, input_shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        self.outline = dict(outline)
        self.input_shape = input_shape
        for name, config in outline.items():
            _attach(self, name, config.build())

    def segments(self) -> dict[str, nn.Module]:
        """Return the segments by name, in the order in which they run."""
        return {name: self.get_submodule(name) for name in self.outline}

    def forward(self, x: Tensor) -> Tensor:
        """Turn images into logits."""
        if self.input_shape is not None:
            require_images(x, self.input_shape)
        for name in self.outline:
            x = self.get_submodule(name)(x)
        return x


def require_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Raise InputError unless a batch holds images of this (channels, height, width)."""
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        message = f"images must have the shape (batch, {', '.join(map(str, shape))})"
        raise InputError(message, got=tuple(images.shape))


def resized(images: Tensor, size: int) -> Tensor:
    """Resize square images to a side, on their device; those of that side are returned as they are."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    *parents, last = name.split(".")
    for part in parents:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
