"""Evolution of one objective within a window of cost, as in the published systems.

Each system searches for the most accurate network between two bounds of a cost. A problem that bounds the cost from
both sides is searched in that window, one with an upper bound alone between a share of that bound and the bound.
Otherwise a front results, as in the papers, from several searches: `windows` of them, from the largest network to the
smallest, share the budget equally, and what is left by windows that are empty or run out goes to the others.
Settings are the published ones. Sizes are scaled to the budget, so that the number of generations is the published one.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.config import require_valid
from hwnas.errors import InputError
from hwnas.search.ledger import SearchLedger
from hwnas.search.operators import crossover, generator, sample_levels
from hwnas.search.problem import require_metrics
from hwnas.search.region import Region, full_region
from hwnas.search.strategies.strategy import Admits, Draw, SearchStrategy, admitted, require_counts, require_shares
from hwnas.space.space import Genomes, Mask

Values = NDArray[np.float64]

_NUM_BEST = 100
"""Networks whose neighbours are looked at where no child is found."""


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
    """Random networks in each generation, beside those of `filled`."""
    generations: int
    """In addition to the first one."""
    cost: Literal["macs", "params"]
    share: float
    """The lower bound of a window, as a share of its upper bound, where the problem has no lower bound."""
    windows: int = 5
    scaled: bool = True
    """Scale sizes to the budget; if False they are as published, and the budget decides the number of generations."""
    tries: int
    """Draws for each child of a generation; the places of those that were not found stay empty."""
    filled: bool
    """Random networks take the places of a generation that stay empty."""
    random: Literal["published", "spread"] = "published"
    """Random networks are drawn as in the published code, or spread from small to large."""
    random_tries: int = 500
    """Draws for each random network in either way."""

    def __post_init__(self) -> None:
        require_counts(self, "initial", "parents", "generations", "windows", "tries", "random_tries")
        require_counts(self, "mutations", "crossovers", "drawn", least=0)
        require_shares(self, "share")
        require_valid(self)
        if self.mutations + self.crossovers + self.drawn < 1:
            raise InputError("a generation must have at least one network", got=0)

    @property
    def published(self) -> int:
        """Evaluations with the published sizes."""
        return self.initial + self.generations * (self.mutations + self.crossovers + self.drawn)

    @property
    def turn(self) -> int:
        """Evaluations of a window before the next one has its turn, in a search with minutes alone."""
        return self.initial

    @abstractmethod
    def mutated(self, parents: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Return a mutated canonical copy of each parent."""

    def crossed(self, first: Genomes, second: Genomes, region: Region, rng: np.random.Generator) -> Genomes:
        """Return a canonical child of each pair of parents: by default, each gene is from either parent."""
        return region.keep(crossover(first, second, region, rng, whole_parts=0.0), first)

    def pick_parents(self, parents: Genomes, count: int, rng: np.random.Generator) -> Genomes:
        """Choose the parents of children."""
        return parents[rng.integers(0, len(parents), size=count)]

    def pick_pairs(
        self, parents: Genomes, count: int, region: Region, rng: np.random.Generator
    ) -> tuple[Genomes, Genomes]:
        """Choose two parents for each child."""
        picked = self.pick_parents(parents, 2 * count, rng)
        return picked[0::2], picked[1::2]

    def random_networks(self, count: int, region: Region, window: Window, rng: np.random.Generator) -> Genomes:
        """Draw networks as the published code does, of which those outside the window are rejected afterwards."""
        return region.sample(rng, count)

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Search every window with an equal share of the budget, then the windows that can go on with what is left."""
        windows = self.make_windows(ledger)
        searches = [
            self.begin(ledger, window, seed=seed, index=index, evaluations=self._turn(ledger, len(windows) - index))
            for index, window in enumerate(windows)
        ]
        while ledger.left and (searches := [search for search in searches if not search.exhausted]):
            for index, search in enumerate(searches):
                search.run(self._turn(ledger, len(searches) - index))

    def begin(self, ledger: SearchLedger, window: Window, *, seed: int, index: int, evaluations: int) -> "WindowSearch":
        """Search one window with some evaluations, and return its search."""
        rng, region = generator(seed, "evolution", index), full_region(ledger.problem.space)
        search = WindowSearch(self, ledger, region=region, window=window, rng=rng, evaluations=evaluations)
        search.run(evaluations)
        return search

    def _turn(self, ledger: SearchLedger, num_windows: int) -> int:
        """Return the evaluations of the next of some windows, which share what is left of the budget."""
        # With minutes alone the number of evaluations is not known, and windows take turns.
        return self.turn if ledger.budget.evaluations is None else ledger.left // num_windows

    def make_windows(self, ledger: SearchLedger) -> list[Window]:
        """Return the window that the problem bounds, or several over the whole range of the cost."""
        bounds = [c for c in ledger.problem.constraints if c.metric.name == self.cost]
        low = max((c.bound for c in bounds if c.sense == ">="), default=None)
        high = min((c.bound for c in bounds if c.sense == "<="), default=None)
        if high is not None:
            return [Window(cost=self.cost, low=self.share * high if low is None else low, high=high)]
        sample = sample_levels(full_region(ledger.problem.space), np.random.default_rng(0), 1000)
        costs = ledger.cheap(sample)[self.cost].mean
        bottom = costs.min() if low is None else low
        if bottom >= costs.max():
            return [Window(cost=self.cost, low=bottom, high=np.inf)]
        tops = np.linspace(costs.max(), bottom, self.windows + 1)[:-1].tolist()
        return [Window(cost=self.cost, low=max(self.share * top, low or 0.0), high=top) for top in tops]

    def sizes(self, evaluations: int | None) -> Sizes:
        """Return the number of networks of each step for a budget; the published ones where it is not known."""
        scale = evaluations / self.published if self.scaled and evaluations is not None else 1.0
        names = ("initial", "parents", "mutations", "crossovers", "drawn")
        counts = {name: getattr(self, name) for name in names}
        return Sizes(**{name: max(round(scale * count), min(count, 2)) for name, count in counts.items()})


class WindowSearch:
    """The evolution in one window, which goes on where its share of the budget ended."""

    def __init__(
        self,
        evolution: Evolution,
        ledger: SearchLedger,
        *,
        region: Region,
        window: Window,
        rng: np.random.Generator,
        evaluations: int,
    ) -> None:
        """Prepare the search.

        Args:
            evolution: Settings and operators.
            ledger: Evaluates networks.
            region: Which genes are searched.
            window: Where networks lie.
            rng: The source of all random draws.
            evaluations: The budget that sizes are scaled to, unless the search has minutes alone.
        """
        self.evolution, self.ledger, self.region, self.window, self.rng = evolution, ledger, region, window, rng
        self.admits = window.make_filter(ledger)
        self.sizes = evolution.sizes(None if ledger.budget.evaluations is None else evaluations)
        self.ranking = Ranking(np.zeros((0, len(region.space.dimensions)), dtype=np.int16), np.zeros(0))
        self.exhausted = False
        """No further network of the window was found."""

    def run(self, evaluations: int) -> None:
        """Evolve until this many evaluations were made, or no other network is found in the window."""
        goal = self.ledger.evaluations + evaluations
        while self.ledger.left and self.ledger.evaluations < goal:
            none = self.ranking.genomes[:0]
            begun = len(self.ranking.genomes)
            genomes = self._children() if begun else self._random(self.sizes.initial, exclude=none)
            if not len(genomes):
                self.exhausted = True
                return
            evaluated = self.ledger.evaluate(genomes[: goal - self.ledger.evaluations])
            values = np.where(evaluated.scores.feasible, evaluated.scores.objectives[:, 0], np.inf)
            self.ranking = _merged(self.ranking, Ranking(evaluated.genomes, values))

    def _children(self) -> Genomes:
        """Return the next generation."""
        evolution, region, rng, sizes = self.evolution, self.region, self.rng, self.sizes
        parents = self.ranking.genomes[: sizes.parents]

        def mutants(count: int) -> Genomes:
            return evolution.mutated(evolution.pick_parents(parents, count, rng), region, rng)

        def crosses(count: int) -> Genomes:
            return evolution.crossed(*evolution.pick_pairs(parents, count, region, rng), region, rng)

        children = parents[:0]
        for draw, count in ((mutants, sizes.mutations), (crosses, sizes.crossovers)):
            children = self._more(draw, count, exclude=children, tries=evolution.tries)
        empty = sizes.mutations + sizes.crossovers - len(children)
        num_random = sizes.drawn + (empty if evolution.filled else 0)
        children = self._random(num_random, exclude=children)
        # A converged population has no new children: other networks let the search continue.
        return children if len(children) else self._others(sizes.mutations + sizes.crossovers)

    def _others(self, count: int) -> Genomes:
        """Return networks of the window one move away from the best, or a random one."""
        near = np.unique(self.region.neighbours(self.ranking.genomes[:_NUM_BEST]).genomes, axis=0)
        near = near[self.ledger.seen.is_new(near)]
        near = near[self.admits(near)] if len(near) else near
        return self.rng.permutation(near)[:count] if len(near) else self._random(1, exclude=near)

    def _random(self, count: int, *, exclude: Genomes) -> Genomes:
        """Return `exclude` and up to `count` random networks of the window."""

        def published(num: int) -> Genomes:
            return self.evolution.random_networks(num, self.region, self.window, self.rng)

        def spread(num: int) -> Genomes:
            return sample_levels(self.region, self.rng, num)

        wanted = len(exclude) + count
        # The published code would go on for ever where a window is hardly reached by its draws.
        for draw in (published, spread) if self.evolution.random == "published" else (spread,):
            exclude = self._more(draw, wanted - len(exclude), exclude=exclude, tries=self.evolution.random_tries)
        return exclude

    def _more(self, draw: Draw, count: int, *, exclude: Genomes, tries: int) -> Genomes:
        """Return `exclude` and up to `count` other networks of the window."""
        found = admitted(draw, count, ledger=self.ledger, admits=self.admits, exclude=exclude, most_draws=tries * count)
        return np.concatenate([exclude, found])


def _merged(first: Ranking, second: Ranking) -> Ranking:
    genomes = np.concatenate([first.genomes, second.genomes])
    values = np.concatenate([first.values, second.values])
    order = np.argsort(values, kind="stable")
    return Ranking(genomes[order], values[order])
