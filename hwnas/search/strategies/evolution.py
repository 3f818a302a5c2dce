"""Evolution for one objective inside a window of cost, as the published systems do it.

Each of them searches for the most accurate network between two bounds of a cost. A front is had as their authors have
one: by searching in several windows, one after the other. So a problem that bounds the cost is searched in that
window alone, and one that does not in `windows` of them, from the largest network to the smallest, at equal shares of
the budget. The settings are the published ones; sizes are scaled to the budget, so that the number of generations
is as published at every budget.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.ledger import Ledger
from hwnas.search.operators import generator, sample_levels
from hwnas.search.problem import require_metrics
from hwnas.search.region import Region, whole
from hwnas.search.strategies.strategy import Admits, Strategy, admitted, require_counts, require_shares
from hwnas.space.space import Genomes, Mask

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Networks whose cost lies between two bounds."""

    cost: str
    low: float
    high: float

    def of(self, ledger: Ledger) -> Admits:
        """Which networks lie in it and violate no cheap constraint."""

        def admits(genomes: Genomes) -> Mask:
            metrics = ledger.cheap(genomes)
            require_metrics(metrics, [self.cost])
            values = metrics[self.cost].mean
            mask: Mask = (values >= self.low) & (values <= self.high) & ledger.problem.admits(metrics)
            return mask

        return admits


class Ranking(NamedTuple):
    """Evaluated networks, best first, and the value by which they are ranked, minimised."""

    genomes: Genomes
    values: Values


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many networks each step of an evolution makes."""

    initial: int
    parents: int
    mutations: int
    crossovers: int
    drawn: int


@dataclass(frozen=True, kw_only=True)
class Evolution(Strategy):
    """Elitist evolution of one objective; what the published systems differ in are its fields and operators."""

    initial: int
    parents: int
    mutations: int
    crossovers: int
    drawn: int = 0
    generations: int
    """After the first one."""
    cost: Literal["macs", "params"]
    share: float
    """The lower end of a window, as a share of its upper end."""
    windows: int = 5
    scaled: bool = True
    """Whether sizes follow the budget; if not, they are as published, and the last generation comes when it comes."""

    def __post_init__(self) -> None:
        require_counts(self, "initial", "parents", "generations", "windows")
        require_shares(self, "share")
        if self.mutations + self.crossovers + self.drawn < 1:
            raise InputError("a generation must have at least one network", got=0)

    @abstractmethod
    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """A changed canonical copy of each parent."""

    @abstractmethod
    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """A canonical child of each pair."""

    def picked(self, parents: Genomes, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """The first parents of children, as rows of `parents`."""
        return rng.integers(0, len(parents), size=count)

    def mates(self, parents: Genomes, first: NDArray[np.intp], region: Region, rng: np.random.Generator) -> Genomes:
        """The second parent of each child."""
        return parents[self.picked(parents, len(first), rng)]

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Search every window with an equal share of what is left of the budget."""
        windows = self.windows_of(ledger)
        for index, window in enumerate(windows):
            until = ledger.left - ledger.left // (len(windows) - index)
            rng = generator(seed, "evolution", index)
            self.search(ledger, whole(ledger.problem.space), window, rng=rng, until=until)

    def windows_of(self, ledger: Ledger) -> list[Window]:
        """The window that the problem bounds, or several over the whole range of the cost."""
        bounds = [c for c in ledger.problem.constraints if c.metric.name == self.cost and c.sense == "<="]
        if bounds:
            tops = [min(constraint.bound for constraint in bounds)]
        else:
            region = whole(ledger.problem.space)
            sample = sample_levels(region, np.random.default_rng(0), 1000)
            costs = ledger.cheap(sample)[self.cost].mean
            tops = np.linspace(costs.max(), costs.min(), self.windows + 1)[:-1].tolist()
        return [Window(cost=self.cost, low=self.share * top, high=top) for top in tops]

    def search(
        self, ledger: Ledger, region: Region, window: Window, *, rng: np.random.Generator, until: int
    ) -> Ranking:
        """Evolve in one window until the ledger has no more than `until` evaluations left."""
        sizes = self.sizes(ledger.left - until)
        ranking = Ranking(np.zeros((0, len(region.space.dimensions)), dtype=np.int16), np.zeros(0))
        children = self._first(ledger, region, window, sizes.initial, rng)
        while len(children) and ledger.left > until:
            ranking = _merged(ranking, _evaluated(ledger, children[: ledger.left - until]))
            children = self._children(ledger, region, window, ranking.genomes[: sizes.parents], sizes, rng)
        return ranking

    def sizes(self, evaluations: int) -> Sizes:
        """How many networks each step makes at a budget."""
        published = self.initial + self.generations * (self.mutations + self.crossovers + self.drawn)
        scale = evaluations / published if self.scaled else 1.0
        names = ("initial", "parents", "mutations", "crossovers", "drawn")
        counts = {name: getattr(self, name) for name in names}
        return Sizes(**{name: max(round(scale * count), min(count, 2)) for name, count in counts.items()})

    def _children(
        self, ledger: Ledger, region: Region, window: Window, parents: Genomes, sizes: Sizes, rng: np.random.Generator
    ) -> Genomes:
        def mutants(count: int) -> Genomes:
            return self.mutated(parents[self.picked(parents, count, rng)], region, rng)

        def crosses(count: int) -> Genomes:
            first = self.picked(parents, count, rng)
            return self.crossed(parents[first], self.mates(parents, first, region, rng), region, rng)

        def strangers(count: int) -> Genomes:
            return sample_levels(region, rng, 4 * count)

        children = parents[:0]
        plan = ((mutants, sizes.mutations), (crosses, sizes.crossovers), (strangers, sizes.drawn))
        for draw, count in plan:
            more = admitted(draw, count, ledger=ledger, admits=window.of(ledger), besides=children)
            children = np.concatenate([children, more])
        # A converged population has no new children: random networks keep the budget from being unspent.
        return children if len(children) else admitted(strangers, 1, ledger=ledger, admits=window.of(ledger))

    def _first(self, ledger: Ledger, region: Region, window: Window, count: int, rng: np.random.Generator) -> Genomes:
        def draw(count: int) -> Genomes:
            return sample_levels(region, rng, max(4 * count, 1000))

        return admitted(draw, count, ledger=ledger, admits=window.of(ledger))


def _evaluated(ledger: Ledger, genomes: Genomes) -> Ranking:
    """Networks and their first objective, minimised; infinity where it could not be had."""
    asked = ledger.evaluate(genomes)
    values = asked.scores.objectives[:, 0]
    return Ranking(asked.genomes, np.where(asked.scores.feasible, values, np.inf))


def _merged(first: Ranking, second: Ranking) -> Ranking:
    genomes = np.concatenate([first.genomes, second.genomes])
    values = np.concatenate([first.values, second.values])
    order = np.argsort(values, kind="stable")
    return Ranking(genomes[order], values[order])
