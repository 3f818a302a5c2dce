"""The search itself, in a run: first seed, further seeds, random search beside it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.config import to_mapping
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.progress import Reporter, SearchProgress
from hwnas.search.ledger import Stopwatch
from hwnas.search.problem import Evaluators
from hwnas.search.record import History, SeedRuns, Spread
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.spec import SearchSpec
from hwnas.search.strategies.strategy import RandomSearch, SearchStrategy
from hwnas.search.study import Study

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy

SPENT = "spent_s"
"""What a study remembers of the time that went into it."""


@dataclass(frozen=True, kw_only=True)
class FinishedSearches:
    """Results of all searches of a run."""

    outcome: SearchOutcome
    elapsed_s: float
    history: History
    random_history: History | None
    seeds: SeedRuns | None


def make_evaluators(context: SearchContext, true_accuracy: "TrueAccuracy | None") -> Evaluators:
    """Who evaluates: predictors, the supernet, and what believes about the supernet."""
    fit = None if true_accuracy is None else accuracy_surrogate(context.space)
    return Evaluators(cheap=context.cheap, expensive=true_accuracy, fit=fit)


def run_all(context: SearchContext, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> FinishedSearches:
    """All searches of a run, each from its study where it was begun before."""
    strategy = context.spec.make_strategy()
    outcome, elapsed_s = _one(context, run, evaluators, strategy, context.spec, reporter=reporter)
    seeds = _further_seeds(context, run, evaluators, strategy, outcome, reporter=reporter)
    return FinishedSearches(
        outcome=outcome,
        elapsed_s=elapsed_s,
        history=_history(context, outcome),
        random_history=_random(context, run, evaluators, reporter=reporter),
        seeds=seeds,
    )


def _one(
    context: SearchContext,
    folder: Path,
    evaluators: Evaluators,
    strategy: SearchStrategy,
    spec: SearchSpec,
    *,
    reporter: Reporter | None = None,
) -> tuple[SearchOutcome, float]:
    with Study.open(folder, config=spec.study_config) as study:
        watch = Stopwatch(before_s=study.recall(SPENT) or 0.0)

        def on_progress(state: SearchProgress) -> None:
            study.remember(SPENT, watch.seconds())
            if reporter is not None:
                reporter.update(replace(state, elapsed_s=watch.seconds()))

        outcome = run_search(
            context.problem,
            evaluators,
            strategy=strategy,
            budget=spec.budget,
            seed=spec.seed,
            study=study,
            on_progress=on_progress,
        )
        return outcome, study.recall(SPENT) or watch.seconds()


def _further_seeds(
    context: SearchContext,
    run: Path,
    evaluators: Evaluators,
    strategy: SearchStrategy,
    first: SearchOutcome,
    *,
    reporter: Reporter,
) -> SeedRuns | None:
    """The same search with further seeds, each in a study of its own; values that are known are not made again."""
    if context.spec.num_seeds == 1:
        return None
    start = context.spec.seed
    reached = [_reached(first)]
    seeds = range(start, start + context.spec.num_seeds)
    for seed in seeds[1:]:
        spec = replace(context.spec, seed=seed)
        outcome, _ = _one(context, run / "seeds" / str(seed), evaluators, strategy, spec)
        reached.append(_reached(outcome))
        reporter.message(f"seed {seed}: hypervolume {reached[-1]:.4f}")
    spread = Spread(mean=float(np.mean(reached)), std=float(np.std(reached, ddof=1)), values=tuple(reached))
    return SeedRuns(seeds=tuple(seeds), hypervolume=spread)


def _random(context: SearchContext, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> History | None:
    """Random search with the same budget: where evaluations are free, and where it is asked for."""
    free = not context.problem.has_expensive
    if not (free or context.spec.random_baseline) or context.spec.strategy == "random":
        return None
    if free:
        strategy, budget = RandomSearch(), context.spec.budget
        outcome = run_search(context.problem, evaluators, strategy=strategy, budget=budget, seed=context.spec.seed)
    else:
        reporter.message("random search with the same budget")
        spec = replace(context.spec, strategy="random", settings=to_mapping(RandomSearch()))
        outcome, _ = _one(context, run / "random", evaluators, RandomSearch(), spec)
    return _history(context, outcome)


def _reached(outcome: SearchOutcome) -> float:
    return outcome.history[-1][1] if outcome.history else 0.0


def _history(context: SearchContext, outcome: SearchOutcome) -> History:
    """After each generation: candidates, evaluations, hypervolume."""
    counts = np.arange(1, len(outcome.candidates.genomes) + 1)
    if context.problem.has_expensive:
        counts = np.cumsum(np.isfinite(outcome.candidates.metrics[str(context.problem.expensive)].mean))
    return tuple((count, int(counts[count - 1]), reached) for count, reached in outcome.history)
