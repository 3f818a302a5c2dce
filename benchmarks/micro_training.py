"""Supernets of the micro spaces, each trained for about a minute on one core: what their networks can do afterwards.

    python -m benchmarks.micro_training [--spaces autoformer-micro,resnas-micro] [--seeds 3] [--epochs N] [--save]
    python -m benchmarks.micro_training --set optimizer.lr=1e-3 --set batch_size=64
    python -m benchmarks.micro_training --spaces autoformer-micro --precisions fp32,bf16 --save

A training is a fixed number of epochs of the space's own recipe on `digits-clutter`, on one thread, so that its result
does not depend on how busy the machine is; seconds are those of the process on a core. Then the smallest, the largest
and `--networks` random networks (every gene uniform) are judged on the held-out pictures with inherited weights, batch
norms recalibrated. The linear classifier is a logistic regression on the pixels of the same training pictures, with
the best of three strengths of regularisation on the held-out ones.

Each finished training is written to `--state`, and another call with the same settings reads it there.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.support.saving import asked, save
from hwnas.config import from_mapping, load_json, to_mapping
from hwnas.devices import detect
from hwnas.files import write_atomic
from hwnas.space import SPACES
from hwnas.supernet.matmul import fast_matmul, matmul_backend
from hwnas.train.data.images import ArrayDataset
from hwnas.train.data.sources import DataConfig, DataSplits, open_data
from hwnas.train.evaluation import make_evaluator
from hwnas.train.models import build_supernet
from hwnas.train.presets import RECIPES, default_recipe
from hwnas.train.recipe import Recipe, with_overrides
from hwnas.train.session import make_train_loader, run_training
from hwnas.train.trainer import Trainer, TrainerConfig

EPOCHS = {"autoformer-micro": 18, "resnas-micro": 7, "vitas-micro": 24, "vitas-twins-micro": 15, "glit-micro": 8}
"""What takes about a minute."""

STRENGTHS = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One training of one space."""

    epochs: int
    cpu_s: float
    images_per_s: float
    smallest: float
    largest: float
    accuracies: tuple[float, ...]
    """Of the random networks."""
    macs: tuple[int, ...]

    @property
    def spread(self) -> float:
        """From the worst to the best random network."""
        return float(np.ptp(self.accuracies))

    @property
    def central_spread(self) -> float:
        """The same without the 5 % at either end."""
        low, high = np.quantile(self.accuracies, (0.05, 0.95))
        return float(high - low)

    @property
    def correlation(self) -> float:
        """Spearman's, of accuracy with MACs."""
        from scipy.stats import spearmanr  # type: ignore[import-untyped]

        return float(spearmanr(self.accuracies, self.macs).statistic)


def resolve_recipe(name: str, precision: str | None, options: argparse.Namespace) -> Recipe:
    """The recipe of a space with the epochs that take a minute, and what the command line changes."""
    recipe = RECIPES.get(default_recipe(SPACES.get(name)))
    changes = dict(change.split("=", 1) for change in options.set)
    if precision is not None:
        changes["precision"] = precision
    return replace(with_overrides(recipe, changes), epochs=options.epochs or EPOCHS[name])


