"""What the sharing strategies of the systems bring, each against its plain alternative, at a small scale.

    python -m benchmarks.sharing --data digits-clutter [--pairs vitas] [--budget 25] [--seeds 2] [--state DIR] [--save]
    python -m benchmarks.sharing --data DIR --pairs autoformer,resnas,vitas,glit,locality --device cuda --save

A pair has two sides that train a micro space with the same recipe for the same number of epochs:

- autoformer: the sandwich rule with in-place distillation against one network a step. (AutoFormer has no supernet
  here whose choices do not share weights: shared against separate blocks is what the pair `glit` compares.)
- resnas: two networks a step, each on half of the pictures, against one.
- vitas: channels on a ring against prefixes.
- glit: slices of one set of weights a block against weights of its own for all that a block can be.
- locality: the space of GLiT against its networks of attention alone.

Of each side: the held-out accuracy of random networks with inherited weights, and Kendall's correlation of inherited
with standalone accuracy, over networks that are trained on their own with the same recipe and as many epochs. The
number of epochs follows from `--budget` and a few steps that are timed; on a CPU its minutes are those of one core.

Each finished training is written to `--state`, and another call goes on after the last one, whatever ended the first.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.saving import save
from hwnas.config import load_json, to_mapping
from hwnas.devices import detect
from hwnas.errors import InputError
from hwnas.pipeline.training.judging import eval_batches, make_judge
from hwnas.registry import Registry
from hwnas.runs import write_atomic
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.glit import GROUPS, Glit
from hwnas.space.space import Genomes, Space
from hwnas.supernet.families import make_supernet
from hwnas.supernet.products import VARIABLE, fast_products, products
from hwnas.supernet.supernet import Supernet
from hwnas.train.accuracy import judge_module
from hwnas.train.data.config import DataConfig
from hwnas.train.data.sources import Data, open_data
from hwnas.train.distributed import World
from hwnas.train.loop import Loop, LoopConfig
from hwnas.train.models import fresh_network, initialise, supernet_config
from hwnas.train.presets import MICRO, for_network
from hwnas.train.recipe import Recipe, StrategyConfig
from hwnas.train.seeds import torch_seed
from hwnas.train.session import open_batches

STATE = "state.json"
TRAINING_SHARE = 0.8
"""Of the budget; the rest is for judging."""


class AttentionAlone(Glit):
    """GLiT's space, of which only networks without the locality module are drawn."""

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes, all channels in attention."""
        rows = super().sample(rng, count)
        drawn = rng.integers(0, self._counts, size=rows.shape, dtype=np.int16)
        drawn[:, self.columns("groups")] = GROUPS
        return self.repair(drawn)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A space, how its networks are trained together, how they share weights."""

    name: str
    space: Space[Any, Any]
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    sharing: Mapping[str, Any] = field(default_factory=dict)


_GLIT = SPACES.get("glit-micro")
_AUTOFORMER, _RESNAS, _VITAS = (SPACES.get(f"{family}-micro") for family in ("autoformer", "resnas", "vitas"))
PAIRS: Registry[tuple[Side, Side]] = Registry(
    "pair",
    [
        (
            "autoformer",
            (
                Side(name="sandwich", space=_AUTOFORMER, strategy=StrategyConfig(name="sandwich", networks=1)),
                Side(name="one network a step", space=_AUTOFORMER),
            ),
        ),
        (
            "resnas",
            (
                Side(name="two networks a step", space=_RESNAS, strategy=StrategyConfig(name="several", networks=2)),
                Side(name="one network a step", space=_RESNAS),
            ),
        ),
        (
            "vitas",
            (
                Side(name="ring", space=_VITAS, sharing={"sharing": "cyclic"}),
                Side(name="prefix", space=_VITAS, sharing={"sharing": "prefix"}),
            ),
        ),
        (
            "glit",
            (
                Side(name="slices", space=_GLIT, sharing={"share": "slices"}),
                Side(name="weights of their own", space=_GLIT, sharing={"share": "none"}),
            ),
        ),
        (
            "locality",
            (
                Side(name="with locality", space=_GLIT),
                Side(name="attention alone", space=AttentionAlone(name="glit-micro-attention", config=_GLIT.config)),
            ),
        ),
    ],
)


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
        config = DataConfig(name=options.data, limit=options.limit, heldout=options.heldout)
        self.data: Data = open_data(config, image_shape=_VITAS.config.input_shape, num_classes=10)
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

    def genomes(self, space: Space[Any, Any]) -> tuple[Genomes, Genomes]:
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
        loop = self._loop(job, self._model(job, epochs=2), Path(), epochs=2)
        warm, steps = (3, 4) if job.genome is not None else (10, 20)
        loop.rehearse(warm)  # blocks of new sizes are slow when they are first seen
        began = clock(self.device)
        loop.rehearse(steps)
        return (clock(self.device) - began) / steps * loop.steps_per_epoch

    def _model(self, job: Job, *, epochs: int) -> nn.Module:
        recipe, space = self.recipe(job.side, epochs=epochs), job.side.space
        if job.genome is not None:
            return fresh_network(space, self._archs(space)[job.genome], for_network(recipe), seed=job.seed)
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(job.seed, "weights"))
            supernet = make_supernet(space, replace(supernet_config(space, recipe), **job.side.sharing))
            initialise(supernet, recipe.initialisation)
        return supernet

    def _archs(self, space: Space[Any, Any]) -> Sequence[Arch]:
        return space.decode(self.genomes(space)[0])

    def _loop(self, job: Job, model: nn.Module, folder: Path, *, epochs: int) -> Loop:
        recipe = self.recipe(job.side, epochs=epochs)
        if job.genome is not None:
            recipe = for_network(recipe)
        batches = open_batches(self.data, recipe, image_shape=job.side.space.config.input_shape, seed=job.seed)
        return Loop(
            folder,
            model,
            batches,
            recipe,
            seed=job.seed,
            data=self.data.fingerprint,
            world=World(device=self.device),
            config=LoopConfig(threads=1, progress=False, compile="never"),
        )

    def _trained(self, job: Job) -> nn.Module:
        model = self._model(job, epochs=self.state["epochs"])
        with tempfile.TemporaryDirectory() as folder:
            self._loop(job, model, Path(folder), epochs=self.state["epochs"]).run()
        return model.eval()

    def _network(self, job: Job) -> dict[str, Any]:
        model = self._trained(job)
        batches = eval_batches(self.data, job.side.space.config.input_shape, split="heldout")
        with fast_products():
            return {"accuracy": judge_module(model, batches, device=self.device).top1}

    def _supernet(self, job: Job) -> dict[str, Any]:
        model = self._trained(job)
        assert isinstance(model, Supernet)
        own, random = self.genomes(job.side.space)
        with fast_products():
            judge = make_judge(model, self.data, checkpoint_id=job.key, device=self.device)
            found = judge.judge(job.side.space.decode(np.concatenate([own, random])))
        accuracies = [accuracy.top1 for accuracy in found]
        return {"own": accuracies[: len(own)], "random": accuracies[len(own) :]}


