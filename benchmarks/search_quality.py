"""Searches on the true accuracies of a supernet: for a front, and for the best network in one window of cost.

    python -m benchmarks.search_quality --state DIR [--supernet RUN] [--data NAME] [--budgets 50,100,200,400] [--save]

A supernet of `--space` is trained with the recipe `micro` on `digits-clutter` (or is that of the run `--supernet`, on
its images or on `--data`), and every strategy searches it with each budget of true evaluations, from `--seeds` seeds.

The first table is of fronts of accuracy, MACs and parameters: the hypervolume of what was truly evaluated, the share of
a box that is the same for all, whose reference point is accuracy 0 and 1.1 times the most MACs and parameters of 1,000
networks drawn from the space. The published evolutions look for one network, and are not in it.

The second table is of the most accurate network in one window of a cost (`--cost`), the one question that the published
evolutions answer: from `--window` of the median of 1,000 uniform networks to the median. Every strategy has accuracy as
its only objective and the window as its constraints, and the evolutions have `--cost` as the cost of their window.

Networks are evaluated on the held-out images with inherited weights, each once: `--state` keeps accuracies and finished
searches, so that seeds share evaluations and a run that was ended goes on. How sure the accuracies are is shown by the
split-half rank correlation: Spearman's, between accuracies on one random half of the images and on the other.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.support.saving import asked, save
from hwnas.cli.progress import ConsoleReporter
from hwnas.devices import detect
from hwnas.pipeline.search.accuracy import OpenSupernet, open_supernet
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.pipeline.train import train_model
from hwnas.runs import SUPERNET
from hwnas.search.ledger import Budget
from hwnas.search.objective import Constraint, make_objectives, parse_constraint
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.evolution import Evolution
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.matmul import fast_matmul
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluation import make_evaluator
from hwnas.train.evaluator import Accuracy, SupernetEvaluator
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig

ACCURACIES_FILE, SEARCHES = "accuracies.jsonl", "searches.jsonl"
TASKS = {"front": "rounds,nsga2,random", "window": "rounds,nsga2,autoformer,resnas,vitas,random"}
"""Figures that searches are compared by, each with its strategies; spaces of GLiT add `glit`."""

_HALVES = 20
"""Random halves that the rank correlation is a mean over."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Task, strategy, budget and seed of a search."""

    task: str
    """`front` or `window`."""
    strategy: str
    budget: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Reached(Key):
    """One search, and what it reached."""

    value: float
    """Hypervolume of the front, or the best accuracy in the window."""
    cpu_s: float
    """CPU time of the search itself, without evaluating."""

    @property
    def key(self) -> Key:
        """Task, strategy, budget and seed of the search."""
        return Key(task=self.task, strategy=self.strategy, budget=self.budget, seed=self.seed)


class Truth:
    """True accuracies, and the time that they took."""

    def __init__(self, evaluator: SupernetEvaluator, space: Any) -> None:
        self.evaluator, self.space = evaluator, space
        self.spent_s = 0.0
        self.seen: dict[str, Accuracy] = {}

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        """Top-1 of each row."""
        began = time.process_time()
        found = self.evaluator.evaluate(self.space.decode(genomes))
        self.spent_s += time.process_time() - began
        for row, accuracy in enumerate(found):
            self.seen[accuracy.arch_id] = accuracy
            yield row, accuracy.top1


def opened(options: argparse.Namespace) -> OpenSupernet:
    """The supernet that is given, or one that is trained into the state folder."""
    run: Path = options.supernet or options.state / "train"
    if options.supernet is None and not (run / SUPERNET).is_file():
        training = TrainOptions(space=options.space, data=options.data, recipe="micro", epochs=options.epochs)
        resume = run.exists()
        train_model(
            TrainOptions() if resume else training,
            out=run,
            resume=resume,
            trainer_config=TrainerConfig(threads=1),
            reporter=ConsoleReporter(),
        )
    return open_supernet(run, space=None, data=options.data if options.supernet is not None else None)


def window_of(space: AnySpace, *, cost: str, share: float) -> tuple[Constraint, Constraint]:
    """Return the bounds of the window: the median of uniform networks, and a share of it."""
    costs = getattr(space.costs(space.sample(np.random.default_rng(0), 1000)), cost)
    top = float(np.median(costs))
    return parse_constraint(f"{cost}>={share * top}"), parse_constraint(f"{cost}<={top}")


