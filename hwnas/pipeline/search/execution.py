"""The search itself, in a run: first seed, further seeds, random search beside it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.config import to_mapping
from hwnas.pipeline.search.context import Bench
from hwnas.pipeline.search.options import SearchConfig
from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.progress import Reporter, SearchProgress
from hwnas.search.budget import Stopwatch
from hwnas.search.files import FILE
from hwnas.search.problem import Evaluators
from hwnas.search.record import History, SeedRuns, Spread
from hwnas.search.run import Outcome, run_search
from hwnas.search.strategies.random_search import RandomSearch
from hwnas.search.strategies.strategy import Strategy
from hwnas.search.study import Study

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy

SPENT = "spent_s"
"""What a study remembers of the time that went into it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the searches of a run came to."""

    outcome: Outcome
    elapsed_s: float
    history: History
    random_history: History | None
    seeds: SeedRuns | None


def make_evaluators(bench: Bench, truth: "TrueAccuracy | None") -> Evaluators:
    """Who evaluates: predictors, the supernet, and what believes about the supernet."""
    fit = None if truth is None else accuracy_surrogate(bench.space)
    return Evaluators(cheap=bench.cheap, dear=truth, fit=fit)


def open_study(folder: Path, config: SearchConfig) -> Study:
    """The study of a folder: the one that is there, if it is of this configuration, or a new one."""
    values = to_mapping(config)
    return Study.resume(folder, config=values) if (folder / FILE).exists() else Study.create(folder, config=values)


def run_all(bench: Bench, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> Ended:
    """All searches of a run, each from its study where it was begun before."""
    strategy = bench.search.make_strategy()
    outcome, elapsed_s = _one(bench, run, evaluators, strategy, bench.search, reporter=reporter)
    seeds = _further_seeds(bench, run, evaluators, strategy, outcome, reporter=reporter)
    return Ended(
        outcome=outcome,
        elapsed_s=elapsed_s,
        history=_history(bench, outcome),
        random_history=_random(bench, run, evaluators, reporter=reporter),
        seeds=seeds,
    )


def _one(
    bench: Bench,
    folder: Path,
    evaluators: Evaluators,
    strategy: Strategy,
    config: SearchConfig,
    *,
    reporter: Reporter | None = None,
) -> tuple[Outcome, float]:
    with open_study(folder, config) as study:
        watch = Stopwatch(before_s=study.recall(SPENT) or 0.0)

        def on_progress(state: SearchProgress) -> None:
            study.remember(SPENT, watch.seconds())
            if reporter is not None:
                reporter.update(replace(state, elapsed_s=watch.seconds()))

        outcome = run_search(
            bench.problem,
            evaluators,
            strategy=strategy,
            budget=config.budget,
            seed=config.seed,
            study=study,
            on_progress=on_progress,
        )
        return outcome, study.recall(SPENT) or watch.seconds()


def _further_seeds(
    bench: Bench, run: Path, evaluators: Evaluators, strategy: Strategy, first: Outcome, *, reporter: Reporter
) -> SeedRuns | None:
    """The same search with further seeds, each in a study of its own; values that are known are not made again."""
    if bench.config.num_seeds == 1:
        return None
    start = bench.search.seed
    reached = [_reached(first)]
    seeds = range(start, start + bench.config.num_seeds)
    for seed in seeds[1:]:
        config = replace(bench.search, seed=seed)
        outcome, _ = _one(bench, run / "seeds" / str(seed), evaluators, strategy, config)
        reached.append(_reached(outcome))
        reporter.message(f"seed {seed}: hypervolume {reached[-1]:.4f}")
    spread = Spread(mean=float(np.mean(reached)), std=float(np.std(reached, ddof=1)), values=tuple(reached))
    return SeedRuns(seeds=tuple(seeds), hypervolume=spread)


def _random(bench: Bench, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> History | None:
    """Random search with the same budget: where evaluations are free, and where it is asked for."""
    free = not bench.problem.has_dear
    if not (free or bench.config.random_baseline) or bench.search.strategy == "random":
        return None
    if free:
        strategy, budget = RandomSearch(), bench.search.budget
        outcome = run_search(bench.problem, evaluators, strategy=strategy, budget=budget, seed=bench.search.seed)
    else:
        reporter.message("random search with the same budget")
        config = replace(bench.search, strategy="random", settings=to_mapping(RandomSearch()))
        outcome, _ = _one(bench, run / "random", evaluators, RandomSearch(), config)
    return _history(bench, outcome)


def _reached(outcome: Outcome) -> float:
    return outcome.history[-1][1] if outcome.history else 0.0


def _history(bench: Bench, outcome: Outcome) -> History:
    """After each generation: candidates, evaluations, hypervolume."""
    counts = np.arange(1, len(outcome.candidates.genomes) + 1)
    if bench.problem.has_dear:
        counts = np.cumsum(np.isfinite(outcome.candidates.metrics[str(bench.problem.dear)].mean))
    return tuple((count, int(counts[count - 1]), reached) for count, reached in outcome.history)
