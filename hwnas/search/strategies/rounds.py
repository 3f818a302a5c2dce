"""Surrogate-assisted search in rounds: fit a surrogate of the expensive metric, search on it, evaluate the best."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.search.engine import Nsga2
from hwnas.search.genome_set import GenomeSet, sample_unseen
from hwnas.search.ledger import EvaluatedCandidates, SearchLedger
from hwnas.search.objective import Estimate
from hwnas.search.operators import Variation, derived_seed, generator, sample_levels
from hwnas.search.pareto import make_bounds, most_improving, nearest_to_front
from hwnas.search.problem import PopulationScores, Problem, Surrogate
from hwnas.search.region import Region, full_region
from hwnas.search.strategies.strategy import SearchStrategy, first_population, require_counts, require_shares
from hwnas.space.space import Genomes

Values = NDArray[np.float64]


class PredictedCandidates(NamedTuple):
    """Networks without an expensive value, scored by a surrogate."""

    genomes: Genomes
    objectives: Values
    uncertainty: Values
    """Width of the surrogate's interval."""


@dataclass(frozen=True, kw_only=True)
class RoundsSearch(SearchStrategy):
    """Surrogate-assisted NSGA-II, for one expensive metric and any number of cheap ones."""

    initial: int | None = None
    """Networks evaluated before the first surrogate; None: a fifth of the budget, at least 10."""
    batch: int | None = None
    """Networks evaluated in a round; None: a twentieth of the budget, at least 5."""
    population: int = 100
    """Population of the NSGA-II on the surrogate."""
    generations: int = 40
    """Generations of the NSGA-II on the surrogate, in every round."""
    pool: int = 10
    """Draws for each of the initial networks, of which those with the most evenly spread MACs are taken."""
    optimism: float = 0.5
    """Score of a network, from the surrogate's mean (0) to the better end of its interval (1)."""
    explored: float = 0.1
    """Share of a batch for candidates near the front that the surrogate is least certain of."""
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        require_counts(self, "initial", "batch", "population", "generations", "pool")
        require_shares(self, "optimism", "explored")

    def run(self, ledger: SearchLedger, *, seed: int) -> None:
        """Run rounds until the budget is spent.

        Raises:
            InputError: The problem has no expensive metric.
        """
        if not ledger.problem.has_expensive:
            message = f"rounds need {ledger.problem.expensive} among objectives or constraints"
            raise InputError(message, got=", ".join(ledger.problem.metrics), hint="--strategy nsga2")
        region, budget = full_region(ledger.problem.space), ledger.budget.planned or 500
        initial, batch = self.initial or max(budget // 5, 10), self.batch or max(budget // 20, 5)
        rng = generator(seed, "first population")
        genomes = first_population(ledger, region, count=min(initial, ledger.left), pool=self.pool, rng=rng)
        rounds = 0
        while ledger.left and len(genomes):
            ledger.evaluate_siblings(ledger.evaluate(genomes))
            rounds += 1
            genomes = self._next_batch(ledger, region, min(batch, ledger.left), derived_seed(seed, "round", rounds))

    def _next_batch(self, ledger: SearchLedger, region: Region, count: int, seed: int) -> Genomes:
        """Choose the networks to evaluate next; random ones where the surrogate finds too few."""
        rng = generator(seed, "fill")
        known = ledger.candidates.rows(np.flatnonzero(ledger.candidates.evaluated))
        genomes = np.zeros((0, len(region.space.dimensions)), dtype=np.int16)
        if count and len(known.genomes) > 1:  # with fewer there is nothing to fit
            assert ledger.evaluators.fit is not None, "rounds without a function that fits a surrogate"
            values = known.metrics[str(ledger.problem.expensive)].mean
            surrogate = ledger.evaluators.fit(known.genomes, values, derived_seed(seed, "fit"))
            candidates = self._search_surrogate(ledger, region, surrogate, known, seed)
            genomes = self._select(candidates, known, ledger.problem, count)
        met = ledger.seen.copy()
        met.add(genomes)
        rest = sample_unseen(lambda n: sample_levels(region, rng, n), count - len(genomes), seen=met, region=region)
        return np.concatenate([genomes, rest])

    def _select(
        self, candidates: PredictedCandidates, known: EvaluatedCandidates, problem: Problem, count: int
    ) -> Genomes:
        """Take the candidates that improve the front most, then those that the surrogate is least certain of."""
        bounds = make_bounds(problem.objectives, known.metrics)
        front = known.scores.objectives[known.scores.feasible]
        num_exploratory = round(self.explored * count)
        improving = most_improving(candidates.objectives, front, count - num_exploratory, bounds)
        others = np.setdiff1d(np.arange(len(candidates.genomes)), improving)
        uncertain = others[np.argsort(-candidates.uncertainty[others], kind="stable")][: count - len(improving)]
        batch: Genomes = candidates.genomes[[*improving, *uncertain.tolist()]]
        return batch

    def _search_surrogate(
        self, ledger: SearchLedger, region: Region, surrogate: Surrogate, known: EvaluatedCandidates, seed: int
    ) -> PredictedCandidates:
        """Run NSGA-II on the surrogate; return the unseen networks near the front of all that it met."""
        engine = self._make_engine(region, known, seed)
        found: list[PredictedCandidates] = []
        for _ in range(self.generations):
            genomes = engine.ask()
            if not len(genomes):
                break
            scores, uncertainty = _predicted_scores(ledger, genomes, surrogate, optimism=self.optimism)
            engine.tell(scores)
            new = ledger.seen.is_new(genomes) & scores.feasible
            found.append(PredictedCandidates(genomes[new], scores.objectives[new], uncertainty[new]))
        genomes, objectives, uncertainty = (np.concatenate(parts) for parts in zip(*found, strict=True))
        near = nearest_to_front(objectives, 2 * self.population)
        return PredictedCandidates(genomes[near], objectives[near], uncertainty[near])

    def _make_engine(self, region: Region, known: EvaluatedCandidates, seed: int) -> Nsga2:
        """Start NSGA-II with the best known networks and random ones of all sizes, in equal parts."""
        rng, seen = generator(seed, "inner population"), GenomeSet()
        objectives = np.where(known.scores.feasible[:, None], known.scores.objectives, np.nan)
        best = known.genomes[nearest_to_front(objectives, self.population // 2)][: self.population // 2]
        seen.add(best)
        random_candidates = sample_unseen(
            lambda n: sample_levels(region, rng, n), self.population - len(best), seen=seen, region=region
        )
        return Nsga2(
            region=region,
            initial=np.concatenate([best, random_candidates]),
            variation=self.variation,
            seen=seen,
            population=self.population,
            seed=derived_seed(seed, "engine"),
        )


def _predicted_scores(
    ledger: SearchLedger, genomes: Genomes, surrogate: Surrogate, *, optimism: float
) -> tuple[PopulationScores, Values]:
    """Score networks by the surrogate, and return the widths of its intervals.

    Scoring between the mean and the better end of the interval (an upper confidence bound) favours networks that may
    be better than predicted.
    """
    problem, estimate = ledger.problem, surrogate(genomes)
    maximised = next(item.maximised for item in problem.criteria.metrics if str(item) == problem.expensive)
    better_end = estimate.upper if maximised else estimate.lower
    mean = estimate.mean + optimism * (better_end - estimate.mean)
    optimistic = Estimate(mean, np.minimum(estimate.lower, mean), np.maximum(estimate.upper, mean))
    metrics = {**ledger.cheap(genomes), str(problem.expensive): optimistic}
    return problem.scores(metrics), estimate.upper - estimate.lower
