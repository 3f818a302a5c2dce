"""Evolution of one objective within a window of cost, as in the published systems.

Each system searches for the most accurate network between two bounds of a cost. A front results, as in the papers, from
searching several windows one after the other: a problem that bounds the cost is searched in that window alone, any
other problem in `windows` of them, from the largest network to the smallest, with equal shares of the budget.
Settings are the published ones. Sizes are scaled to the budget, so that the number of generations is the published one.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.ledger import SearchLedger
from hwnas.search.operators import crossover, generator, sample_levels
from hwnas.search.problem import require_metrics
from hwnas.search.region import Region, full_region
from hwnas.search.strategies.strategy import Admits, SearchStrategy, admitted, require_counts, require_shares
from hwnas.space.space import Genomes, Mask

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Window:
    """The networks whose cost lies between two bounds."""

    cost: str
    low: float
    high: float

    def make_filter(self, ledger: SearchLedger) -> Admits:
        """Return a function that says which networks lie in the window and meet the cheap constraints."""

        def admits(genomes: Genomes) -> Mask:
            metrics = ledger.cheap(genomes)
            require_metrics(metrics, [self.cost])
            values = metrics[self.cost].mean
            mask: Mask = (values >= self.low) & (values <= self.high) & ledger.problem.admits(metrics)
            return mask

        return admits


class Ranking(NamedTuple):
    """Evaluated networks, best first, with their minimised objective; infinity if infeasible or unknown."""

    genomes: Genomes
    values: Values


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The number of networks of each step of an evolution."""

    initial: int
    parents: int
    mutations: int
    crossovers: int
    drawn: int


@dataclass(frozen=True, kw_only=True)
class Evolution(SearchStrategy):
    """Elitist evolution of one objective; the published systems differ in its settings and operators."""

    initial: int
    parents: int
    mutations: int
    crossovers: int
    drawn: int = 0
    """Random networks in each generation."""
    generations: int
    """In addition to the first one."""
    cost: Literal["macs", "params"]
    share: float
    """The lower bound of a window, as a share of its upper bound."""
    windows: int = 5
    scaled: bool = True
    """Scale sizes to the budget; if False they are as published, and the budget decides the number of generations."""

    def __post_init__(self) -> None:
        require_counts(self, "initial", "parents", "generations", "windows")
        require_counts(self, "mutations", "crossovers", "drawn", least=0)
        require_shares(self, "share")
        if self.mutations + self.crossovers + self.drawn < 1:
            raise InputError("a generation must have at least one network", got=0)

    @abstractmethod
    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Return a mutated canonical copy of each parent."""

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Return a canonical child of each pair of parents: by default, each gene is from either parent."""
        return region.keep(crossover(first, second, region, rng, whole_parts=0.0), first)

    def pick_parents(self, parents: Genomes, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Choose the first parents of children, as rows of `parents`."""
        return rng.integers(0, len(parents), size=count)

    def mates(self, parents: Genomes, first: NDArray[np.intp], region: Region, rng: np.random.Generator) -> Genomes:
        """Choose the second parent of each child."""
        return parents[self.pick_parents(parents, len(first), rng)]

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Search every window with an equal share of the remaining budget."""
        windows = self.make_windows(ledger)
        for index, window in enumerate(windows):
            until = ledger.left - ledger.left // (len(windows) - index)
            rng = generator(seed, "evolution", index)
            self.search(ledger, full_region(ledger.problem.space), window, rng=rng, until=until)

    def make_windows(self, ledger: SearchLedger) -> list[Window]:
        """Return the window that the problem bounds, or several over the whole range of the cost."""
        bounds = [c for c in ledger.problem.constraints if c.metric.name == self.cost and c.sense == "<="]
        if bounds:
            tops = [min(constraint.bound for constraint in bounds)]
        else:
            region = full_region(ledger.problem.space)
            sample = sample_levels(region, np.random.default_rng(0), 1000)
            costs = ledger.cheap(sample)[self.cost].mean
            tops = np.linspace(costs.max(), costs.min(), self.windows + 1)[:-1].tolist()
        return [Window(cost=self.cost, low=self.share * top, high=top) for top in tops]

    def search(
        self, ledger: SearchLedger, region: Region, window: Window, *, rng: np.random.Generator, until: int
    ) -> Ranking:
        """Evolve in one window until the ledger has no more than `until` evaluations left."""
        sizes = self.sizes(ledger.left - until)
        ranking = Ranking(np.zeros((0, len(region.space.dimensions)), dtype=np.int16), np.zeros(0))
        admits = window.make_filter(ledger)
        children = admitted(
            lambda count: sample_levels(region, rng, max(4 * count, 1000)), sizes.initial, ledger=ledger, admits=admits
        )
        while len(children) and ledger.left > until:
            evaluated = ledger.evaluate(children[: ledger.left - until])
            values = np.where(evaluated.scores.feasible, evaluated.scores.objectives[:, 0], np.inf)
            ranking = _merged(ranking, Ranking(evaluated.genomes, values))
            children = self._children(ledger, region, admits, ranking.genomes[: sizes.parents], sizes, rng)
        return ranking

    def sizes(self, evaluations: int) -> Sizes:
        """Return the number of networks of each step for a budget."""
        published = self.initial + self.generations * (self.mutations + self.crossovers + self.drawn)
        scale = evaluations / published if self.scaled else 1.0
        names = ("initial", "parents", "mutations", "crossovers", "drawn")
        counts = {name: getattr(self, name) for name in names}
        return Sizes(**{name: max(round(scale * count), min(count, 2)) for name, count in counts.items()})

    def _children(
        self,
        ledger: SearchLedger,
        region: Region,
        admits: Admits,
        parents: Genomes,
        sizes: Sizes,
        rng: np.random.Generator,
    ) -> Genomes:
        def mutants(count: int) -> Genomes:
            return self.mutated(parents[self.pick_parents(parents, count, rng)], region, rng)

        def crosses(count: int) -> Genomes:
            first = self.pick_parents(parents, count, rng)
            return self.crossed(parents[first], self.mates(parents, first, region, rng), region, rng)

        def random_networks(count: int) -> Genomes:
            return sample_levels(region, rng, 4 * count)

        children = parents[:0]
        plan = ((mutants, sizes.mutations), (crosses, sizes.crossovers), (random_networks, sizes.drawn))
        for draw, count in plan:
            more = admitted(draw, count, ledger=ledger, admits=admits, exclude=children)
            children = np.concatenate([children, more])
        # A converged population has no new children: a random network lets the search continue.
        return children if len(children) else admitted(random_networks, 1, ledger=ledger, admits=admits)


def _merged(first: Ranking, second: Ranking) -> Ranking:
    genomes = np.concatenate([first.genomes, second.genomes])
    values = np.concatenate([first.values, second.values])
    order = np.argsort(values, kind="stable")
    return Ranking(genomes[order], values[order])