def clock(device: torch.device) -> float:
    """Seconds: on a CPU those of this process."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def rows(bench: Bench) -> list[str]:
    """The table's, one for each side; ranges are over the seeds."""
    return [_row(bench, pair, side) for pair, both in bench.pairs.items() for side in both]


def _row(bench: Bench, pair: str, side: Side) -> str:
    done = bench.state["done"]
    count = bench.options.standalone
    alone = [done[f"{side.space.name} network {index}"]["accuracy"] for index in range(count)]
    runs = [done[f"{pair}, {side.name}, seed {seed}"] for seed in range(bench.options.seeds)]
    cells = [
        pair,
        side.name,
        _ranged([100 * mean(run["random"]) for run in runs], digits=1),
        _ranged([100 * max(run["random"]) for run in runs], digits=1),
        f"{100 * mean(alone):.1f}",
        _ranged([_kendall(run["own"], alone) for run in runs], digits=2),
        f"{mean(run['seconds'] for run in runs):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _kendall(inherited: Sequence[float], alone: Sequence[float]) -> float:
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    return float(kendalltau(inherited, alone).statistic)


def _ranged(values: Sequence[float], *, digits: int) -> str:
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} – {max(values):.{digits}f})" if len(values) > 1 else middle


HEADER = (
    "| pair | side | random networks, mean % | best of them % | standalone, mean % "
    "| Kendall, inherited with standalone | s a supernet |"
)


def _kind(job: Job) -> str:
    """Trainings of one kind take about as long; networks of their own differ."""
    return job.key.rpartition(", seed")[0] if job.genome is None else job.key


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    names = ("data", "pairs", "limit", "heldout", "seeds", "networks", "standalone", "epochs", "device")
    return {name: getattr(options, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits-clutter", help="digits-clutter, or a folder of 10 classes")
    parser.add_argument("--pairs", default="vitas", help=f"of {', '.join(PAIRS)}; separated by commas")
    parser.add_argument("--budget", type=float, default=25, help="minutes")
    parser.add_argument("--epochs", type=int, help="instead of as many as the budget has room for")
    parser.add_argument("--limit", type=int, default=10_000, help="training pictures")
    parser.add_argument("--heldout", type=int, default=2_500, help="pictures to judge with")
    parser.add_argument("--seeds", type=int, default=2, help="supernets of each side")
    parser.add_argument("--networks", type=int, default=30, help="random networks that are judged")
    parser.add_argument("--standalone", type=int, default=12, help="networks that are trained on their own")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--state", default="runs/sharing", help="folder in which finished trainings are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault(VARIABLE, products())  # tried once, not at the start of each training
    Path(options.state).mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    bench.run()
    print(text := "\n".join([HEADER, "|" + " --- |" * (HEADER.count("|") - 1), *rows(bench)]))
    if options.save:
        print(f"saved {report(text, bench)}")


def report(text: str, bench: Bench) -> Path:
    """Keep the table."""
    machine, options = detect(), bench.options
    clocked = "CPU seconds of one thread" if options.device == "cpu" else "Seconds"
    spent = sum(result["seconds"] for result in bench.state["done"].values()) / 60
    pictures = f"{len(bench.data.train):,} training and {len(bench.data.heldout):,} held-out pictures"
    trainings = f"{options.seeds} seeds, {options.networks} random and {options.standalone} standalone networks"
    return save(
        text,
        name=f"sharing-{options.pairs.replace(',', '-')}",
        device=machine.cpu.slug if options.device == "cpu" else machine.devices[0].name,
        title=f"Sharing strategies against their plain alternatives: {Path(options.data).name}",
        command=f"python -m benchmarks.sharing {' '.join(_arguments())}",
        notes=f"{pictures}, {bench.state['epochs']} epochs, {trainings}.\n"
        f"{clocked}, {spent:.1f} minutes in all; products run on: {products()}.",
    )


def _arguments() -> list[str]:
    """Of the command line, paths by their last part: where a machine keeps its files says nothing."""
    return [Path(part).name if "/" in part else part for part in sys.argv[1:]]


if __name__ == "__main__":
    main()
