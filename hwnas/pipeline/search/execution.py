"""The searches of a run: the requested one, the same with further seeds, and a random search to compare with."""

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
from hwnas.search.strategies.strategy import RandomSearch
from hwnas.search.study import Study
from hwnas.search.study_files import STUDY_FILE
from hwnas.space.deployed import DeployedSpace, count_evaluations

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import SupernetAccuracy

_SPENT = "spent_s"
"""The key under which a study stores the time spent on it."""


@dataclass(frozen=True, kw_only=True)
class FinishedSearches:
    """Results of all searches of a run."""

    outcome: SearchOutcome
    elapsed_s: float
    history: History
    random_history: History | None
    seeds: SeedRuns | None


def make_evaluators(context: SearchContext, supernet_accuracy: "SupernetAccuracy | None") -> Evaluators:
    """Return the evaluators of a search: predictors, the supernet, and a surrogate of the supernet."""
    space = context.space
    shared_by = space if isinstance(space, DeployedSpace) and supernet_accuracy is not None else None
    fit = None if supernet_accuracy is None else accuracy_surrogate(space, shared_by=shared_by)
    return Evaluators(cheap=context.cheap, expensive=supernet_accuracy, fit=fit, shared_by=shared_by)


def run_all(context: SearchContext, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> FinishedSearches:
    """Run all searches of a run, or resume each of them from its study.

    Args:
        context: The inputs of the search.
        run: The run folder, which holds the study of the first search.
        evaluators: The functions that evaluate networks.
        reporter: Receives the progress of the first search, and messages on the others.
    """
    outcome, elapsed_s = _run_one(context, run, evaluators, context.spec, reporter=reporter)
    seeds = _run_seeds(context, run, evaluators, outcome, reporter=reporter)
    return FinishedSearches(
        outcome=outcome,
        elapsed_s=elapsed_s,
        history=_history(context, outcome),
        random_history=_run_random(context, run, evaluators, reporter=reporter),
        seeds=seeds,
    )


def _run_one(
    context: SearchContext,
    folder: Path,
    evaluators: Evaluators,
    spec: SearchSpec,
    *,
    reporter: Reporter | None = None,
) -> tuple[SearchOutcome, float]:
    """Run a search with its study in a folder; return its outcome and the seconds spent on it."""
    with _open_study(folder, spec) as study:
        watch = Stopwatch(before_s=study.recall_seconds(_SPENT))

        def on_progress(state: SearchProgress) -> None:
            study.remember(_SPENT, watch.seconds())
            if reporter is not None:
                reporter.update(replace(state, elapsed_s=watch.seconds()))

        outcome = run_search(
            context.problem,
            evaluators,
            strategy=spec.make_strategy(),
            budget=spec.budget,
            seed=spec.seed,
            study=study,
            on_progress=on_progress,
        )
        return outcome, study.recall_seconds(_SPENT) or watch.seconds()


def _open_study(folder: Path, spec: SearchSpec) -> Study:
    """Open or create the study of a search; that of a search that was given more evaluations takes its new budget."""
    config, budget = spec.study_config, spec.budget
    if budget.earlier and (folder / STUDY_FILE).is_file():
        with Study.read(folder) as study:
            stored = study.config.get("budget")
        for number, evaluations in enumerate(budget.earlier):
            before = replace(budget, evaluations=evaluations, earlier=budget.earlier[:number])
            if stored == replace(spec, budget=before).study_config["budget"]:
                with Study.resume(folder, config={**config, "budget": stored}) as study:
                    study.remember("config", config)
    return Study.open(folder, config=config)


def _run_seeds(
    context: SearchContext, run: Path, evaluators: Evaluators, first: SearchOutcome, *, reporter: Reporter
) -> SeedRuns | None:
    """Repeat the search with further seeds, each in a study of its own; accuracies that are known are reused."""
    if context.spec.num_seeds == 1:
        return None
    seeds = range(context.spec.seed, context.spec.seed + context.spec.num_seeds)
    reached = [_final_hypervolume(first)]
    for seed in seeds[1:]:
        outcome, _ = _run_one(context, run / "seeds" / str(seed), evaluators, replace(context.spec, seed=seed))
        reached.append(_final_hypervolume(outcome))
        reporter.message(f"seed {seed}: hypervolume {reached[-1]:.4f}")
    spread = Spread(mean=float(np.mean(reached)), std=float(np.std(reached, ddof=1)), values=tuple(reached))
    return SeedRuns(seeds=tuple(seeds), hypervolume=spread)


def _final_hypervolume(outcome: SearchOutcome) -> float:
    return outcome.history[-1][1] if outcome.history else 0.0


def _run_random(context: SearchContext, run: Path, evaluators: Evaluators, *, reporter: Reporter) -> History | None:
    """Run a random search with the same budget, where evaluations are free or where it was requested."""
    spec, problem = context.spec, context.problem
    if spec.strategy == "random" or (problem.has_expensive and not spec.random_baseline):
        return None
    if problem.has_expensive:
        reporter.message("random search with the same budget")
        spec = replace(spec, strategy="random", settings=to_mapping(RandomSearch()))
        outcome, _ = _run_one(context, run / "random", evaluators, spec)
    else:
        outcome = run_search(problem, evaluators, strategy=RandomSearch(), budget=spec.budget, seed=spec.seed)
    return _history(context, outcome)


def _history(context: SearchContext, outcome: SearchOutcome) -> History:
    """Return candidates, evaluations and hypervolume after each generation."""
    problem, genomes = context.problem, outcome.candidates.genomes
    counts = np.arange(1, len(genomes) + 1)
    if problem.has_expensive:
        known = np.isfinite(outcome.candidates.metrics[str(problem.expensive)].mean)
        counts = count_evaluations(context.space, genomes, known)
    return tuple((count, int(counts[count - 1]), reached) for count, reached in outcome.history)
