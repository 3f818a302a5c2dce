"""Our NSGA-II beside pymoo's default integer NSGA-II and Optuna's, on two problems of integers.

    python -m benchmarks.search_engine [--evaluations 10000] [--seeds 5] [--problems grid,predictor] [--save]

`grid`: one gene of 0..15, one of 0..13 and 38 of 0..2; three objectives, defined below. `predictor`: the genes of
`autoformer-tiny`; latency as the shipped predictor tells it, MACs, and an error that is made up of parameters and of
how the layers fit each other. Everything is minimised and lies between 0 and 1. The hypervolume is that of all networks
evaluated so far, reference point (1, 1, 1); CPU seconds are those of one process from the first to the last evaluation,
evaluating included. All sides run in this process, in turn, from one command. The evaluators take whole populations;
Optuna asks for one network at a time, which costs it more on `predictor` than its own work does.
Optuna is an optional row: without the package it is left out, and that is said.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.metrics import parse_metric
from hwnas.pipeline.search.predicted_metrics import CheapMetrics, MetricPredictor
from hwnas.predict.predictor import Predictor
from hwnas.search.ledger import Budget
from hwnas.search.objective import Metrics, exact, make_objectives
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.nsga2 import Nsga2Search
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension, per_block, per_network
from hwnas.space.space import AnySpace, Genomes, Mask, Space, SpaceConfig
from hwnas.workload import Segment

CHECKPOINTS = (500, 2_000, 10_000)
LAYERS = 19
Values = NDArray[np.float64]


def objectives(genomes: NDArray[Any]) -> Values:
    """Error, cost and delay of made-up networks of 19 layers, of shape (networks, 3).

    A network has a width w (gene 0) and a number of tokens t (gene 1); each layer has an expansion a and a number of
    heads b. Cost is a sum of products as in a transformer. Delay counts tiles of 8 and 4, which padding fills, and
    what a change of b from one layer to the next takes. Error falls with capacity, early layers wanting small and late
    ones large expansions, and neighbours wanting to fit each other.
    """
    x = genomes.astype(np.float64)
    w, t = 8 + x[:, :1], 4 + x[:, 1:2]
    a, b = x[:, 2 : 2 + LAYERS], x[:, 2 + LAYERS :]
    cost = (w * w * (1 + a) * t + w * t * t * (1 + b)).sum(axis=1)
    largest = LAYERS * (23 * 23 * 3 * 17 + 23 * 17 * 17 * 3)
    tiles = (np.ceil(w * (1 + a) / 8) * np.ceil(t / 4)).sum(axis=1)
    switches = (b[:, 1:] != b[:, :-1]).sum(axis=1)
    delay = (tiles + 6 * switches) / (LAYERS * 9 * 5 + 6 * (LAYERS - 1))
    wanted = np.linspace(0.0, 2.0, LAYERS)
    misfit = ((a - wanted) ** 2).mean(axis=1) / 4 + (np.abs(b[:, 1:] - a[:, :-1])).mean(axis=1) / 4
    error = 0.6 * np.exp(-2.5 * cost / largest) + 0.1 * np.exp(-x[:, 1] / 4) + 0.3 * misfit
    return np.stack([error, cost / largest, delay], axis=1)


@dataclass(frozen=True, kw_only=True)
class Grid(Space[SpaceConfig, Arch]):
    """The 40 genes as a space; every gene is always used."""

    family = "grid"
    config_type = SpaceConfig
    arch_type = Arch

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        blocks = [per_block(name, range(3), blocks=LAYERS) for name in ("expansion", "heads")]
        singles = [per_network("width", range(16)), per_network("tokens", range(14))]
        return (*singles, *blocks[0], *blocks[1])

    @property
    def size(self) -> int:
        return int(16 * 14 * 3 ** (2 * LAYERS))

    def _used(self, genomes: Genomes) -> Mask:
        return np.ones(genomes.shape, dtype=np.bool_)

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        raise NotImplementedError

    def _decode(self, row: Any) -> Arch:
        raise NotImplementedError

    def _encode(self, arch: Arch, genes: Any) -> None:
        raise NotImplementedError

    def _structure(self, arch: Arch) -> dict[str, Any]:
        raise NotImplementedError


GRID = Grid(name="grid", config=SpaceConfig())


PREDICTOR = Path("predictors/amd-epyc-f26m2-2c-avx512bf16/autoformer-tiny-onnxruntime-fp32-b1-t1/latency_ms")
"""The shipped predictor of the second problem, in the repository."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A problem that every side is given."""

    name: str
    space: AnySpace
    evaluate: Callable[[Genomes], Values]
    """The objectives of canonical genomes, of shape (networks, 3)."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """The choices of each gene."""
        return np.array([len(dimension.choices) for dimension in self.space.dimensions])

    def of_rows(self, rows: NDArray[Any]) -> Values:
        """The objectives of any rows of integers: genes that a network does not use are not looked at."""
        return self.evaluate(self.space.repair(rows))


def grid_task() -> Task:
    return Task(name="grid", space=GRID, evaluate=objectives)


def predictor_task() -> Task:
    """Latency and MACs from the least (0) to the most (1) of the space's smallest and largest networks."""
    space = SPACES.get("autoformer-tiny")
    predictor = Predictor.load(Path(__file__).parents[1] / PREDICTOR)
    metric = parse_metric("latency_ms@amd-epyc-f26m2-2c-avx512bf16/onnxruntime/fp32/b1")
    cheap = CheapMetrics(space=space, predictors=(MetricPredictor(metric=metric, predictor=predictor),))
    names = (str(metric), "macs")
    low, high = _known(cheap(space.encode([space.smallest(), space.largest()])), (*names, "params"))

    def evaluate(genomes: Genomes) -> Values:
        latency, macs, params = ((_known(cheap(genomes), (*names, "params")) - low) / (high - low)).T
        error = 0.7 * np.exp(-2.5 * np.maximum(params, 0.0)) + 0.3 * _misfit(space, genomes)
        return np.stack([error, macs, latency], axis=1)

    return Task(name="predictor", space=space, evaluate=evaluate)