def make_problems(space: AnySpace, window: tuple[Constraint, Constraint]) -> dict[str, Problem]:
    """Return by task what is searched: a front, and the most accurate network in a window."""
    return {
        "front": Problem(space=space, objectives=make_objectives(["params"])),
        "window": Problem(space=space, objectives=make_objectives([], macs=False), constraints=window),
    }


def make_strategy(name: str, *, cost: Literal["params", "macs"]) -> SearchStrategy:
    """Return a strategy; the window of a published evolution is one of the given cost."""
    strategy = STRATEGIES.get(name)()
    return replace(strategy, cost=cost) if isinstance(strategy, Evolution) else strategy


def searched(key: Key, truth: Truth, problem: Problem, *, cost: Literal["params", "macs"]) -> Reached:
    """Return what one search reached."""
    evaluators = Evaluators(
        cheap=CheapMetrics(space=problem.space), expensive=truth, fit=accuracy_surrogate(problem.space)
    )
    strategy = make_strategy(key.strategy, cost=cost)
    began, before = time.process_time(), truth.spent_s
    outcome = run_search(problem, evaluators, strategy=strategy, budget=Budget(evaluations=key.budget), seed=key.seed)
    cpu_s = time.process_time() - began - (truth.spent_s - before)
    assert outcome.evaluations == key.budget, "all strategies have equal budgets"
    scores = outcome.candidates.scores
    best = -float(scores.objectives[scores.feasible, 0].min())
    value = best if key.task == "window" else outcome.history[-1][1]
    return Reached(**vars(key), value=value, cpu_s=round(cpu_s, 2))


def all_searches(options: argparse.Namespace, truth: Truth, problems: Mapping[str, Problem]) -> list[Reached]:
    """Return the searches of every strategy with every budget and seed; those that the state has are not run again."""
    path: Path = options.state / SEARCHES
    lines = path.read_text().splitlines() if path.exists() else []
    done = {one.key: one for one in (Reached(**json.loads(line)) for line in lines)}
    wanted = [
        Key(task=task, strategy=strategy, budget=budget, seed=seed)
        for budget in options.budgets
        for seed in range(options.seeds)
        for task in TASKS
        for strategy in strategies_of(task, options)
    ]
    for key in wanted:
        if key not in done:
            found = done[key] = searched(key, truth, problems[key.task], cost=options.cost)
            with path.open("a") as file:
                file.write(json.dumps(vars(found)) + "\n")
            said = f"{key.task} {key.strategy} {key.budget} seed {key.seed}: {found.value:.4f} in {found.cpu_s} s"
            print(f"{said}, {len(truth.seen)} networks evaluated", file=sys.stderr, flush=True)
    return [done[key] for key in wanted]


def strategies_of(task: str, options: argparse.Namespace) -> list[str]:
    """Return the strategies that a table compares."""
    names: list[str] = options.front_strategies if task == "front" else options.window_strategies
    return names


def split_half(accuracies: Mapping[str, Accuracy]) -> float:
    """Spearman's rank correlation between the accuracies on two random halves of the images, a mean over halves."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    hits = np.stack([accuracy.hits for accuracy in accuracies.values() if accuracy.hits is not None])
    rng, found = np.random.default_rng(0), []
    for _ in range(_HALVES):
        order = rng.permutation(hits.shape[1])
        one, other = (hits[:, half].mean(axis=1) for half in np.array_split(order, 2))
        found.append(float(spearmanr(one, other).statistic))
    return mean(found)


def table(found: Sequence[Reached], options: argparse.Namespace, *, task: str) -> str:
    """Return mean and standard deviation over the seeds."""
    names = strategies_of(task, options)
    head = ["budget", *names]
    rows = [head, ["---:" for _ in head]]
    own = [one for one in found if one.task == task]
    for budget in options.budgets:
        cells = [
            _spread(
                [one.value for one in own if (one.strategy, one.budget) == (name, budget)], percent=task == "window"
            )
            for name in names
        ]
        rows.append([str(budget), *cells])
    rows.append(
        ["search alone", *(f"{mean([one.cpu_s for one in own if one.strategy == name]):.1f} s" for name in names)]
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def verdicts(found: Sequence[Reached], options: argparse.Namespace) -> list[str]:
    """Return for each budget whether rounds reach plain NSGA-II's front with a quarter of the true evaluations."""
    said = []
    for budget in options.budgets:
        quarter = budget // 4
        if quarter in options.budgets and {"rounds", "nsga2"} <= set(options.front_strategies):
            few, many = (_mean(found, name, size) for name, size in (("rounds", quarter), ("nsga2", budget)))
            reached = "reaches" if few >= many else "does not reach"
            said.append(f"rounds with {quarter} ({few:.4f}) {reached} nsga2 with {budget} ({many:.4f})")
    return said


