"""Surrogate rounds beside plain NSGA-II, the seeds' evolution and random search, on the true accuracies of a supernet.

    python -m benchmarks.search_quality --state DIR [--supernet RUN] [--data NAME] [--budgets 50,100,200,400] [--save]

A supernet of `--space` is trained with the recipe `micro` on `digits-clutter` (or is that of the run `--supernet`, on
its pictures or on `--data`), and every strategy searches it for accuracy, MACs and parameters with each budget of true
evaluations, from `--seeds` seeds. The table shows the hypervolume of what was truly evaluated: the share of a box that
is the same for all, whose reference point is accuracy 0 and 1.1 times the most MACs and parameters of 1,000 networks
drawn from the space.

Networks are judged on the held-out pictures with inherited weights, each once: `--state` keeps accuracies and finished
searches, so that seeds share evaluations and a run that was ended goes on. How sure the accuracies are is told by the
split-half rank correlation: Spearman's, between accuracies on one random half of the pictures and on the other.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.support.saving import asked, save
from hwnas.cli.progress import ConsoleReporter
from hwnas.devices import detect
from hwnas.pipeline.search.accuracy import OpenSupernet, open_supernet
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.pipeline.train import train_model
from hwnas.search.ledger import Budget
from hwnas.search.objective import make_objectives
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.space.space import Genomes
from hwnas.supernet.matmul import fast_matmul
from hwnas.train.evaluation import make_evaluator
from hwnas.train.evaluator import Accuracy, SupernetEvaluator
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig
from hwnas.train.weights import SUPERNET

ACCURACIES_FILE, SEARCHES = "accuracies.jsonl", "searches.jsonl"
_HALVES = 20
"""Random halves that the rank correlation is a mean over."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """One search."""

    strategy: str
    budget: int
    seed: int
    hypervolume: float
    cpu_s: float
    """Of the search itself, evaluating left out."""


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


def searched(strategy: str, budget: int, seed: int, truth: Truth, problem: Problem) -> Reached:
    """One search with one budget."""
    evaluators = Evaluators(
        cheap=CheapMetrics(space=problem.space), expensive=truth, fit=accuracy_surrogate(problem.space)
    )
    began, before = time.process_time(), truth.spent_s
    outcome = run_search(
        problem, evaluators, strategy=STRATEGIES.get(strategy)(), budget=Budget(evaluations=budget), seed=seed
    )
    cpu_s = time.process_time() - began - (truth.spent_s - before)
    return Reached(
        strategy=strategy, budget=budget, seed=seed, hypervolume=outcome.history[-1][1], cpu_s=round(cpu_s, 2)
    )


def all_searches(options: argparse.Namespace, truth: Truth, problem: Problem) -> list[Reached]:
    """Every strategy with every budget and seed; those that the state has are not made again."""
    path: Path = options.state / SEARCHES
    lines = path.read_text().splitlines() if path.exists() else []
    done = [Reached(**json.loads(line)) for line in lines]
    have = {(one.strategy, one.budget, one.seed) for one in done}
    wanted = [
        (strategy, budget, seed)
        for budget in options.budgets
        for seed in range(options.seeds)
        for strategy in options.strategies
    ]
    for key in wanted:
        if key not in have:
            found = searched(*key, truth, problem)
            done.append(found)
            with path.open("a") as file:
                file.write(json.dumps(vars(found)) + "\n")
            said = f"{found.strategy} {found.budget} seed {found.seed}: {found.hypervolume:.4f} in {found.cpu_s} s"
            print(f"{said}, {len(truth.seen)} networks judged", file=sys.stderr, flush=True)
    return [one for one in done if (one.strategy, one.budget, one.seed) in set(wanted)]


def split_half(accuracies: Mapping[str, Accuracy]) -> float:
    """Spearman's rank correlation between the accuracies on two random halves of the pictures, a mean over halves."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    hits = np.stack([accuracy.hits for accuracy in accuracies.values() if accuracy.hits is not None])
    rng, found = np.random.default_rng(0), []
    for _ in range(_HALVES):
        order = rng.permutation(hits.shape[1])
        one, other = (hits[:, half].mean(axis=1) for half in np.array_split(order, 2))
        found.append(float(spearmanr(one, other).statistic))
    return mean(found)


def table(found: Sequence[Reached], options: argparse.Namespace) -> str:
    """Mean and standard deviation over the seeds."""
    head = ["budget", *options.strategies]
    rows = [head, ["---:" for _ in head]]
    for budget in options.budgets:
        cells = [
            _spread([one.hypervolume for one in found if (one.strategy, one.budget) == (name, budget)])
            for name in options.strategies
        ]
        rows.append([str(budget), *cells])
    own = [f"{mean([one.cpu_s for one in found if one.strategy == name]):.1f} s" for name in options.strategies]
    rows.append(["search alone", *own])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def verdicts(found: Sequence[Reached], options: argparse.Namespace) -> list[str]:
    """Whether rounds reach plain NSGA-II's value with a quarter of the true evaluations."""
    said = []
    for budget in options.budgets:
        quarter = budget // 4
        if quarter in options.budgets and {"rounds", "nsga2"} <= set(options.strategies):
            few, many = (_mean(found, name, size) for name, size in (("rounds", quarter), ("nsga2", budget)))
            reached = "reaches" if few >= many else "does not reach"
            said.append(f"rounds with {quarter} ({few:.4f}) {reached} nsga2 with {budget} ({many:.4f})")
    return said


def _mean(found: Sequence[Reached], strategy: str, budget: int) -> float:
    return mean(one.hypervolume for one in found if (one.strategy, one.budget) == (strategy, budget))


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


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
    parser.add_argument("--strategies", default="rounds,nsga2,autoformer,random", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    if options.supernet is None:
        options.data = options.data or "digits-clutter"
    torch.set_num_threads(1)
    supernet = opened(options)
    evaluator = make_evaluator(
        supernet.supernet,
        supernet.data,
        checkpoint_id=supernet.digest,
        cache=options.state / ACCURACIES_FILE,
        keep_hits=True,
    )
    truth = Truth(evaluator, supernet.space)
    problem = Problem(space=supernet.space, objectives=make_objectives(["params"]))
    with fast_matmul():
        found = all_searches(options, truth, problem)
        sample = supernet.space.sample(np.random.default_rng(0), 100)
        list(truth(sample))
    _report(found, options, supernet, truth)


def _report(found: Sequence[Reached], options: argparse.Namespace, supernet: OpenSupernet, truth: Truth) -> None:
    pictures = len(supernet.data.heldout)
    spread = [accuracy.top1 for accuracy in truth.seen.values()]
    notes = [
        f"{supernet.space.name}, {supernet.data.name}: {pictures:,} held-out pictures, "
        f"{len(truth.seen):,} networks judged, "
        f"top-1 {min(spread):.1%} to {max(spread):.1%};",
        f"split-half rank correlation of accuracy {split_half(truth.seen):.3f}; "
        f"mean and deviation of {options.seeds} seeds.",
        *(f"{line}." for line in verdicts(found, options)),
    ]
    text = table(found, options)
    print(text)
    print("\n".join(notes))
    if options.save:
        title = "Hypervolume of true evaluations by strategy and budget"
        command = f"python -m benchmarks.search_quality {asked()}"
        device = detect().cpu.slug
        print(save(text, name="search_quality", device=device, title=title, command=command, notes="\n".join(notes)))


if __name__ == "__main__":
    main(sys.argv[1:])
