"""A small network with segments that is fast to export, and a record of the segments that are exported."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hwnas.export.dynamo import export_segment
from tests.export.mirrors import SelfAttention

SHAPE = (3, 4, 4)


class Stem(nn.Module):
    offset: Tensor

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, embed, 2, stride=2)
        self.register_buffer("offset", torch.arange(4.0).reshape(1, 4, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.conv(images)
        return patches.flatten(2).transpose(1, 2) + self.offset


class Attend(nn.Module):
    def __init__(self, embed: int, *, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(embed), nn.LayerNorm(embed)
        self.attention = SelfAttention(embed, heads=heads, head_dim=embed // heads)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(x + self.attention(self.norm1(x)))
        return out


class Head(nn.Module):
    def __init__(self, embed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.mean(dim=1))
        return out


class Network(nn.Module):
    """All weights are random, those of norms too, so that exchanged weights change the output."""

    def __init__(self, embed: int, heads: tuple[int, ...], *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.parts = nn.ModuleList([Stem(embed), *(Attend(embed, heads=count) for count in heads), Head(embed)])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)

    def segments(self) -> dict[str, nn.Module]:
        return {f"part.{index}": part for index, part in enumerate(self.parts)}

    def forward(self, images: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images)
        return images


@contextmanager
def counted() -> Iterator[list[Any]]:
    """Collect the segments that are exported inside the block."""
    seen: list[Any] = []

    def export(segment: nn.Module, **options: Any) -> Any:
        seen.append(segment)
        return export_segment(segment, **options)

    with mock.patch("hwnas.export.compose.export_segment", export):
        yield seen