def _mean(found: Sequence[Reached], strategy: str, budget: int) -> float:
    wanted = ("front", strategy, budget)
    return mean(one.value for one in found if (one.task, one.strategy, one.budget) == wanted)


def _spread(values: Sequence[float], *, percent: bool) -> str:
    middle, spread = mean(values), stdev(values) if len(values) > 1 else 0.0
    return f"{100 * middle:.2f} % ± {100 * spread:.2f}" if percent else f"{middle:.4f} ± {spread:.4f}"


def main(arguments: Sequence[str]) -> None:
    """Search and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--space", default="autoformer-micro")
    parser.add_argument("--supernet", type=Path)
    parser.add_argument("--data", default=None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--budgets", default="50,100,200,400", type=lambda text: [int(part) for part in text.split(",")]
    )
    parser.add_argument("--front-strategies", default=TASKS["front"], type=lambda text: text.split(","))
    parser.add_argument(
        "--window-strategies",
        default=TASKS["window"],
        type=lambda text: text.split(","),
        help="glit as well in spaces of GLiT",
    )
    parser.add_argument("--cost", default="params", choices=["params", "macs"])
    parser.add_argument("--window", default=0.9, type=float, help="the lower bound, as a share of the upper one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    if options.supernet is None:
        options.data = options.data or "digits-clutter"
    torch.set_num_threads(1)
    supernet = opened(options)
    assert isinstance(supernet.data, DataSplits)
    evaluator = make_evaluator(
        supernet.supernet,
        supernet.data,
        checkpoint_id=supernet.digest,
        cache=options.state / ACCURACIES_FILE,
        keep_hits=True,
    )
    truth = Truth(evaluator, supernet.space)
    window = window_of(supernet.space, cost=options.cost, share=options.window)
    problems = make_problems(supernet.space, window)
    with fast_matmul():
        found = all_searches(options, truth, problems)
        sample = supernet.space.sample(np.random.default_rng(0), 100)
        list(truth(sample))
    _report(found, options, supernet, truth, window)


def _report(
    found: Sequence[Reached],
    options: argparse.Namespace,
    supernet: OpenSupernet,
    truth: Truth,
    window: tuple[Constraint, Constraint],
) -> None:
    images = len(supernet.data.heldout)
    spread = [accuracy.top1 for accuracy in truth.seen.values()]
    low, high = (constraint.bound for constraint in window)
    notes = [
        f"{supernet.space.name}, {supernet.data.name}: {images:,} held-out images, "
        f"{len(truth.seen):,} networks evaluated, "
        f"top-1 {min(spread):.1%} to {max(spread):.1%};",
        f"split-half rank correlation of accuracy {split_half(truth.seen):.3f}; "
        f"mean and deviation of {options.seeds} seeds.",
        *(f"{line}." for line in verdicts(found, options)),
    ]
    titles = {
        "front": "Hypervolume of the front",
        "window": f"Best accuracy among networks with {low:,.0f} to {high:,.0f} {options.cost}",
    }
    text = "\n\n".join(f"{titles[task]}:\n\n{table(found, options, task=task)}" for task in TASKS)
    print(text)
    print("\n".join(notes))
    if options.save:
        title = "Fronts, and the best network in a window of cost, by strategy and budget of true evaluations"
        command = f"python -m benchmarks.search_quality {asked()}"
        device = detect().cpu.slug
        print(save(text, name="search_quality", device=device, title=title, command=command, notes="\n".join(notes)))


if __name__ == "__main__":
    main(sys.argv[1:])
