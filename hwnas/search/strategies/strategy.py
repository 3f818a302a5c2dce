"""What every strategy is: a frozen setting that can run a search on a ledger."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.search.ledger import Ledger
from hwnas.search.operators import generator, sample_levels, spread_over
from hwnas.search.region import Region, whole
from hwnas.search.seen import unseen
from hwnas.space.space import Genomes, Mask

Draw = Callable[[int], Genomes]
Admits = Callable[[Genomes], Mask]


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """A way to search; its fields are its settings."""

    @abstractmethod
    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Search until the ledger's budget is spent or there is nothing left to ask for.

        All draws follow from the seed and from what the ledger answers, so that a replay is exact.
        """


def require_counts(strategy: Strategy, *names: str) -> None:
    """Settings that must be at least 1."""
    for name in names:
        value = getattr(strategy, name)
        if value is not None and value < 1:
            raise InputError(f"{name} of the strategy must be at least 1", got=value)


def require_shares(strategy: Strategy, *names: str) -> None:
    """Settings that must lie between 0 and 1."""
    for name in names:
        if not 0 <= getattr(strategy, name) <= 1:
            raise InputError(f"{name} of the strategy must be between 0 and 1", got=getattr(strategy, name))


def first_population(ledger: Ledger, region: Region, *, count: int, pool: int, rng: np.random.Generator) -> Genomes:
    """Unseen networks from small to large, those that cheap constraints admit before others.

    Of `pool` times as many draws as are wanted, they are the ones whose MACs are spread most evenly.
    """
    drawn = unseen(lambda n: sample_levels(region, rng, n), count * pool, seen=ledger.seen, region=region)
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
    ledger: Ledger,
    admits: Admits | None = None,
    besides: Genomes | None = None,
    tries: int = 4,
) -> Genomes:
    """Up to `count` networks from `draw`, by rejection: unseen, none of `besides`, and `admits` them.

    Without `admits`, the cheap constraints decide.
    """
    able = admits or _constraints(ledger)
    met = ledger.seen.copy()
    if besides is not None:
        met.add(besides)
    parts: list[Genomes] = []
    for _ in range(tries if count > 0 else 0):
        rows = draw(max(4 * count, 64))
        rows = rows[met.fresh(rows)]
        met.add(rows)
        parts.append(rows[able(rows)] if len(rows) else rows)
        if sum(map(len, parts)) >= count:
            break
    width = len(ledger.problem.space.dimensions)
    return np.concatenate([np.zeros((0, width), dtype=np.int16), *parts])[:count]


def _constraints(ledger: Ledger) -> Admits:
    """What the cheap constraints admit; where there are none, nothing need be evaluated to know."""
    if not ledger.problem.cheap_constraints:
        return lambda genomes: np.ones(len(genomes), dtype=np.bool_)
    return lambda genomes: ledger.problem.admits(ledger.cheap(genomes))


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Strategy):
    """Networks drawn uniformly per gene; those that violate a cheap constraint are drawn again."""

    batch: int = 50
    """Networks asked for at once."""

    def __post_init__(self) -> None:
        require_counts(self, "batch")

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Draw until the budget is spent."""
        region, rng = whole(ledger.problem.space), generator(seed, "random")
        while ledger.left:
            count = min(self.batch, ledger.left)
            genomes = admitted(lambda n: region.sample(rng, n), count, ledger=ledger)
            if not len(genomes):
                genomes = unseen(lambda n: region.sample(rng, n), count, seen=ledger.seen, region=region)
            if not len(genomes):
                return
            ledger.evaluate(genomes)
