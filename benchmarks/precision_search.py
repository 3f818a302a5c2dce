"""A search with precision as a gene against a search in float32 whose front is quantised afterwards.

    python -m benchmarks.precision_search --state DIR [--data NAME] [--budget 60] [--seeds 5] [--front 6] [--save]

A micro supernet is trained, networks are measured with OpenVINO in fp32, bf16 and int8, and predictors are fitted. For
each seed two searches evaluate `--budget` networks each: one chooses among the precisions, the other searches in fp32.
Of each front at most `--front` networks, evenly by predicted throughput, are measured: those of the first search in
their own precision, those of the second in all three. Accuracies are of test images, which no search has seen, in the
precision that the network runs in; int8 is rounded in torch, which `benchmarks.int8_accuracy` compares with graphs.

Hypervolumes are shares of the rectangle between the worst and the best accuracy and throughput of all networks.
`--state` keeps every finished step, and the same command resumes a run that was stopped.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from benchmarks.support.saving import asked, save
from hwnas.devices import resolve
from hwnas.metrics import Deployment
from hwnas.pipeline.measure import measure, measure_plan
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.search.accuracy import OpenSupernet, evaluated_precision, open_supernet
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import search_networks
from hwnas.pipeline.train import train_model
from hwnas.predict.card import Card
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import Plan, make_tasks, new_session, save_plan
from hwnas.profile.results import results_by_network
from hwnas.profile.subjects import space_subject, unique_subjects
from hwnas.records import Setting, load_profile
from hwnas.runs import MANIFEST, SUPERNET, environment
from hwnas.search.pareto import HypervolumeBounds, hypervolume
from hwnas.search.record import RECORD_FILE
from hwnas.search.result import FoundNetwork, load_search
from hwnas.search.spec import PostSearch
from hwnas.space.space import Candidate
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluation import make_evaluator
from hwnas.train.evaluator import SupernetEvaluator
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig

RUNTIME = "openvino"
PRECISIONS = ("fp32", "bf16", "int8")
AIM_FLOORS, AIM_NETWORKS = 1.5, 150

ARMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "precision as a gene": ("joint", ()),
    "fp32": ("fp32", ("fp32",)),
    "fp32, quantised to int8 afterwards": ("fp32", ("int8",)),
    "fp32, in all three precisions afterwards": ("fp32", PRECISIONS),
}
"""The search of each line, and the precisions that its networks run in; none: each in its own."""

Point = tuple[str, str]
"""The id of a network's candidate and a precision."""


