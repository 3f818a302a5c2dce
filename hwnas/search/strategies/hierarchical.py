"""Search on two levels for a whole front: how a network is laid out first, then its details."""

from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import InputError
from hwnas.search.draws import derived_seed, generator
from hwnas.search.front import on_front
from hwnas.search.ledger import Candidates, Ledger
from hwnas.search.operators import spread_over
from hwnas.search.region import all_but, only, whole
from hwnas.search.strategies.nsga2 import Nsga2Search
from hwnas.search.strategies.strategy import Strategy, require_counts, require_shares
from hwnas.space.space import Genomes


@dataclass(frozen=True, kw_only=True)
class HierarchicalSearch(Strategy):
    """NSGA-II on the dimensions of the first level, all others at their middle choice, then on the others.

    The `carried` best layouts of the first level go on: those of its front, then those of the next one, and so on.
    On the second level they stand still.
    """

    first_level: tuple[str, ...] = ("groups",)
    """Dimensions of the first level; those of GLiT by default."""
    first_share: float = 0.4
    """Share of the budget that the first level gets."""
    carried: int = 20
    nsga2: Nsga2Search = field(default_factory=Nsga2Search)

    def __post_init__(self) -> None:
        require_counts(self, "carried")
        require_shares(self, "first_share")
        if not self.first_level:
            raise InputError("the first level must have at least one dimension", got="none")

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Search the first level, then the second with all that is left."""
        space = ledger.problem.space
        until = ledger.left - max(round(self.first_share * ledger.left), 1)
        first = only(space, self.first_level)
        self.nsga2.evolve(ledger, first, seed=derived_seed(seed, "first level"), until=until)
        layouts = self._best(ledger.candidates, rng=generator(seed, "carried"))
        # Where no layout is feasible with middle details, the second level searches everything.
        second = all_but(space, self.first_level, bases=layouts) if len(layouts) else whole(space)
        self.nsga2.evolve(ledger, second, seed=derived_seed(seed, "second level"))

    def _best(self, candidates: Candidates, *, rng: np.random.Generator) -> Genomes:
        objectives = np.where(candidates.scores.feasible[:, None], candidates.scores.objectives, np.nan)
        chosen: list[int] = []
        while len(chosen) < self.carried and np.isfinite(objectives).any():
            front = np.flatnonzero(on_front(objectives))
            spread = spread_over(objectives[front, 0], self.carried - len(chosen), rng)
            chosen.extend(front[spread].tolist())
            objectives[front] = np.nan
        return candidates.genomes[chosen]