def _known(metrics: Metrics, names: Sequence[str]) -> Values:
    return np.stack([metrics[name].mean for name in names], axis=1)


def _misfit(space: AnySpace, genomes: Genomes) -> Values:
    """How far the blocks of networks are from narrow MLPs in front and wide ones at the end, few heads and many."""
    used, parts = space.used(genomes), []
    for name in ("mlp_ratio", "num_heads"):
        columns = space.columns(name)
        genes, there = genomes[:, columns], used[:, columns]
        top = max(len(space.dimensions[columns.start].choices) - 1, 1)
        wanted = np.linspace(0.0, 1.0, genes.shape[1])
        parts.append((np.abs(genes / top - wanted) * there).sum(axis=1) / there.sum(axis=1))
    misfit: Values = np.mean(parts, axis=0)
    return misfit


TASKS: dict[str, Callable[[], Task]] = {"grid": grid_task, "predictor": predictor_task}


def ours(task: Task, evaluations: int, seed: int) -> tuple[Values, float]:
    return _searched(task, Nsga2Search(pool=1), evaluations, seed)


def at_random(task: Task, evaluations: int, seed: int) -> tuple[Values, float]:
    return _searched(task, STRATEGIES.get("random")(), evaluations, seed)


def _searched(task: Task, strategy: Any, evaluations: int, seed: int) -> tuple[Values, float]:
    names = ["accuracy", "macs", "latency_ms"]
    problem = Problem(space=task.space, objectives=make_objectives(names[2:]), expensive=None)

    def cheap(genomes: Genomes) -> Metrics:
        error, cost, delay = task.evaluate(genomes).T
        return {name: exact(values) for name, values in zip(names, (1 - error, cost, delay), strict=True)}

    start = time.process_time()
    budget = Budget(evaluations=evaluations)
    outcome = run_search(problem, Evaluators(cheap=cheap), strategy=strategy, budget=budget, seed=seed)
    seconds = time.process_time() - start
    return outcome.candidates.scores.objectives + np.array([1.0, 0.0, 0.0]), seconds