@dataclass(frozen=True, kw_only=True)
class PrecisionSearches:
    """The steps of the benchmark, each of which is kept in the state folder."""

    options: argparse.Namespace

    @property
    def state(self) -> Path:
        """The folder of all steps."""
        path: Path = self.options.state
        return path

    @cached_property
    def supernet(self) -> OpenSupernet:
        """The trained supernet."""
        run = self.state / "train"
        if not (run / SUPERNET).is_file():
            resume = (run / MANIFEST).is_file()
            training = TrainOptions(space=self.options.space, data=self.options.data, epochs=self.options.epochs)
            train_model(
                TrainOptions() if resume else training, out=run, resume=resume, trainer_config=TrainerConfig(threads=1)
            )
        return open_supernet(run, space=None, data=None)

    def fitted(self) -> tuple[Card, ...]:
        """Measure networks in all precisions and fit predictors; return the cards of the predictors of latency."""
        for precision in PRECISIONS:
            samples = self.options.int8_networks if precision == "int8" else self.options.networks
            campaign = CampaignOptions(
                space=self.options.space,
                device="cpu",
                runtime=RUNTIME,
                precision=precision,
                samples=samples,
                repeats=12 if precision == "int8" else 4,
                pairs=self.options.pairs,
                reference_networks=False,
                out=self.state / "profiles",
            )
            print(f"measured in {precision}: {measure(campaign).num_measured}", flush=True)
        report = fit_predictors(
            FitOptions(
                deployment=Deployment(device="cpu", runtime=RUNTIME),
                space=self.options.space,
                metrics=("latency_ms", "throughput"),
                profiles=self.state / "profiles",
                out=self.state / "predictors",
            )
        )
        return tuple(item.card for item in report.fitted if item.card.metric.name == "latency_ms")

    def front(self, search: str, seed: int) -> tuple[FoundNetwork, ...]:
        """Search, or read a search that has ended, and return part of its front."""
        run = self.state / f"{search}-{seed}"
        if not (run / RECORD_FILE).is_file():
            requested = SearchOptions(
                supernet=self.state / "train",
                device="cpu",
                runtimes=(RUNTIME,),
                precisions=PRECISIONS if search == "joint" else ("fp32",),
                objectives=("throughput",),
                macs=False,
                budget=self.options.budget,
                seed=seed,
                predictors=self.state / "predictors",
                runs=self.state,
                post_search=PostSearch(verify=False, export_top=0),
            )
            if (run / MANIFEST).is_file():
                search_networks(resume=run)
            else:
                search_networks(requested, out=run)
            print(f"searched: {run.name}", flush=True)
        front = load_search(run).front  # sorted by accuracy, and so by throughput
        rows = np.unique(np.linspace(0, len(front) - 1, min(self.options.front, len(front))).round().astype(int))
        return tuple(front[row] for row in rows)

    def throughputs(self, points: Mapping[Point, Candidate]) -> dict[Point, float]:
        """Measure networks in their precisions, with one plan for each precision."""
        found: dict[Point, float] = {}
        for precision in PRECISIONS:
            networks = {point: item for point, item in points.items() if point[1] == precision}
            deployment = Deployment(device=resolve("cpu"), runtime=RUNTIME, precision=precision, batch=1, threads=1)
            subjects = [space_subject(self.supernet.space, item) for item in networks.values()]
            plan = Plan(
                device=str(deployment.device),
                space=self.options.space,
                seed=0,
                pairs=self.options.pairs,
                origin=new_session(("benchmarks.precision_search",), environment()),
                tasks=make_tasks(unique_subjects(subjects), [Setting(deployment=deployment)], repeats=0, seed=0),
            )
            path = self.state / f"plan-{precision}.jsonl"
            save_plan(plan, path)
            measured = measure_plan(path, out=self.state / "fronts")
            results = results_by_network(load_profile(measured.profiles[0].path))
            for point, item in networks.items():
                value = results[item.network_id].value("throughput")
                if value is not None:
                    found[point] = value
            print(f"fronts measured in {precision}: {len(subjects)}", flush=True)
        return found

    def accuracies(self, points: Mapping[Point, Candidate]) -> dict[Point, float]:
        """Evaluate networks on the test images, in their precisions."""
        found: dict[Point, float] = {}
        for precision in PRECISIONS:
            networks = {point: item for point, item in points.items() if point[1] == precision}
            evaluator = self._evaluator(precision)
            values = evaluator.evaluate([item.arch for item in networks.values()])
            found |= {point: accuracy.top1 for point, accuracy in zip(networks, values, strict=True)}
        return found

    def _evaluator(self, precision: str) -> SupernetEvaluator:
        assert isinstance(self.supernet.data, DataSplits)
        return make_evaluator(
            self.supernet.supernet,
            self.supernet.data,
            checkpoint_id=self.supernet.digest,
            split="test",
            cache=self.state / "test-accuracies.jsonl",
            precision=evaluated_precision(precision),
        )


