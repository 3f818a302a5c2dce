"""Evaluation of many networks on the same images, with the segments that they begin with computed once.

Networks of a supernet whose first segments are equal, that is the same choices on the same weights, have equal values
after them. The networks of a pass are therefore a tree of segments that is run depth first: a value is computed when it
is first needed, and freed when the last branch from it has begun. Values of one pass can be cached for the next.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Lineage = tuple[Hashable, ...]
"""Identity of each segment of a network; equal identities have equal weights in whichever network they are."""
Values = Any
"""Output of a segment: a tensor, or several."""


@dataclass(eq=False)
class PrefixNode:
    """A segment after the segments of its parents."""

    segment: nn.Module
    lineage: Lineage
    """This segment and those before it."""
    names: list[str] = field(default_factory=list)
    """Networks that end here."""
    children: dict[Hashable, "PrefixNode"] = field(default_factory=dict)


class PrefixCache:
    """Outputs of segments by batch and lineage, up to a number of bytes.

    Outputs of deeper segments are dropped first: the fewer segments come before an output, the more networks share it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.nbytes = max_bytes, 0
        self._by_depth: dict[int, dict[tuple[int, Lineage], Tensor]] = {}

    def get(self, batch: int, lineage: Lineage) -> Tensor | None:
        """Return an output if it is cached."""
        return self._by_depth.get(len(lineage), {}).get((batch, lineage))

    def add(self, batch: int, lineage: Lineage, values: Values) -> None:
        """Cache a tensor if it fits without those of deeper segments."""
        depth = len(lineage)
        if not isinstance(values, Tensor) or not self._make_room(values.nbytes, depth):
            return
        self._by_depth.setdefault(depth, {})[batch, lineage] = values
        self.nbytes += values.nbytes

    def _make_room(self, nbytes: int, depth: int) -> bool:
        while self.nbytes + nbytes > self.max_bytes:
            deepest = max(self._by_depth, default=0)
            if deepest <= depth:
                return False
            tensors = self._by_depth[deepest]
            self.nbytes -= tensors.pop(next(iter(tensors))).nbytes
            if not tensors:
                del self._by_depth[deepest]
        return True


class PrefixTree:
    """Networks with the segments that they begin with in common."""

    def __init__(self) -> None:
        self.roots: dict[Hashable, PrefixNode] = {}
        self.names: list[str] = []
        self.nbytes = 0
        """Size of the weights."""

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, lineage: Lineage, segments: Sequence[nn.Module]) -> None:
        """Add a network; only its segments that are not in the tree yet are kept.

        Args:
            name: Name of the network.
            lineage: Identity of each segment.
            segments: Modules to run one after another.
        """
        assert len(segments) == len(lineage), (len(segments), len(lineage))
        children, node = self.roots, None
        for depth, (segment, identity) in enumerate(zip(segments, lineage, strict=True), start=1):
            if identity not in children:
                children[identity] = PrefixNode(segment, lineage[:depth])
                self.nbytes += sum(weight.nbytes for weight in segment.parameters())
            node = children[identity]
            children = node.children
        assert node is not None, "a network without segments"
        node.names.append(name)
        self.names.append(name)

    def run(self, images: Tensor, *, batch: int = 0, cache: PrefixCache | None = None) -> Iterator[tuple[str, Values]]:
        """Yield the name and the output of every network as soon as it is computed.

        Args:
            images: One batch of images.
            batch: Number of the batch, which its values are cached under.
            cache: Values of earlier passes, to which new ones are added.
        """
        stack = [(node, images) for node in reversed(self.roots.values())]
        while stack:
            node, inputs = stack.pop()
            values = None if cache is None else cache.get(batch, node.lineage)
            if values is None:
                values = node.segment(inputs)
                if cache is not None and node.children:
                    cache.add(batch, node.lineage, values)
            yield from ((name, values) for name in node.names)
            stack.extend((child, values) for child in reversed(node.children.values()))