def pymoos(task: Task, evaluations: int, seed: int) -> tuple[Values, float]:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    found: list[Values] = []

    class Integers(PymooProblem):  # type: ignore[misc]
        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = task.of_rows(x)
            found.append(out["F"])

    # The operators that pymoo's guide gives for integers.
    algorithm = NSGA2(
        pop_size=100,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    width = len(task.counts)
    problem = Integers(n_var=width, n_obj=3, xl=np.zeros(width), xu=task.counts - 1, vtype=int)
    start = time.process_time()
    minimize(problem, algorithm, ("n_eval", evaluations), seed=seed, verbose=False)
    seconds = time.process_time() - start
    return np.concatenate(found)[:evaluations], seconds


def optunas(task: Task, evaluations: int, seed: int) -> tuple[Values, float]:
    optuna: Any = import_module("optuna")  # no dependency of hwnas
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counts = task.counts.tolist()

    def objective(trial: Any) -> tuple[float, ...]:
        genome = [trial.suggest_int(str(index), 0, count - 1) for index, count in enumerate(counts)]
        return tuple(task.of_rows(np.array([genome]))[0].tolist())

    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.NSGAIISampler(seed=seed))
    start = time.process_time()
    study.optimize(objective, n_trials=evaluations)
    seconds = time.process_time() - start
    return np.array([trial.values for trial in study.get_trials(deepcopy=False)]), seconds


Side = Callable[[Task, int, int], tuple[Values, float]]
SIDES: dict[str, Side] = {
    "ours": ours,
    "pymoo NSGA-II, integer": pymoos,
    "Optuna NSGA-II": optunas,
    "random search": at_random,
}


def hypervolumes(values: Values, checkpoints: Sequence[int]) -> list[float]:
    """After each number of evaluations."""
    return [float(moocore.hypervolume(values[:count], ref=[1.0, 1.0, 1.0])) for count in checkpoints]


def measure(task: Task, name: str, checkpoints: Sequence[int], *, seeds: int, most: int) -> str:
    """One row of the table, up to `most` evaluations."""
    runs, times, rates = [], [], []
    reached = [count for count in checkpoints if count <= most]
    for seed in range(seeds):
        values, seconds = SIDES[name](task, max(reached), seed)
        runs.append(hypervolumes(values, reached))
        times.append(seconds)
        rates.append(len(values) / seconds)
        print(f"{task.name}, {name}, seed {seed}: {runs[-1]}, {seconds:.2f} s", file=sys.stderr, flush=True)
    cells = [f"{mean(column):.4f} ± {stdev(column):.4f}" for column in zip(*runs, strict=True)]
    cells += ["-"] * (len(checkpoints) - len(reached))
    spent = f"{median(times):.2f} ({min(times):.2f} – {max(times):.2f})"
    spent += "" if len(reached) == len(checkpoints) else f" for {max(reached):,}"
    return " | ".join(["", task.name, name, *cells, spent, f"{median(rates):,.0f}", ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=max(CHECKPOINTS), help="of each run")
    parser.add_argument(
        "--optuna-evaluations", type=int, default=max(CHECKPOINTS), help="of its runs: its time grows faster than they"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each side, at least 2")
    parser.add_argument("--problems", default=",".join(TASKS), help="names, separated by commas without a space")
    parser.add_argument("--sides", default=",".join(SIDES), help="names, separated by commas without a space")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    checkpoints = sorted({min(count, options.evaluations) for count in CHECKPOINTS})
    sides = [name for name in SIDES if name in options.sides or options.sides in name]
    tasks = [TASKS[name]() for name in options.problems.split(",")]
    notes = "Mean and standard deviation over seeds; CPU seconds: median, least and most."
    if find_spec("optuna") is None and "Optuna NSGA-II" in sides:
        sides.remove("Optuna NSGA-II")
        notes += " Optuna is not installed here, and its row is left out."
        print("Optuna is not installed: its row is left out", file=sys.stderr)
    spent = f"CPU s for {max(checkpoints):,}"
    volumes = [f"hypervolume at {count:,}" for count in checkpoints]
    header = ["problem", "side", *volumes, spent, "evaluations per CPU second"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    most = {"Optuna NSGA-II": options.optuna_evaluations}
    lines += [
        measure(task, name, checkpoints, seeds=options.seeds, most=most.get(name, options.evaluations))
        for task in tasks
        for name in sides
    ]
    print(text := "\n".join(lines))
    if options.save:
        path = save(
            text,
            name="search_engine",
            device=detect().cpu.slug,
            title="Search engines on integer problems of three objectives",
            command=f"python -m benchmarks.search_engine {asked()}",
            notes=f"{notes} {options.seeds} seeds.",
        )
        print(f"saved {path}")


if __name__ == "__main__":
    main()