def points_of(front: Sequence[FoundNetwork], precisions: Sequence[str]) -> Iterator[tuple[Point, Candidate]]:
    """Yield each network of a front in the given precisions, or in its own."""
    for network in front:
        own = network.candidate.deployment
        for precision in precisions or (str(own.precision) if own is not None else "fp32",):
            yield (network.candidate.arch_id, precision), network.candidate


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One line of the table for one seed."""

    hypervolume: float
    best_accuracy: float
    best_throughput: float


def results_by_arm(searches: PrecisionSearches) -> dict[str, list[ArmResult]]:
    """Search with all seeds, measure all fronts, and return the results of each arm by seed."""
    seeds = range(searches.options.seeds)
    fronts = {(search, seed): searches.front(search, seed) for seed in seeds for search in ("joint", "fp32")}
    arms = {
        (arm, seed): dict(points_of(fronts[search, seed], precisions))
        for arm, (search, precisions) in ARMS.items()
        for seed in seeds
    }
    points = {point: item for members in arms.values() for point, item in members.items()}
    speeds, accuracies = searches.throughputs(points), searches.accuracies(points)
    values = np.array([[-accuracies[point], -speed] for point, speed in speeds.items()])
    bounds = HypervolumeBounds(ideal=tuple(values.min(axis=0)), reference=tuple(values.max(axis=0)))
    found: dict[str, list[ArmResult]] = {arm: [] for arm in ARMS}
    for (arm, _), members in arms.items():
        known = [point for point in members if point in speeds]
        reached = np.array([[-accuracies[point], -speeds[point]] for point in known])
        found[arm].append(
            ArmResult(
                hypervolume=hypervolume(reached, bounds),
                best_accuracy=max(accuracies[point] for point in known),
                best_throughput=max(speeds[point] for point in known),
            )
        )
    return found


def table(found: Mapping[str, Sequence[ArmResult]]) -> str:
    """Format mean and standard deviation over the seeds."""
    lines = ["| search | hypervolume | best accuracy, % | best throughput, images/s |", "| --- | ---: | ---: | ---: |"]
    for arm, results in found.items():
        shares = _spread([item.hypervolume for item in results], digits=4)
        accuracies = _spread([100 * item.best_accuracy for item in results], digits=1)
        speeds = _spread([item.best_throughput for item in results], digits=0)
        lines.append(f"| {arm} | {shares} | {accuracies} | {speeds} |")
    return "\n".join(lines)


def comparison(found: Mapping[str, Sequence[ArmResult]]) -> list[str]:
    """Compare the search with precision as a gene with each other arm, seed by seed."""
    first, *others = found
    lines = []
    for arm in others:
        pairs = zip(found[first], found[arm], strict=True)
        gains = [one.hypervolume - other.hypervolume for one, other in pairs]
        spread = stdev(gains) if len(gains) > 1 else 0.0
        ahead = "ahead by more than the spread" if mean(gains) > spread else "not ahead by more than the spread"
        wins = f"larger in {sum(gain > 0 for gain in gains)} of {len(gains)} seeds"
        lines.append(f"Against {arm}: hypervolume {mean(gains):+.4f} ± {spread:.4f}, {wins}: {ahead}.")
    return lines


def predictor_lines(cards: Sequence[Card]) -> list[str]:
    """State the error of each predictor of latency in noise floors, and the aim for int8."""
    lines = []
    for card in cards:
        floor = "" if card.error_over_floor is None else f", {card.error_over_floor:.2f} noise floors"
        precision = card.metric.deployment.precision
        aim = f" (aim: at most {AIM_FLOORS} at {AIM_NETWORKS} networks)" if precision == "int8" else ""
        networks = card.data.num_networks
        lines.append(f"Latency in {precision}, {networks} networks: error {card.scores.mape:.2%}{floor}{aim}.")
    return lines


def _spread(values: Sequence[float], *, digits: int) -> str:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):,.{digits}f} ± {deviation:,.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--space", default="autoformer-micro")
    parser.add_argument("--data", default="digits-clutter", help="images with a test split, or a folder of them")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--networks", type=int, default=40, help="measured in fp32 and in bf16")
    parser.add_argument("--int8-networks", type=int, default=AIM_NETWORKS, help="measured in int8")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--budget", type=int, default=60, help="evaluations of each search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--front", type=int, default=6, help="networks of each front that are measured")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    searches = PrecisionSearches(options=options)
    supernet = searches.supernet
    cards = searches.fitted()
    found = results_by_arm(searches)
    assert supernet.data.test is not None, "a data set without test images"
    notes = [
        f"{options.space} on {supernet.data.name}: {len(supernet.data.heldout):,} held-out images for the searches,",
        f"{len(supernet.data.test):,} test images for the table; {options.budget} evaluations a search,",
        f"at most {options.front} networks of each front measured in {RUNTIME} at batch 1;",
        f"mean and standard deviation of {options.seeds} seeds.",
    ]
    text = "\n".join([table(found), "", *comparison(found), "", *predictor_lines(cards)])
    print(text)
    if options.save:
        title = "Precision as a gene, and quantised afterwards"
        command = f"python -m benchmarks.precision_search {asked()}".strip()
        device, name = resolve("cpu"), "precision_search"
        print(save(text, name=name, device=device, title=title, command=command, notes="\n".join(notes)))


if __name__ == "__main__":
    main()
