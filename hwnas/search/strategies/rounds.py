"""Rounds: fit a surrogate of the dear metric, search long on it, evaluate truly what it promises, and again."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.engine import Nsga2
from hwnas.search.ledger import Candidates, Ledger
from hwnas.search.objective import Estimate
from hwnas.search.operators import Variation, derived_seed, generator, sample_levels
from hwnas.search.pareto import make_bounds, most_improving, nearest_to_front
from hwnas.search.problem import Problem, Scores, Surrogate
from hwnas.search.region import Region, whole
from hwnas.search.seen import Seen, unseen
from hwnas.search.strategies.strategy import Strategy, first_population, require_counts, require_shares
from hwnas.space.space import Genomes

Values = NDArray[np.float64]


class Promise(NamedTuple):
    """Networks that nobody has evaluated truly, as the surrogate sees them."""

    genomes: Genomes
    objectives: Values
    doubt: Values
    """Width of the surrogate's interval."""


@dataclass(frozen=True, kw_only=True)
class RoundsSearch(Strategy):
    """Surrogate-assisted NSGA-II, for a dear metric beside cheap ones."""

    initial: int | None = None
    """Networks evaluated before the first surrogate; None: a fifth of the budget, at least 10."""
    batch: int | None = None
    """Networks evaluated truly in a round; None: a twentieth of the budget, at least 5."""
    population: int = 100
    """Of the NSGA-II on the surrogate."""
    generations: int = 40
    """Of the NSGA-II on the surrogate, in every round."""
    pool: int = 10
    """Draws for each of the initial networks, of which those with evenly spread MACs are taken."""
    optimism: float = 0.5
    """How far between a surrogate's mean (0) and the better end of its interval (1) a network is judged."""
    explored: float = 0.1
    """Share of a batch that goes to the promising networks of which the surrogate knows least."""
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        require_counts(self, "initial", "batch", "population", "generations", "pool")
        require_shares(self, "optimism", "explored")

    def run(self, ledger: Ledger, *, seed: int) -> None:
        """Go on with rounds until the budget is spent."""
        _require_surrogate(ledger)
        region, budget = whole(ledger.problem.space), ledger.budget.evaluations or 500
        initial, batch = self.initial or max(budget // 5, 10), self.batch or max(budget // 20, 5)
        rng = generator(seed, "first population")
        genomes = first_population(ledger, region, count=min(initial, ledger.left), pool=self.pool, rng=rng)
        rounds = 0
        while ledger.left and len(genomes):
            ledger.evaluate(genomes)
            rounds += 1
            genomes = self._next(ledger, region, min(batch, ledger.left), seed=derived_seed(seed, "round", rounds))

    def _next(self, ledger: Ledger, region: Region, count: int, *, seed: int) -> Genomes:
        """The networks that are evaluated truly in the next round."""
        rng = generator(seed, "fill")
        truth = _true(ledger.candidates)
        genomes = np.zeros((0, len(region.space.dimensions)), dtype=np.int16)
        # With fewer than two networks known there is nothing to fit.
        if count and len(truth.genomes) > 1:
            surrogate = _fitted(ledger, truth, seed=derived_seed(seed, "fit"))
            genomes = self._promising(ledger, region, surrogate, truth, count, seed=seed)
        met = ledger.seen.copy()
        met.add(genomes)
        rest = unseen(lambda n: sample_levels(region, rng, n), count - len(genomes), seen=met, region=region)
        return np.concatenate([genomes, rest])

    def _promising(
        self, ledger: Ledger, region: Region, surrogate: Surrogate, truth: Candidates, count: int, *, seed: int
    ) -> Genomes:
        promise = self._searched(ledger, region, surrogate, truth, seed=seed)
        bounds = make_bounds(ledger.problem.objectives, truth.metrics)
        front = truth.scores.objectives[truth.scores.feasible]
        curious = round(self.explored * count)
        chosen = most_improving(promise.objectives, front, count - curious, bounds)
        others = np.setdiff1d(np.arange(len(promise.genomes)), chosen)
        unsure = others[np.argsort(-promise.doubt[others], kind="stable")][: count - len(chosen)]
        batch: Genomes = promise.genomes[[*chosen, *unsure.tolist()]]
        return batch

    def _searched(
        self, ledger: Ledger, region: Region, surrogate: Surrogate, truth: Candidates, *, seed: int
    ) -> Promise:
        """What a long NSGA-II on the surrogate finds near its front."""
        engine = self._engine(ledger, region, truth, seed=seed)
        found: list[Promise] = []
        for _ in range(self.generations):
            genomes = engine.ask()
            if not len(genomes):
                break
            scores, doubt = _believed(ledger, genomes, surrogate, optimism=self.optimism)
            engine.tell(scores)
            new = ledger.seen.fresh(genomes) & scores.feasible
            found.append(Promise(genomes[new], scores.objectives[new], doubt[new]))
        genomes, objectives, doubt = (np.concatenate(parts) for parts in zip(*found, strict=True))
        near = nearest_to_front(objectives, 2 * self.population)
        return Promise(genomes[near], objectives[near], doubt[near])

    def _engine(self, ledger: Ledger, region: Region, truth: Candidates, *, seed: int) -> Nsga2:
        """It begins with the best that is known and networks of all sizes."""
        rng, seen = generator(seed, "inner population"), Seen()
        objectives = np.where(truth.scores.feasible[:, None], truth.scores.objectives, np.nan)
        best = truth.genomes[nearest_to_front(objectives, self.population // 2)][: self.population // 2]
        seen.add(best)
        strangers = unseen(
            lambda n: sample_levels(region, rng, n), self.population - len(best), seen=seen, region=region
        )
        return Nsga2(
            region=region,
            initial=np.concatenate([best, strangers]),
            variation=self.variation,
            seen=seen,
            population=self.population,
            seed=derived_seed(seed, "engine"),
        )


def _require_surrogate(ledger: Ledger) -> None:
    if not ledger.problem.has_dear:
        got = ", ".join(ledger.problem.metrics)
        hint = "--strategy nsga2"
        raise InputError(f"rounds need {ledger.problem.dear} among objectives or constraints", got=got, hint=hint)
    assert ledger.evaluators.fit is not None, "rounds without anything that fits a surrogate"


def _true(candidates: Candidates) -> Candidates:
    """Those of which every value is known."""
    return candidates.rows(np.flatnonzero(candidates.evaluated))


def _fitted(ledger: Ledger, truth: Candidates, *, seed: int) -> Surrogate:
    assert ledger.evaluators.fit is not None
    return ledger.evaluators.fit(truth.genomes, truth.metrics[str(ledger.problem.dear)].mean, seed)


def _believed(ledger: Ledger, genomes: Genomes, surrogate: Surrogate, *, optimism: float) -> tuple[Scores, Values]:
    """Scores by the surrogate, and how much it doubts them."""
    problem, estimate = ledger.problem, surrogate(genomes)
    better = estimate.upper if _more_is_better(problem) else estimate.lower
    mean = estimate.mean + optimism * (better - estimate.mean)
    believed = Estimate(mean, np.minimum(estimate.lower, mean), np.maximum(estimate.upper, mean))
    metrics = {**ledger.cheap(genomes), str(problem.dear): believed}
    return problem.scores(metrics), estimate.upper - estimate.lower


def _more_is_better(problem: Problem) -> bool:
    metrics = [objective.metric for objective in problem.objectives]
    metrics += [constraint.metric for constraint in problem.constraints]
    return next(metric.maximised for metric in metrics if str(metric) == problem.dear)
