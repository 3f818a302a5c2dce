"""The interface of search strategies, the draws that several of them share, and random search."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.search.genome_set import sample_unseen
from hwnas.search.ledger import SearchLedger
from hwnas.search.operators import generator, sample_levels, spread_over
from hwnas.search.region import Region, full_region
from hwnas.space.space import Genomes, Mask

Draw = Callable[[int], Genomes]
Admits = Callable[[Genomes], Mask]


_MAX_COUNT = 100_000
"""Most networks or generations of a setting: populations are held in memory, several times over."""

_MAX_DRAWN = 16_384
"""Networks beyond which the number that is drawn at once does not grow."""


@dataclass(frozen=True, kw_only=True)
class SearchStrategy(ABC):
    """Base class of search strategies; the fields are the settings."""

    @abstractmethod
    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Search until the budget of the ledger is spent or the space has no more networks.

        All draws must follow from the seed and from the ledger's values, so that a resumed search repeats them.
        """


def require_counts(strategy: SearchStrategy, *names: str, least: int = 1) -> None:
    """Require that settings are at least `least` and not beyond what memory holds, or None."""
    for name in names:
        value = getattr(strategy, name)
        if value is not None and not least <= value <= _MAX_COUNT:
            raise InputError(f"{name} of the strategy must be at least {least} and at most {_MAX_COUNT}", got=value)


def require_shares(strategy: SearchStrategy, *names: str) -> None:
    """Require that settings lie between 0 and 1."""
    for name in names:
        if not 0 <= getattr(strategy, name) <= 1:
            raise InputError(f"{name} of the strategy must be between 0 and 1", got=getattr(strategy, name))


def first_population(
    ledger: SearchLedger, region: Region, *, count: int, pool: int, rng: np.random.Generator
) -> Genomes:
    """Return unseen networks from small to large, preferably those that meet the cheap constraints.

    Args:
        ledger: The search.
        region: Where networks are drawn from.
        count: The number of networks.
        pool: Draws for each of them, of which those with the most evenly spread MACs are taken.
        rng: The source of random draws.
    """
    drawn = sample_unseen(lambda n: sample_levels(region, rng, n), count * pool, seen=ledger.seen, region=region)
    if len(drawn) <= count:
        return drawn
    metrics = ledger.cheap(drawn)
    excess = np.maximum(ledger.problem.violations(metrics, ledger.problem.cheap_constraints), 0).sum(axis=1)
    nearest = np.argsort(excess, kind="stable")[: max(count, int((excess == 0).sum()))]
    macs = metrics["macs"].mean if "macs" in metrics else np.arange(len(drawn), dtype=np.float64)
    return drawn[nearest][spread_over(macs[nearest], count, rng)]


def admitted(
    draw: Draw,
    count: int,
    *,
    ledger: SearchLedger,
    admits: Admits | None = None,
    exclude: Genomes | None = None,
    most_draws: int | None = None,
) -> Genomes:
    """Draw up to `count` unseen networks that are admitted, by rejection.

    Args:
        draw: Draws the number of canonical genomes that it is given.
        count: The most networks to return.
        ledger: The search.
        admits: Returns which networks are admitted; None: those that meet the cheap constraints.
        exclude: Networks that are not returned, in addition to those seen.
        most_draws: Draws before giving up; None: sixteen for each network, at least 256.
    """
    admits = admits or _meets_cheap_constraints(ledger)
    met = ledger.seen.copy()
    if exclude is not None:
        met.add(exclude)
    parts: list[Genomes] = []
    size = max(4 * count, 64)
    left = (4 * size if most_draws is None else most_draws) if count > 0 else 0
    while left > 0 and sum(map(len, parts)) < count:
        rows = draw(min(size, left))
        left, size = left - len(rows), max(size, min(2 * size, _MAX_DRAWN))
        rows = rows[met.is_new(rows)]
        met.add(rows)
        parts.append(rows[admits(rows)] if len(rows) else rows)
    width = len(ledger.problem.space.dimensions)
    return np.concatenate([np.zeros((0, width), dtype=np.int16), *parts])[:count]


def _meets_cheap_constraints(ledger: SearchLedger) -> Admits:
    # Without constraints nothing needs to be evaluated.
    if not ledger.problem.cheap_constraints:
        return lambda genomes: np.ones(len(genomes), dtype=np.bool_)
    return lambda genomes: ledger.problem.admits(ledger.cheap(genomes))


@dataclass(frozen=True, kw_only=True)
class RandomSearch(SearchStrategy):
    """Random search: genes are drawn uniformly, and networks that violate a cheap constraint are drawn again."""

    batch: int = 50
    """Networks that are evaluated at once."""

    def __post_init__(self) -> None:
        require_counts(self, "batch")

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Draw until the budget is spent."""
        region, rng = full_region(ledger.problem.space), generator(seed, "random")
        while ledger.left:
            count = min(self.batch, ledger.left)
            genomes = admitted(lambda n: region.sample(rng, n), count, ledger=ledger)
            if not len(genomes):
                genomes = sample_unseen(lambda n: region.sample(rng, n), count, seen=ledger.seen, region=region)
            if not len(genomes):
                return
            ledger.evaluate(genomes)