def linear_accuracy(data: DataSplits) -> float:
    """Of logistic regression on the pixels."""
    from sklearn.linear_model import LogisticRegression

    train, heldout = (_pixels(images) for images in (data.train, data.heldout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not have converged to the last digit
        fitted = [LogisticRegression(C=strength, max_iter=60).fit(train, data.train.labels) for strength in STRENGTHS]
    return max(float(model.score(heldout, data.heldout.labels)) for model in fitted)


def _pixels(images: Any) -> NDArray[np.float32]:
    assert isinstance(images, ArrayDataset)
    flat = images.array.reshape(len(images), -1)
    return (flat / 255 - 0.5).astype(np.float32)


def measure(name: str, data: DataSplits, recipe: Recipe, *, seed: int, networks: int) -> Finding:
    """Train the supernet of a space and judge its networks."""
    space = SPACES.get(name)
    supernet = build_supernet(space, recipe, seed=seed)
    batches = make_train_loader(data, recipe, image_shape=space.config.input_shape, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainerConfig(threads=1)
        trainer = Trainer(Path(folder), supernet, batches, recipe, seed=seed, data=data.fingerprint, config=settings)
        began = time.process_time()
        run_training(trainer)
        cpu_s = time.process_time() - began
    genomes = space.sample(np.random.default_rng(seed), networks)
    archs = [space.smallest(), space.largest(), *space.decode(genomes)]
    with fast_matmul():
        found = make_evaluator(supernet.eval(), data, checkpoint_id="last").evaluate(archs)
    smallest, largest, *rest = [accuracy.top1 for accuracy in found]
    return Finding(
        epochs=recipe.epochs,
        cpu_s=cpu_s,
        images_per_s=trainer.steps * recipe.batch_size / cpu_s,
        smallest=smallest,
        largest=largest,
        accuracies=tuple(rest),
        macs=tuple(space.costs(genomes).macs.tolist()),
    )


def remembered(path: Path, settings: Mapping[str, Any], make: Callable[[], Finding]) -> Finding:
    """What a file knows of a training with these settings, else what comes of it now."""
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        known: Any = load_json(path)
        if known["settings"] == wanted:
            return from_mapping(Finding, known["finding"])
    finding = make()
    write_atomic(path, json.dumps({"settings": wanted, "finding": asdict(finding)}) + "\n")
    return finding


def row(name: str, linear: Sequence[float], findings: Sequence[Finding]) -> str:
    """What came out for a space, over the seeds: means, and the range where it matters."""
    cells = [
        name,
        str(findings[0].epochs),
        f"{mean(finding.cpu_s for finding in findings):.0f}",
        f"{mean(finding.images_per_s for finding in findings):,.0f}",
        _ranged([100 * value for value in linear]),
        _ranged([100 * finding.smallest for finding in findings]),
        _ranged([100 * finding.largest for finding in findings]),
        _ranged([100 * mean(finding.accuracies) for finding in findings]),
        _ranged([100 * finding.spread for finding in findings]),
        _ranged([100 * finding.central_spread for finding in findings]),
        _ranged([finding.correlation for finding in findings], digits=2),
    ]
    return f"| {' | '.join(cells)} |"


def _ranged(values: Sequence[float], *, digits: int = 1) -> str:
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} – {max(values):.{digits}f})" if len(values) > 1 else middle


HEADER = (
    "| space | epochs | CPU s | images a CPU s | linear % | smallest % | largest % | random %, mean | spread, points "
    "| 5 – 95 %, points | Spearman with MACs |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(EPOCHS), help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a space, with seeds from 0 on")
    parser.add_argument("--epochs", type=int, help="instead of what takes about a minute")
    parser.add_argument("--networks", type=int, default=30, help="random networks that are judged")
    parser.add_argument("--precisions", help="precisions of training, separated by commas; else that of the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the recipe")
    parser.add_argument("--state", default="runs/micro_training", help="folder in which finished trainings are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Path(options.state).mkdir(parents=True, exist_ok=True)
    pictures = [_opened(seed) for seed in range(options.seeds)]
    linear = [linear_accuracy(data) for data in pictures]
    precisions = options.precisions.split(",") if options.precisions else [None]
    rows = [
        row(" ".join(filter(None, (name, precision))), linear, findings(name, precision, pictures, options))
        for name in options.spaces.split(",")
        for precision in precisions
    ]
    print(text := "\n".join([HEADER, "|" + " --- |" * (HEADER.count("|") - 1), *rows]))
    if options.save:
        print(f"saved {report(text, options, pictures[0])}")


def findings(
    name: str, precision: str | None, pictures: Sequence[DataSplits], options: argparse.Namespace
) -> list[Finding]:
    """What comes of a space, seed by seed."""
    recipe, found = resolve_recipe(name, precision, options), []
    for seed, data in enumerate(pictures):
        settings = {
            "space": to_mapping(SPACES.get(name).config),
            "data": data.fingerprint,
            "recipe": to_mapping(recipe),
            "networks": options.networks,
        }
        path = Path(options.state) / f"{name}-{precision or 'recipe'}-{seed}.json"
        make = partial(measure, name, data, recipe, seed=seed, networks=options.networks)
        found.append(remembered(path, settings, make))
        print(f"{name} seed {seed}: {found[-1]}", file=sys.stderr)
    return found


def _opened(seed: int) -> DataSplits:
    return open_data(DataConfig(name="digits-clutter", seed=seed), image_shape=(3, 32, 32))


def report(text: str, options: argparse.Namespace, data: DataSplits) -> Path:
    """Keep the table."""
    judged = f"{options.networks} networks on {len(data.heldout):,} held-out pictures"
    ranges = f"mean over {options.seeds} seeds, lowest and highest in brackets"
    return save(
        text,
        name="micro_training" if options.precisions is None else "micro_training-precisions",
        device=detect().cpu.slug,
        title="Supernets of the micro spaces after about a minute on one core",
        command=f"python -m benchmarks.micro_training {asked()}",
        notes=f"Epochs of {len(data.train):,} pictures; {judged}; {ranges}; matmul backend: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
