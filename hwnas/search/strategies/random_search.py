"""Random search: the least that any other strategy must beat."""

from dataclasses import dataclass

from hwnas.search.draws import generator
from hwnas.search.ledger import Ledger
from hwnas.search.region import whole
from hwnas.search.seen import unseen
from hwnas.search.strategies.strategy import Strategy, admitted, require_counts


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
