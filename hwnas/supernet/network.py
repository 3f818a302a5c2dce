"""A network of its own: plain modules that run one after another."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from hwnas.errors import InputError


class SegmentConfig(Protocol):
    """What a segment is made of: a frozen value that builds it."""

    def build(self) -> nn.Module:
        """The segment with fresh weights."""

    def __hash__(self) -> int: ...


class Network(nn.Module):
    """Stem, blocks and head, each a module from one tensor to the next, with fresh weights.

    Segments have dotted names (`stem`, `blocks.3`, `head`) that are also the names of their weights.
    """

    def __init__(
        self, outline: Mapping[str, SegmentConfig], *, input_shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        self.outline = dict(outline)
        self.input_shape = input_shape
        """Channels, height and width of the images that are taken; None: not checked."""
        for name, config in outline.items():
            _attach(self, name, config.build())

    def segments(self) -> dict[str, nn.Module]:
        """The modules in the order in which they run."""
        return {name: self.get_submodule(name) for name in self.outline}

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        if self.input_shape is not None:
            require_images(x, self.input_shape)
        for name in self.outline:
            x = self.get_submodule(name)(x)
        return x


def require_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """A batch must hold images of these channels, height and width."""
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        message = f"images must have the shape (batch, {', '.join(map(str, shape))})"
        raise InputError(message, got=tuple(images.shape))


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    *parents, last = name.split(".")
    for part in parents:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
