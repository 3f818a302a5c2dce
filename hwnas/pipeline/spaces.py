"""`hwnas spaces`: a summary of the search spaces."""

from dataclasses import dataclass

from hwnas.space import SPACES
from hwnas.space.space import AnySpace


@dataclass(frozen=True, kw_only=True)
class SpaceSummary:
    """Summary of a space: its number of networks, their range of costs, and the published networks in it."""

    name: str
    family: str
    size: int
    num_genes: int
    image_size: int
    channels: int
    num_classes: int
    min_params: int
    max_params: int
    min_macs: int
    max_macs: int
    published: tuple[str, ...]


def spaces() -> tuple[SpaceSummary, ...]:
    """Summarise all named spaces.

    Returns:
        One summary per space; the minima and maxima are those of the networks with the fewest and the most MACs.
    """
    return tuple(_summary(space) for space in SPACES.values())


def _summary(space: AnySpace) -> SpaceSummary:
    smallest, largest = space.smallest(), space.largest()
    costs = space.costs(space.encode([smallest, largest]))
    return SpaceSummary(
        name=space.name,
        family=space.family,
        size=space.size,
        num_genes=len(space.dimensions),
        image_size=space.config.image_size,
        channels=space.config.channels,
        num_classes=space.config.num_classes,
        min_params=int(costs.params[0]),
        max_params=int(costs.params[1]),
        min_macs=int(costs.macs[0]),
        max_macs=int(costs.macs[1]),
        published=tuple(space.published),
    )
