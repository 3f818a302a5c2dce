"""The trainings and searches of the benchmark of detectors, each done once and kept by its name."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.elastic_fronts import fitted_latency, latencies
from benchmarks.support.parts import Parts
from hwnas.metrics import METRICS
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.search.ledger import Budget
from hwnas.search.objective import Metrics, exact, make_objectives, parse_constraint
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies.nsga2 import Nsga2Search
from hwnas.space import SPACES
from hwnas.space.lookup import adapted
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.matmul import fast_matmul
from hwnas.train.data.sources import DataConfig
from hwnas.train.models import build_network, build_supernet
from hwnas.train.presets import MICRO, single_network_recipe, with_epochs
from hwnas.train.session import make_detection_loader
from hwnas.train.tasks import (
    evaluate_task,
    evaluation_batches,
    make_task_evaluator,
    normalized,
    open_task_data,
    outputs_of,
)
from hwnas.train.trainer import Trainer, TrainerConfig

RANKED = 8
"""Random networks whose inherited mAP is compared with that of their own training."""
LEVELS = 9
"""Shares at which networks are scaled by hand, from the smallest to the largest; some give the same network."""
STEP_NETWORKS, STEP_REPEATS = 6, 5
SETTINGS = ("space", "image_size", "images", "heldout", "epochs", "batch", "evaluations")


class DetectionTrainings(Parts):
    """All parts of the benchmark, with the results of those that are finished."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        config = DataConfig(name="digits-scene", heldout=options.heldout, max_images=options.images)
        self.data = open_task_data(config, "detection", image_size=options.image_size)
        self.test = self.data.test or ()
        self.space: AnySpace = adapted(
            SPACES.get(options.space), image_size=options.image_size, num_classes=self.data.num_classes
        )
        settings = {"data": self.data.fingerprint, **{name: getattr(options, name) for name in SETTINGS}}
        super().__init__(options.state, settings)

    def supernet(self, seed: int) -> dict[str, Any]:
        """Train a supernet, evaluate random networks with inherited weights, and search it."""
        recipe = self._recipe()
        supernet = build_supernet(self.space, recipe, seed=seed)
        self._train(supernet, recipe, seed=seed)
        evaluator = make_task_evaluator(supernet, self.data)
        known: dict[bytes, float] = {}

        def quality(genomes: Genomes) -> list[float]:
            new = [genome for genome in genomes if bytes(genome) not in known]
            found = evaluator.evaluate(list(self.space.decode(np.array(new)))) if new else []
            known.update(zip(map(bytes, new), found, strict=True))
            return [known[bytes(genome)] for genome in genomes]

        with fast_matmul():
            ranked = quality(self._ranked_genomes())
            return {"ranked": ranked, **self._searched(supernet, quality, seed=seed)}

    def _searched(self, supernet: Any, quality: Callable[[Genomes], list[float]], *, seed: int) -> dict[str, Any]:
        """Search for the best network that is as fast as one scaled by hand, both measured in turn."""
        size, space = self.options.image_size, self.space
        model = fitted_latency(supernet, seed=seed)
        by_hand = self.scaled_by_hand()
        middle = float(np.median(model(space.sample(np.random.default_rng(seed), 500))))
        modules = {str(level): (self._subnet(supernet, genome), size) for level, genome in enumerate(by_hand)}
        measured = latencies(modules, seed=seed)
        level = min(range(len(by_hand)), key=lambda level: abs(measured[str(level)] - middle))
        found = self._within(model, quality, limit=measured[str(level)], seed=seed)
        order = sorted(found, key=lambda row: -row[1])[:8]
        compared = {"hand": modules[str(level)]}
        compared |= {str(index): (self._subnet(supernet, genome), size) for index, (genome, _) in enumerate(order)}
        times = latencies(compared, seed=seed)
        allowed = [index for index in range(len(order)) if times[str(index)] <= times["hand"]]
        chosen = allowed[0] if allowed else min(range(len(order)), key=lambda index: times[str(index)])
        return {
            "hand": [int(gene) for gene in by_hand[level]],
            "hand_ms": times["hand"],
            "hand_inherited": quality(by_hand[level][None])[0],
            "searched": [int(gene) for gene in order[chosen][0]],
            "searched_ms": times[str(chosen)],
            "searched_inherited": order[chosen][1],
            "latency_error": model.error,
        }

    def _within(
        self,
        model: Callable[[Genomes], Any],
        quality: Callable[[Genomes], list[float]],
        *,
        limit: float,
        seed: int,
    ) -> list[tuple[Any, float]]:
        """Return the networks that a search found within a time, with their mAP."""
        quantity = METRICS.get("latency_ms")
        limits = (parse_constraint(f"time_ms<={limit}", own={"time_ms": quantity}),)
        problem = Problem(space=self.space, objectives=make_objectives([], macs=True), constraints=limits)

        def cheap(genomes: Genomes) -> Metrics:
            return {**CheapMetrics(space=self.space)(genomes), "time_ms": exact(model(genomes))}

        def expensive(genomes: Genomes) -> Iterator[tuple[int, float]]:
            yield from enumerate(quality(genomes))

        candidates = run_search(
            problem,
            Evaluators(cheap=cheap, expensive=expensive),
            strategy=Nsga2Search(),
            budget=Budget(evaluations=self.options.evaluations),
            seed=seed,
        ).candidates
        feasible = candidates.scores.feasible
        rows = zip(candidates.genomes[feasible], -candidates.scores.objectives[feasible, 0], strict=True)
        return [(genome, float(value)) for genome, value in rows]

    def scaled_by_hand(self) -> Genomes:
        """Return networks whose every size is at the same share of its range."""
        choices = np.array([len(dimension.choices) for dimension in self.space.dimensions])
        shares = np.linspace(0, 1, LEVELS)[:, None]
        genomes = self.space.repair(np.round(shares * (choices - 1)).astype(np.int16))
        return np.unique(genomes, axis=0)

    def alone(self, seed: int, kind: str) -> dict[str, Any]:
        """Train the network that was found in a supernet, or the one scaled by hand beside it."""
        return self._alone(self.done[f"supernet {seed}"][kind], seed=seed)

    def ranked(self, index: int) -> dict[str, Any]:
        """Train one of the networks that the first supernet was evaluated with."""
        return self._alone(self._ranked_genomes()[index], seed=0)

    def step_cost(self) -> dict[str, Any]:
        """Time a step of the supernet and of the same network on its own, in turn."""
        supernet = build_supernet(self.space, self._recipe(), seed=0)
        batch = next(iter(make_detection_loader(self.data, self._recipe(), seed=0).epoch(0)))
        images = normalized(batch.images)
        genomes = self.space.sample(np.random.default_rng(0), STEP_NETWORKS)
        seconds: dict[str, list[float]] = {"supernet": [], "alone": []}
        outputs = outputs_of(supernet)
        assert outputs is not None
        for arch in self.space.decode(genomes):
            alone = supernet.subnet(arch).train()
            sides: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
                "supernet": (supernet, (arch,)),
                "alone": (alone, ()),
            }
            optimizers = {name: torch.optim.AdamW(module.parameters()) for name, (module, _) in sides.items()}
            times: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(STEP_REPEATS + 1):  # the first one allocates
                for name, (module, arguments) in sides.items():
                    began = time.process_time()
                    outputs.loss(module(images, *arguments), batch.targets).backward()  # type: ignore[no-untyped-call]
                    optimizers[name].step()
                    optimizers[name].zero_grad(set_to_none=True)
                    times[name].append(time.process_time() - began)
            for name, values in times.items():
                seconds[name].append(median(values[1:]))
        ratios = [one / other for one, other in zip(seconds["supernet"], seconds["alone"], strict=True)]
        return {
            "supernet_s": median(seconds["supernet"]),
            "alone_s": median(seconds["alone"]),
            "ratio": median(ratios),
            "ratios": ratios,
        }

    def _recipe(self) -> Any:
        recipe = with_epochs(MICRO, self.options.epochs)
        # The learning rate of the recipe is that of its own batch size.
        rate = recipe.optimizer.lr * (self.options.batch / recipe.batch_size) ** 0.5
        return replace(recipe, batch_size=self.options.batch, optimizer=replace(recipe.optimizer, lr=rate))

    def _ranked_genomes(self) -> Genomes:
        rng = np.random.default_rng(1)
        return rng.permutation(np.unique(self.space.sample(rng, 8 * RANKED), axis=0))[:RANKED]

    def _subnet(self, supernet: Any, genome: Any) -> nn.Module:
        module: nn.Module = supernet.subnet(self.space.decode(genome[None])[0]).eval()
        return module

    def _alone(self, genome: Any, *, seed: int) -> dict[str, Any]:
        recipe = single_network_recipe(self._recipe())
        arch = self.space.decode(np.array([genome], dtype=np.int16))[0]
        network = build_network(self.space, arch, recipe, seed=seed)
        self._train(network, recipe, seed=seed)
        outputs = outputs_of(network)
        assert outputs is not None
        with fast_matmul():
            return {
                split: evaluate_task(network, outputs, evaluation_batches(self.data, split=split))
                for split in ("heldout", "test")
            }

    def _train(self, model: nn.Module, recipe: Any, *, seed: int) -> None:
        loader = make_detection_loader(self.data, recipe, seed=seed)
        config = TrainerConfig(threads=1, compile="never")
        with tempfile.TemporaryDirectory() as folder:
            data = self.data.fingerprint
            Trainer(Path(folder), model, loader, recipe, seed=seed, data=data, config=config).run()
        model.eval()
