"""Many networks on the same images, what they begin with computed once.

Networks of a supernet whose first segments are equal (the same choices on the same weights) have equal values behind
them. So the networks of a pass are a tree of segments, run depth first: a value is computed where it is first wanted,
and let go of when the last branch from it has begun. Values that were computed in one pass may be kept for the next.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Lineage = tuple[Hashable, ...]
"""What each segment of a network is: equal values have equal weights, whichever networks they stand in."""
Values = Any
"""What a segment returns: a tensor, or several."""


@dataclass(eq=False)
class PrefixNode:
    """A segment behind other segments."""

    segment: nn.Module
    lineage: Lineage
    """This segment and those before it."""
    names: list[str] = field(default_factory=list)
    """Networks that end here."""
    children: dict[Hashable, "PrefixNode"] = field(default_factory=dict)


class PrefixCache:
    """Values behind segments by (batch, lineage), no more than a number of bytes; deep ones go before shallow ones.

    The fewer segments stand before a value, the more networks of a space begin with them.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._levels: dict[int, dict[tuple[int, Lineage], Tensor]] = {}

    def get(self, batch: int, lineage: Lineage) -> Tensor | None:
        """The value, where it is kept."""
        return self._levels.get(len(lineage), {}).get((batch, lineage))

    def add(self, batch: int, lineage: Lineage, values: Values) -> None:
        """Keep a tensor if there is room among those that are not deeper."""
        depth = len(lineage)
        if not isinstance(values, Tensor) or not self._free(values.nbytes, depth):
            return
        self._levels.setdefault(depth, {})[batch, lineage] = values
        self.nbytes += values.nbytes

    def _free(self, nbytes: int, depth: int) -> bool:
        while self.nbytes + nbytes > self.limit:
            deepest = max(self._levels, default=0)
            if deepest <= depth:
                return False
            level = self._levels[deepest]
            self.nbytes -= level.pop(next(iter(level))).nbytes
            if not level:
                del self._levels[deepest]
        return True


class PrefixTree:
    """Networks with their first segments in common."""

    def __init__(self) -> None:
        self.roots: dict[Hashable, PrefixNode] = {}
        self.names: list[str] = []
        self.nbytes = 0
        """Of the weights."""

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, lineage: Lineage, segments: Sequence[nn.Module]) -> None:
        """A network; of its segments those are taken that are not here yet."""
        assert len(segments) == len(lineage), (len(segments), len(lineage))
        children, node = self.roots, None
        for depth, (segment, origin) in enumerate(zip(segments, lineage, strict=True), start=1):
            if origin not in children:
                children[origin] = PrefixNode(segment, lineage[:depth])
                self.nbytes += sum(weight.nbytes for weight in segment.parameters())
            node = children[origin]
            children = node.children
        assert node is not None, "a network without segments"
        node.names.append(name)
        self.names.append(name)

    def run(self, images: Tensor, *, batch: int = 0, kept: PrefixCache | None = None) -> Iterator[tuple[str, Values]]:
        """The output of every network, each as it is done."""
        waiting = [(node, images) for node in reversed(self.roots.values())]
        while waiting:
            node, inputs = waiting.pop()
            values = self._behind(node, inputs, batch, kept)
            yield from ((name, values) for name in node.names)
            waiting.extend((child, values) for child in reversed(node.children.values()))

    def _behind(self, node: PrefixNode, inputs: Values, batch: int, kept: PrefixCache | None) -> Values:
        values = None if kept is None else kept.get(batch, node.lineage)
        if values is None:
            values = node.segment(inputs)
            if kept is not None and node.children:
                kept.add(batch, node.lineage, values)
        return values
