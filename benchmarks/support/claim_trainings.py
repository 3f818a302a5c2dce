"""The trainings and searches behind the claims of the papers, each done once and kept by its name."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.claim_models import hand_made
from benchmarks.support.claim_variants import SEARCHED, VARIANTS, Variant, fresh
from benchmarks.support.elastic_fronts import fitted_latency, latencies
from benchmarks.support.parts import Parts
from hwnas.metrics import METRICS, Quantity
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.search.ledger import Budget
from hwnas.search.objective import Metrics, exact, make_objectives, parse_constraint
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies.nsga2 import Nsga2Search
from hwnas.search.strategies.published import GlitEvolution
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.matmul import fast_matmul
from hwnas.supernet.supernet import AnySupernet
from hwnas.supernet.transfer import carry_over
from hwnas.train.data.sources import DataConfig, DataSplits, open_data
from hwnas.train.evaluation import make_eval_loader, make_evaluator
from hwnas.train.evaluator import evaluate_module
from hwnas.train.models import build_timm_model
from hwnas.train.presets import with_epochs
from hwnas.train.recipe import Recipe, TeacherConfig
from hwnas.train.session import make_train_loader
from hwnas.train.trainer import Trainer, TrainerConfig

RANDOM_NETWORKS, OWN_NETWORKS = 30, 10
"""Networks of each supernet that are evaluated, and those that are also trained on their own."""
TEACHER = "timm:test_byobnet"
_LEVEL_SEEDS = 3
_SHAPE = (3, 32, 32)
_CLASSES = 10


class Trainings(Parts):
    """All parts of the benchmark, with the results of those that are finished."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data = self._opened(options.data, images=options.images)
        settings = {"data": self.data.fingerprint, "transfer": options.transfer and Path(options.transfer).name}
        settings |= {name: getattr(options, name) for name in ("images", "heldout", "epochs", "evaluations")}
        super().__init__(options.state, settings)

    # Supernets.

    def supernet(self, name: str, seed: int) -> dict[str, Any]:
        """Train a supernet, evaluate networks with inherited weights, and search it."""
        variant = VARIANTS.get(name)
        epochs = self._epochs(variant, seed)
        began = time.process_time()
        supernet = self._trained(variant, epochs, seed=seed)
        trained = time.process_time() - began
        accuracies = self._inherited(supernet, f"{name} {seed}")
        own, random = self._genomes(variant.space)
        with fast_matmul():
            result: dict[str, Any] = {
                "epochs": epochs,
                "trained_s": round(trained, 1),
                "own": accuracies(own),
                "random": accuracies(random),
            }
            if name in SEARCHED:
                result["searched"] = self._searched_by_latency(supernet, accuracies, seed=seed)
            if name.startswith("glit"):
                result["within_macs"] = self._searched_by_macs(variant.space, accuracies, seed=seed)
        return result

    def levels(self, seed: int) -> dict[str, Any]:
        """Train GLiT's supernet of a seed, and return the best accuracy of a search on two levels and on one."""
        variant = VARIANTS.get("glit")
        supernet = self._trained(variant, self.options.epochs, seed=seed)
        accuracies = self._inherited(supernet, f"glit {seed}")
        strategies = {"two": GlitEvolution(windows=1), "one": _OneLevel(windows=1)}
        with fast_matmul():
            return {
                name: [
                    max(accuracy for _, accuracy in self._search(variant.space, accuracies, strategy, None, seed=seed))
                    for seed in range(_LEVEL_SEEDS)
                ]
                for name, strategy in strategies.items()
            }

    def _trained(self, variant: Variant, epochs: int, *, seed: int) -> AnySupernet:
        supernet = variant.supernet(seed=seed)
        self._train(supernet, variant.recipe(epochs), self.data, seed=seed)
        return supernet

    def _inherited(self, supernet: AnySupernet, name: str) -> Callable[[Genomes], list[float]]:
        """Return a function that evaluates networks with inherited weights on the held-out images, each once."""
        evaluator = make_evaluator(supernet, self.data, checkpoint_id=name)
        known: dict[bytes, float] = {}

        def accuracies(genomes: Genomes) -> list[float]:
            new = [genome for genome in genomes if bytes(genome) not in known]
            found = evaluator.evaluate(supernet.space.decode(np.array(new))) if new else []
            known.update(zip(map(bytes, new), [accuracy.top1 for accuracy in found], strict=True))
            return [known[bytes(genome)] for genome in genomes]

        return accuracies

    def _epochs(self, variant: Variant, seed: int) -> int:
        """Return the epochs of a supernet: for as much CPU time as another one, if the variant says so."""
        if variant.as_long_as is None:
            return int(self.options.epochs)
        other = self.done[f"supernet {variant.as_long_as} {seed}"]["trained_s"]
        supernet, recipe = variant.supernet(seed=seed), variant.recipe(2)
        trainer = self._trainer(supernet, recipe, self.data, seed=seed, folder=Path())
        trainer.time_steps(10)  # blocks of new sizes are slow when they are first seen
        began = time.process_time()
        trainer.time_steps(39)
        an_epoch = (time.process_time() - began) / 40 * trainer.steps_per_epoch
        return int(max(2, round(other / an_epoch)))

    def _genomes(self, space: AnySpace) -> tuple[Genomes, Genomes]:
        """Return the networks that are also trained on their own, and random ones."""
        rng = np.random.default_rng(0)
        distinct = np.unique(space.sample(rng, 8 * OWN_NETWORKS), axis=0)
        return rng.permutation(distinct)[:OWN_NETWORKS], space.sample(rng, RANDOM_NETWORKS)

    # Searches.

    def _searched_by_latency(
        self, supernet: AnySupernet, accuracies: Callable[[Genomes], list[float]], *, seed: int
    ) -> dict[str, Any]:
        """Search for the best network that is as fast as one scaled by hand, both measured in turn."""
        space, by_hand = supernet.space, hand_made(num_classes=_CLASSES)
        model = fitted_latency(supernet, seed=seed)
        middle = float(np.median(model(space.sample(np.random.default_rng(seed), 500))))
        measured = latencies({str(heads): (network.eval(), 32) for heads, network in by_hand.items()}, seed=seed)
        heads = min(by_hand, key=lambda heads: abs(measured[str(heads)] - middle))
        limit = measured[str(heads)]

        def cheap(genomes: Genomes) -> Metrics:
            return {**CheapMetrics(space=space)(genomes), "time_ms": exact(model(genomes))}

        quantity = METRICS.get("latency_ms")
        found = self._search(
            space, accuracies, Nsga2Search(), f"time_ms<={limit}", seed=seed, cheap=cheap, own={"time_ms": quantity}
        )
        order = sorted(found, key=lambda row: -row[1])[:8]
        modules: dict[str, tuple[nn.Module, int]] = {"hand": (by_hand[heads].eval(), 32)}
        modules |= {
            str(index): (supernet.subnet(space.decode(genome[None])[0]).eval(), 32)
            for index, (genome, _) in enumerate(order)
        }
        times = latencies(modules, seed=seed)
        index = next((index for index in range(len(order)) if times[str(index)] <= times["hand"]), None)
        chosen = min(range(len(order)), key=lambda index: times[str(index)]) if index is None else index
        return {
            "heads": heads,
            "hand_ms": times["hand"],
            "ms": times[str(chosen)],
            "latency_error": model.error,
            "heldout": order[chosen][1],
            "genome": [int(gene) for gene in order[chosen][0]],
        }

    def _searched_by_macs(
        self, space: AnySpace, accuracies: Callable[[Genomes], list[float]], *, seed: int
    ) -> dict[str, Any]:
        """Search for the best network of at most the median MACs of networks of attention alone."""
        attention = VARIANTS.get("glit, attention alone").space
        macs = attention.costs(attention.sample(np.random.default_rng(0), 500)).macs
        found = self._search(space, accuracies, Nsga2Search(), f"macs<={int(np.median(macs))}", seed=seed)
        genome, accuracy = max(found, key=lambda row: row[1])
        return {"genome": [int(gene) for gene in genome], "heldout": accuracy}

    def _search(
        self,
        space: AnySpace,
        accuracies: Callable[[Genomes], list[float]],
        strategy: SearchStrategy,
        constraint: str | None,
        *,
        seed: int,
        cheap: Callable[[Genomes], Metrics] | None = None,
        own: Mapping[str, Quantity] | None = None,
    ) -> list[tuple[Any, float]]:
        """Return the networks that a search found within a constraint, with their accuracies."""
        limits = (parse_constraint(constraint, own=own or {}),) if constraint else ()
        problem = Problem(space=space, objectives=make_objectives([], macs=constraint is not None), constraints=limits)

        def expensive(genomes: Genomes) -> Iterator[tuple[int, float]]:
            yield from enumerate(accuracies(genomes))

        evaluators = Evaluators(cheap=cheap or CheapMetrics(space=space), expensive=expensive)
        budget = Budget(evaluations=self.options.evaluations)
        candidates = run_search(problem, evaluators, strategy=strategy, budget=budget, seed=seed).candidates
        feasible = candidates.scores.feasible
        rows = zip(candidates.genomes[feasible], -candidates.scores.objectives[feasible, 0], strict=True)
        return [(genome, float(accuracy)) for genome, accuracy in rows]

    # Networks on their own.

    def own(self, name: str, index: int) -> dict[str, Any]:
        """Train one of the networks that supernets were evaluated with."""
        variant = VARIANTS.get(name)
        return self._alone(variant, self._genomes(variant.space)[0][index], seed=0)

    def largest(self, name: str, seed: int) -> dict[str, Any]:
        """Train the largest network of a space."""
        variant = VARIANTS.get(name)
        return self._alone(variant, variant.space.encode([variant.space.largest()])[0], seed=seed)

    def found(self, name: str, seed: int, *, kind: str) -> dict[str, Any]:
        """Train the network that a search found."""
        return self._alone(VARIANTS.get(name), self.done[f"supernet {name} {seed}"][kind]["genome"], seed=seed)

    def by_hand(self, name: str, seed: int) -> dict[str, Any]:
        """Train the network scaled by hand that is as fast as the one found in a supernet."""
        variant = VARIANTS.get(name)
        heads = self.done[f"supernet {name} {seed}"]["searched"]["heads"]
        network = fresh(hand_made(num_classes=_CLASSES)[heads], seed=seed)
        return self._trained_alone(network, variant.network_recipe(self.options.epochs), seed=seed)

    def _alone(self, variant: Variant, genome: Any, *, seed: int) -> dict[str, Any]:
        arch: Arch = variant.space.decode(np.array([genome], dtype=np.int16))[0]
        return self._trained_alone(
            variant.network(arch, seed=seed), variant.network_recipe(self.options.epochs), seed=seed
        )

    def _trained_alone(
        self, network: nn.Module, recipe: Recipe, *, seed: int, teacher: nn.Module | None = None
    ) -> dict[str, Any]:
        self._train(network, recipe, self.data, seed=seed, teacher=teacher)
        return {"heldout": self._accuracy(network, "heldout"), "test": self._accuracy(network, "test")}

    # Distillation and transfer.

    def distilled(self, seed: int) -> dict[str, Any]:
        """Train AutoFormer's largest network with the labels of a convolutional teacher, which is trained first."""
        variant = VARIANTS.get("autoformer")
        recipe = variant.network_recipe(self.options.epochs)
        teacher = build_timm_model(TEACHER, recipe, image_size=_SHAPE[1], num_classes=_CLASSES, seed=seed)
        self._train(teacher, with_epochs(recipe, 2 * self.options.epochs), self.data, seed=seed)
        teacher = teacher.eval().requires_grad_(requires_grad=False)
        network = variant.network(variant.space.largest(), seed=seed)
        hard = replace(recipe, teacher=TeacherConfig(labels="hard", smoothing=0.0, weight=0.5))
        found = self._trained_alone(network, hard, seed=seed, teacher=teacher)
        return {**found, "teacher": self._accuracy(teacher, "test")}

    def transferred(self, seed: int) -> dict[str, Any]:
        """Train AutoFormer's largest network on the other images first."""
        data = self._opened(self.options.transfer, images=2 * self.options.images, num_classes=None)
        variant = VARIANTS.get("autoformer")
        config = replace(variant.space.config, num_classes=len(data.classes))
        other = replace(variant, space=type(variant.space)(name="autoformer-micro-transfer", config=config))
        first = other.network(other.space.largest(), seed=seed)
        recipe = variant.network_recipe(self.options.epochs)
        self._train(first, recipe, data, seed=seed)
        network = variant.network(variant.space.largest(), seed=seed)
        with torch.no_grad():
            carry_over(first.state_dict(), network)
        return self._trained_alone(network, recipe, seed=seed)

    # What all trainings have in common.

    def _opened(self, name: str, *, images: int, num_classes: int | None = _CLASSES) -> DataSplits:
        config = DataConfig(name=str(name), max_images=images, heldout=self.options.heldout)
        return open_data(config, image_shape=_SHAPE, num_classes=num_classes)

    def _trainer(
        self,
        model: nn.Module,
        recipe: Recipe,
        data: DataSplits,
        *,
        seed: int,
        folder: Path,
        teacher: nn.Module | None = None,
    ) -> Trainer:
        loader = make_train_loader(data, recipe, image_shape=_SHAPE, seed=seed)
        config = TrainerConfig(threads=1, compile="never")
        return Trainer(folder, model, loader, recipe, seed=seed, data=data.fingerprint, teacher=teacher, config=config)

    def _train(
        self, model: nn.Module, recipe: Recipe, data: DataSplits, *, seed: int, teacher: nn.Module | None = None
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._trainer(model, recipe, data, seed=seed, folder=Path(folder), teacher=teacher).run()
        model.eval()

    def _accuracy(self, module: nn.Module, split: str) -> float:
        batches = self._test if split == "test" else self._heldout
        with fast_matmul():
            return evaluate_module(module, batches).top1

    @cached_property
    def _test(self) -> list[Any]:
        return list(make_eval_loader(self.data, _SHAPE, split="test"))

    @cached_property
    def _heldout(self) -> list[Any]:
        return list(make_eval_loader(self.data, _SHAPE, split="heldout"))


class _OneLevel(GlitEvolution):
    """GLiT's evolution with distribution and details searched at once."""

    def begin(self, *arguments: Any, **settings: Any) -> Any:
        """Search one window on one level."""
        return super(GlitEvolution, self).begin(*arguments, **settings)
