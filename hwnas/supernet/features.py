"""Feature maps of networks, for heads of detection and segmentation: where they are taken, and their shapes.

Segments that make tokens of images, or of coarser grids, say on which grid their tokens lie (`TokenGrid`). A network
with several of them has stages, and a feature map at the end of each; a network with one has up to four, after evenly
spaced blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hwnas.errors import InputError

MAPS_OF_PLAIN = 4
"""Feature maps of a network with one grid, as the pyramids of detectors take them."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """A square grid of tokens.

    Attributes:
        side: Tokens along one side of the image.
        channels: Channels of a token.
        prefix_tokens: Tokens in front of those of the grid, such as the class token.
    """

    side: int
    channels: int
    prefix_tokens: int = 0

    def as_maps(self, x_BND: Tensor) -> Tensor:
        """Return the tokens of the grid as images (batch, channels, side, side)."""
        tokens_BDN = x_BND[:, self.prefix_tokens :].transpose(1, 2)
        return tokens_BDN.reshape(*tokens_BDN.shape[:2], self.side, self.side)


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """A feature map: the segment whose output it is, its grid, and the pixels from one entry to the next."""

    segment: str
    grid: TokenGrid
    stride: int

    def to_timm(self) -> dict[str, Any]:
        """Return the entry of timm's `feature_info`."""
        return {"num_chs": self.grid.channels, "reduction": self.stride, "module": self.segment}


def feature_maps(outline: Mapping[str, Any], *, image_size: int) -> tuple[FeatureMap, ...]:
    """Return the feature maps of a network, the finest first.

    Args:
        outline: The configs of its segments by name.
        image_size: Side of its images.

    Raises:
        InputError: A grid does not divide the image.
    """
    stages = list(_stages(outline, image_size=image_size))
    if len(stages) == 1:
        ((grid, names),) = stages
        chosen = [(grid, name) for name in _evenly_spaced(names[1:] or names)]
    else:
        chosen = [(grid, names[-1]) for grid, names in stages]
    return tuple(
        FeatureMap(segment=name, grid=grid, stride=_stride(grid, image_size=image_size)) for grid, name in chosen
    )


def taken_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return which of `count` feature maps are taken: all (None), the last so many, or those of a list, as in timm.

    Raises:
        InputError: There are no such feature maps.
    """
    numbers = (
        range(count) if indices is None else range(count - indices, count) if isinstance(indices, int) else indices
    )
    taken = [count + number if number < 0 and not isinstance(indices, int) else number for number in numbers]
    if not taken or not all(0 <= number < count for number in taken):
        raise InputError(f"feature maps must be some of the network's {count}", got=indices, hint=f"0 to {count - 1}")
    return taken


def _stages(outline: Mapping[str, Any], *, image_size: int) -> Iterator[tuple[TokenGrid, list[str]]]:
    """Yield each grid with the names of the segments whose outputs lie on it; the head is left out."""
    grid: TokenGrid | None = None
    names: list[str] = []
    for name, config in list(outline.items())[:-1]:
        if hasattr(config, "token_grid"):
            if grid is not None:
                yield grid, names
            grid, names = config.token_grid(image_size), []
        names.append(name)
    assert grid is not None, "a network turns images into tokens"
    yield grid, names


def _evenly_spaced(names: Sequence[str]) -> list[str]:
    ends = np.ceil(np.linspace(0, len(names), min(MAPS_OF_PLAIN, len(names)) + 1)[1:] - 1e-9).astype(int)
    return [names[end - 1] for end in ends]


def _stride(grid: TokenGrid, *, image_size: int) -> int:
    if image_size % grid.side:
        message = f"the grid of a feature map must divide the image of {image_size} pixels"
        raise InputError(message, got=f"{grid.side} x {grid.side}")
    return image_size // grid.side
