"""The trainings behind a comparison of sharing strategies: what is left of them, and what is known of those done."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.sharing_pairs import PAIRS, Side
from hwnas.config import load_json, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.families import make_supernet
from hwnas.supernet.matmul import fast_matmul
from hwnas.supernet.supernet import Supernet
from hwnas.train.data.sources import DataConfig, DataSplits, open_data
from hwnas.train.distributed import World
from hwnas.train.evaluation import make_eval_loader, make_evaluator
from hwnas.train.evaluator import evaluate_module
from hwnas.train.models import build_network, initialize_weights, supernet_config
from hwnas.train.presets import MICRO, single_network_recipe
from hwnas.train.recipe import Recipe
from hwnas.train.seeds import torch_seed
from hwnas.train.session import make_train_loader
from hwnas.train.trainer import Trainer, TrainerConfig

STATE = "state.json"
TRAINING_SHARE = 0.8
"""Of the budget; the rest is for judging."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: of a side's supernet, or of a network of its own."""

    key: str
    side: Side
    seed: int
    genome: int | None = None
    """Which of the standalone networks; None: the supernet."""


class Bench:
    """All trainings of some pairs, and what is known of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.pairs = {name: PAIRS.get(name) for name in options.pairs.split(",")}
        config = DataConfig(name=options.data, max_images=options.limit, heldout=options.heldout)
        self.data: DataSplits = open_data(config, image_shape=(3, 32, 32), num_classes=10)
        self.jobs = list(self._jobs())
        self.state = self._opened()

    def recipe(self, side: Side, *, epochs: int) -> Recipe:
        """The recipe `micro` with the strategy of a side; photographs are moved and mirrored."""
        augment = MICRO.augment
        if self.options.data != "digits-clutter":
            augment = replace(augment, crop="pad", flip=0.5)
        schedule = replace(MICRO.schedule, warmup_epochs=min(MICRO.schedule.warmup_epochs, epochs - 1))
        return replace(MICRO, epochs=epochs, augment=augment, schedule=schedule, strategy=side.strategy)

    def run(self) -> None:
        """Do what is left."""
        for number, job in enumerate(self.jobs, start=1):
            if job.key in self.state["done"]:
                continue
            began = clock(self.device)
            result = self._network(job) if job.genome is not None else self._supernet(job)
            result["seconds"] = clock(self.device) - began
            self.state["done"][job.key] = result
            self._write()
            print(f"{number} of {len(self.jobs)}: {job.key}: {result['seconds']:.0f} s", file=sys.stderr)

    def genomes(self, space: AnySpace) -> tuple[Genomes, Genomes]:
        """The networks of a space that are judged: those that are also trained on their own, and random ones."""
        rng = np.random.default_rng(0)
        distinct = np.unique(space.sample(rng, 8 * self.options.standalone), axis=0)
        own = rng.permutation(distinct)[: self.options.standalone]
        return own, space.sample(rng, self.options.networks)

    def _opened(self) -> dict[str, Any]:
        """The state of an earlier call, which must have asked for the same; else a new one."""
        path = Path(self.options.state) / STATE
        settings = {"data": self.data.fingerprint, "recipe": to_mapping(MICRO), **_asked(self.options)}
        settings = json.loads(json.dumps(settings))
        if path.exists():
            state: Any = load_json(path)
            if state["settings"] != settings:
                message = f"{path} must be the state of the same benchmark"
                raise InputError(message, got="other settings", hint="another --state")
            return dict(state)
        self.state = {"settings": settings, "epochs": self.options.epochs or self._affordable(), "done": {}}
        self._write()
        return self.state

    def _write(self) -> None:
        write_atomic(Path(self.options.state) / STATE, json.dumps(self.state, indent=1) + "\n")

    def _jobs(self) -> Iterator[Job]:
        """The supernets of the first seed, the networks of their own, then the other seeds."""
        sides = [(pair, side) for pair, both in self.pairs.items() for side in both]
        for seed in range(self.options.seeds):
            for pair, side in sides:
                yield Job(key=f"{pair}, {side.name}, seed {seed}", side=side, seed=seed)
            if seed == 0:
                spaces = {side.space.name: side for _, side in sides}
                for index in range(self.options.standalone):
                    for name, side in spaces.items():
                        yield Job(key=f"{name} network {index}", side=side, seed=0, genome=index)

    def _affordable(self) -> int:
        """The epochs that fit the budget, from a few steps of each kind of training."""
        seconds: dict[str, float] = {}
        for job in self.jobs:
            kind = _kind(job)
            seconds[kind] = seconds[kind] if kind in seconds else self._epoch_seconds(job)
        an_epoch_of_all = sum(seconds[_kind(job)] for job in self.jobs)
        epochs = int(60 * self.options.budget * TRAINING_SHARE / an_epoch_of_all)
        print(f"an epoch of all trainings takes {an_epoch_of_all:.0f} s: {epochs} epochs", file=sys.stderr)
        if not epochs:
            message = f"the budget must have room for an epoch of each of {len(self.jobs)} trainings"
            hint = f"--budget {an_epoch_of_all / 60 / TRAINING_SHARE:.0f}, or fewer pairs, seeds or networks"
            raise InputError(message, got=f"{self.options.budget} minutes", hint=hint)
        return epochs

    def _epoch_seconds(self, job: Job) -> float:
        trainer = self._trainer(job, self._model(job, epochs=2), Path(), epochs=2)
        warm, steps = (3, 4) if job.genome is not None else (10, 20)
        trainer.time_steps(warm)  # blocks of new sizes are slow when they are first seen
        began = clock(self.device)
        trainer.time_steps(steps)
        return (clock(self.device) - began) / steps * trainer.steps_per_epoch

    def _model(self, job: Job, *, epochs: int) -> nn.Module:
        recipe, space = self.recipe(job.side, epochs=epochs), job.side.space
        if job.genome is not None:
            return build_network(space, self._archs(space)[job.genome], single_network_recipe(recipe), seed=job.seed)
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(job.seed, "weights"))
            supernet = make_supernet(space, replace(supernet_config(space, recipe), **job.side.sharing))
            initialize_weights(supernet, recipe.initialization)
        return supernet

    def _archs(self, space: AnySpace) -> Sequence[Arch]:
        return space.decode(self.genomes(space)[0])

    def _trainer(self, job: Job, model: nn.Module, folder: Path, *, epochs: int) -> Trainer:
        recipe = self.recipe(job.side, epochs=epochs)
        if job.genome is not None:
            recipe = single_network_recipe(recipe)
        batches = make_train_loader(self.data, recipe, image_shape=job.side.space.config.input_shape, seed=job.seed)
        return Trainer(
            folder,
            model,
            batches,
            recipe,
            seed=job.seed,
            data=self.data.fingerprint,
            world=World(device=self.device),
            config=TrainerConfig(threads=1, compile="never"),
        )

    def _trained(self, job: Job) -> nn.Module:
        model = self._model(job, epochs=self.state["epochs"])
        with tempfile.TemporaryDirectory() as folder:
            self._trainer(job, model, Path(folder), epochs=self.state["epochs"]).run()
        return model.eval()

    def _network(self, job: Job) -> dict[str, Any]:
        model = self._trained(job)
        batches = make_eval_loader(self.data, job.side.space.config.input_shape, split="heldout")
        with fast_matmul():
            return {"accuracy": evaluate_module(model, batches, device=self.device).top1}

    def _supernet(self, job: Job) -> dict[str, Any]:
        model = self._trained(job)
        assert isinstance(model, Supernet)
        own, random = self.genomes(job.side.space)
        with fast_matmul():
            evaluator = make_evaluator(model, self.data, checkpoint_id=job.key, device=self.device)
            found = evaluator.evaluate(job.side.space.decode(np.concatenate([own, random])))
        accuracies = [accuracy.top1 for accuracy in found]
        return {"own": accuracies[: len(own)], "random": accuracies[len(own) :]}


def clock(device: torch.device) -> float:
    """Seconds: on a CPU those of this process."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _kind(job: Job) -> str:
    """Trainings of one kind take about as long; networks of their own differ."""
    return job.key.rpartition(", seed")[0] if job.genome is None else job.key


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    names = ("data", "pairs", "limit", "heldout", "seeds", "networks", "standalone", "epochs", "device")
    return {name: getattr(options, name) for name in names}
