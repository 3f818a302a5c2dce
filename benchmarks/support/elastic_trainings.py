"""The trainings behind the benchmark of elastic networks, and the networks that they are compared by."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.support.elastic_models import MODEL, MODEL_OF_LARGER_PATCH, SCRATCH_SPACE
from hwnas.config import load_json
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.runs import MODEL as MODEL_FILE
from hwnas.runs import SUPERNET
from hwnas.space.arch import Arch
from hwnas.space.elastic import ElasticArch, uniform_cut
from hwnas.space.space import AnySpace
from hwnas.supernet.elastic import ElasticSupernet, detailed_outputs
from hwnas.supernet.matmul import fast_matmul
from hwnas.supernet.network import Network
from hwnas.supernet.sorting import importance, sort_units
from hwnas.supernet.store import load_supernet
from hwnas.train.data.loader import Batch
from hwnas.train.data.sources import DataConfig, DataSplits, open_data
from hwnas.train.elastic import activation_scores, taylor_scores
from hwnas.train.evaluation import make_eval_loader, unaugmented_loader
from hwnas.train.evaluator import evaluate_module
from hwnas.train.losses import elastic_loss
from hwnas.train.optimizer import make_ema, make_optimizer, make_schedule
from hwnas.train.options import PretrainedModel, TrainOptions, resolve_config
from hwnas.train.pretrained import load_pretrained, supernet_of
from hwnas.train.recipe import Recipe
from hwnas.train.session import ORDER, make_model, make_train_loader
from hwnas.train.trainer import Trainer, TrainerConfig

STATE = "state.json"
CUTS = (0.15, 0.35, 0.55)
HALF = 0.5
SHARES_OF_MACS = (0.85, 0.75, 0.65, 0.5, 0.5, 0.5, 0.4, 0.35)
"""MACs of the networks that are also trained on their own, as shares of the model's."""
_SCORE_BATCHES = 8
_FROM_SCRATCH = {
    "optimizer.lr": "1e-3",
    "optimizer.weight_decay": "0.05",
    "augment.crop": "pad",
    "augment.flip": "0.5",
    "mix.smoothing": "0.1",
}
_ELASTIC = {
    "optimizer.lr": "5e-4",
    "optimizer.layer_decay": "1.0",
    "schedule.warmup_lr": "1e-6",
    "schedule.min_lr": "5e-6",
    "augment.crop": "pad",
    "augment.scale": "[1.0, 1.0]",
    "augment.rand_augment": "",
    "augment.flip": "0.5",
}


class Trainings:
    """Trainings and evaluations of the benchmark, each part done once.

    Args:
        options: Sizes of the benchmark.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.state)
        config = DataConfig(name=options.data, max_images=options.images, heldout=options.heldout)
        self.data: DataSplits = open_data(config, image_shape=self.shape, num_classes=10)
        names = (
            "image_size",
            "images",
            "heldout",
            "original_epochs",
            "elastic_epochs",
            "retrain_epochs",
            "evaluations",
        )
        settings = {"data": self.data.fingerprint, **{name: getattr(options, name) for name in names}}
        self.state: dict[str, Any] = {"settings": settings, "done": {}, "spent": {}}
        if (self.folder / STATE).exists():
            known: Any = load_json(self.folder / STATE)
            self.state = known
            if self.state["settings"] != settings:
                message = f"{self.folder} must be the state of the same benchmark"
                raise InputError(message, got="other settings", hint="another --state")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return 3, self.options.image_size, self.options.image_size

    @property
    def done(self) -> dict[str, Any]:
        """The results of finished parts."""
        finished: dict[str, Any] = self.state["done"]
        return finished

    def part(self, key: str, make: Callable[[], Any], *, until: float) -> bool:
        """Do a part that is not finished, and return True; False if there is no time to begin it."""
        if key in self.done:
            return True
        if time.monotonic() >= until:
            return False
        began = time.process_time()
        try:
            result = make()
        finally:  # a training that is stopped goes on in the next call, with its time counted
            self.state["spent"][key] = self.state["spent"].get(key, 0.0) + time.process_time() - began
            self._write()
        self.done[key] = result
        self._write()
        print(
            f"{time.strftime('%H:%M')} {key}: {self.spent(key):.0f} CPU s: {result}"[:300], file=sys.stderr, flush=True
        )
        return True

    def spent(self, key: str) -> float:
        """CPU seconds of a part."""
        return float(self.state["spent"].get(key, 0.0))

    def run_of(self, kind: str, seed: int) -> Path:
        """The folder of a training."""
        return self.folder / f"{kind}-{seed}"

    # Trainings of the tool itself.

    def original(self, seed: int) -> dict[str, Any]:
        """Train the original as `hwnas train --model` does."""
        options = self._options(seed, epochs=self.options.original_epochs, model=MODEL, image_size=self.shape[1])
        self._trained("original", seed, replace(options, recipe="micro", overrides=_FROM_SCRATCH))
        model = load_pretrained(MODEL, image_size=self.shape[1], checkpoint=self._original(seed))
        return {"test": self.tested(model), "heldout": self._heldout_accuracy(model)}

    def elastic(self, seed: int) -> dict[str, Any]:
        """Train its networks as `hwnas train --elastic` does."""
        options = self._options(
            seed,
            epochs=self.options.elastic_epochs,
            elastic=PretrainedModel(name=str(self.run_of("original", seed).absolute())),
            overrides=_ELASTIC,
        )
        self._trained("elastic", seed, options)
        order: Any = load_json(self.run_of("elastic", seed) / ORDER)
        return {"score": order["score"], "divergences": order["divergences"]}

    def scratch(self, seed: int) -> dict[str, Any]:
        """Train the supernet of the space of AutoFormer for as long as the original and its networks together."""
        options = replace(
            self._options(seed, epochs=2, space=SCRATCH_SPACE, image_size=self.shape[1]),
            recipe="micro",
            overrides=_FROM_SCRATCH,
        )
        epochs = self.state.setdefault("scratch epochs", {})
        if str(seed) not in epochs:
            seconds = self.spent(f"original {seed}") + self.spent(f"elastic {seed}")
            epochs[str(seed)] = max(2, round(seconds / self._epoch_seconds(options)))
            self._write()
        self._trained("scratch", seed, replace(options, epochs=epochs[str(seed)]))
        return {"epochs": epochs[str(seed)]}

    def _options(self, seed: int, *, epochs: int, **what: Any) -> TrainOptions:
        options = self.options
        return TrainOptions(
            data=str(Path(options.data).absolute()),
            seed=seed,
            epochs=epochs,
            batch_size=128,
            max_images=options.images,
            heldout=options.heldout,
            **what,
        )

    def _trained(self, kind: str, seed: int, options: TrainOptions) -> None:
        from hwnas.pipeline.train import train_model

        run = self.run_of(kind, seed)
        resume = run.exists()
        config = TrainerConfig(threads=1, checkpoint_minutes=2)
        train_model(TrainOptions() if resume else options, out=run, resume=resume, trainer_config=config)

    def _epoch_seconds(self, options: TrainOptions) -> float:
        config = resolve_config(options, num_classes=10)
        loader = make_train_loader(self.data, config.recipe, image_shape=self.shape, seed=0)
        model, data = make_model(config).model, self.data.fingerprint
        trainer = Trainer(Path(), model, loader, config.recipe, seed=0, data=data, config=TrainerConfig(threads=1))
        trainer.time_steps(5)  # blocks of new sizes are slow when they are first seen
        began = time.process_time()
        trainer.time_steps(39)
        return (time.process_time() - began) / 40 * trainer.steps_per_epoch

    # Networks of their own, with the loss of the elastic training.

    def resized(self, seed: int, *, image_size: int, patch: str) -> dict[str, Any]:
        """Fine-tune the original at another resolution or patch size."""
        network = self._pretrained(seed, image_size=image_size, patch=patch)
        before = self.tested(_Resized(network, image_size))
        self._distil(network, seed, epochs=self.options.elastic_epochs, image_size=image_size)
        torch.save(network.state_dict(), self._weights(f"resized-{patch}-{image_size}", seed))
        return {"before": before, "test": self.tested(_Resized(network, image_size))}

    def pruned(self, seed: int) -> dict[str, Any]:
        """Cut the original to half of its MACs, every block alike by Taylor scores, and fine-tune it."""
        supernet = self.sorted(seed, "taylor")
        arch = uniform_cut(supernet.space, HALF)
        network = supernet.subnet(arch)
        before = self.tested(network)
        self._distil(network, seed, epochs=self.options.elastic_epochs)
        torch.save(network.state_dict(), self._weights("pruned", seed))
        macs = _relative_macs(supernet.space, [arch])[0]
        return {"before": before, "test": self.tested(network), "macs": macs, "arch": arch.to_mapping()}

    def retrained(self, seed: int, index: int) -> dict[str, Any]:
        """Train one network of the elastic supernet further on its own."""
        supernet = self.supernet("elastic", seed)
        arch = self._archs_to_retrain(supernet.space)[index]
        network = supernet.subnet(arch)
        inherited = self.tested(network)
        self._distil(network, seed, epochs=self.options.retrain_epochs)
        macs = _relative_macs(supernet.space, [arch])[0]
        return {"inherited": inherited, "retrained": self.tested(network), "macs": macs}

    def orders(self, seed: int) -> dict[str, Any]:
        """Evaluate cuts of the original that is not trained further, in each order."""
        found: dict[str, Any] = {}
        for score in ("activation", "taylor", "l1", "random"):
            supernet = self.sorted(seed, score)
            archs = [uniform_cut(supernet.space, cut) for cut in CUTS]
            found[score] = [self.tested(supernet.subnet(arch)) for arch in archs]
            found["macs"] = _relative_macs(supernet.space, archs)
        return found

    def sorted(self, seed: int, score: str) -> ElasticSupernet:
        """The supernet of the original, its units in the order of a score."""
        supernet = self._original_supernet(seed)
        network = supernet.subnet(supernet.space.largest()).eval()
        images = [batch.images for batch in islice(unaugmented_loader(self.data, self.shape).epoch(0), _SCORE_BATCHES)]
        with fast_matmul():
            if score == "activation":
                scores = activation_scores(supernet, network, images)
            elif score == "taylor":
                scores = taylor_scores(supernet, network, images)
            else:
                weights = dict(supernet.shared.named_parameters())
                scores = [importance(weights, group) for group in supernet.sortable()]
        if score == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = [torch.rand(len(values), generator=generator) for values in scores]
        sort_units(supernet.shared, supernet.sortable(), scores=scores)
        return supernet

    def supernet(self, kind: str, seed: int) -> Any:
        """A trained supernet."""
        return load_supernet(self.run_of(kind, seed) / SUPERNET).eval()

    def modules(self, seed: int) -> dict[str, tuple[nn.Module, int]]:
        """The original and the networks of their own, with their image sizes."""
        full = self.shape[1]
        found: dict[str, tuple[nn.Module, int]] = {"original": (self._pretrained(seed, image_size=full), full)}
        for name, image_size, patch in self.resizings():
            network = self._pretrained(seed, image_size=image_size, patch=patch)
            network.load_state_dict(torch.load(self._weights(f"resized-{patch}-{image_size}", seed), weights_only=True))
            found[name] = (network.eval(), image_size)
        supernet = self.sorted(seed, "taylor")
        network = supernet.subnet(uniform_cut(supernet.space, HALF))
        network.load_state_dict(torch.load(self._weights("pruned", seed), weights_only=True))
        found["one size, Taylor"] = (network.eval(), full)
        return found

    def resizings(self) -> tuple[tuple[str, int, str], ...]:
        """Names, image sizes and models of lower resolutions and of the larger patch."""
        full = self.shape[1]
        lower = [size for size in range(4, full, 4) if full / 2 < size <= 0.9 * full]
        return (
            *((f"{size} px", size, MODEL) for size in lower),
            ("patch 6", full, MODEL_OF_LARGER_PATCH),
        )

    def _distil(self, network: Network, seed: int, *, epochs: int, image_size: int | None = None) -> None:
        """Train a network on the outputs of the original, in place."""
        recipe = self._recipe(epochs)
        teacher = self._pretrained(seed, image_size=self.shape[1]).eval().requires_grad_(requires_grad=False)
        loader = make_train_loader(self.data, recipe, image_shape=self.shape, seed=seed)
        optimizer = make_optimizer(network, recipe.optimizer, batch_size=recipe.batch_size)
        schedule = make_schedule(optimizer, recipe, steps_per_epoch=len(loader))
        ema = make_ema(network, recipe.ema)
        assert ema is not None
        network.train()
        with fast_matmul():
            for step, batch in enumerate(batch for epoch in range(epochs) for batch in loader.epoch(epoch)):
                schedule.step_update(step)
                with torch.no_grad():
                    target = detailed_outputs(teacher, batch.images)
                images = batch.images if image_size is None else _interpolated(batch.images, image_size)
                found = detailed_outputs(network, images)
                loss = elastic_loss(found, target, batch.labels, recipe.strategy, recipe.teacher)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                ema.update(network, step=step + 1)
        network.load_state_dict(ema.module.state_dict())
        network.eval()

    def _recipe(self, epochs: int) -> Recipe:
        from hwnas.train.presets import resolve_recipe

        recipe = resolve_recipe(
            space=None, one_network=False, name="elastic", overrides=_ELASTIC, epochs=epochs, batch_size=128
        )
        return recipe

    def _original(self, seed: int) -> Path:
        return self.run_of("original", seed) / MODEL_FILE

    def _original_supernet(self, seed: int, *, image_size: int | None = None, patch: str = MODEL) -> ElasticSupernet:
        size = image_size or self.shape[1]
        model = load_pretrained(patch, image_size=size, checkpoint=self._original(seed))
        return supernet_of(model.eval(), name=patch.removeprefix("timm:")).eval()

    def _pretrained(self, seed: int, *, image_size: int, patch: str = MODEL) -> Network:
        """The original as a network of hwnas, whose features can be read."""
        supernet = self._original_supernet(seed, image_size=image_size, patch=patch)
        return supernet.subnet(supernet.space.largest())

    def _weights(self, name: str, seed: int) -> Path:
        return self.folder / f"{name.replace(':', '-')}-{seed}.pt"

    def _archs_to_retrain(self, space: Any) -> list[ElasticArch]:
        """Random networks with the wanted shares of the MACs."""
        rows = space.sample(np.random.default_rng(5), 4000)
        macs = space.costs(rows).macs / space.costs(space.encode([space.largest()])).macs[0]
        taken: list[int] = []
        for share in SHARES_OF_MACS:
            order = np.argsort(np.abs(macs - share))
            taken.append(next(int(row) for row in order if row not in taken))
        archs: list[ElasticArch] = list(space.decode(rows[taken]))
        return archs

    # Accuracy.

    def tested(self, module: nn.Module) -> float:
        """Accuracy on the test images."""
        with fast_matmul():
            return evaluate_module(module, self._test_batches).top1

    def _heldout_accuracy(self, module: nn.Module) -> float:
        with fast_matmul():
            return evaluate_module(module, make_eval_loader(self.data, self.shape, split="heldout")).top1

    @cached_property
    def _test_batches(self) -> list[Batch]:
        return list(make_eval_loader(self.data, self.shape, split="test"))

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / STATE, json.dumps(self.state, indent=1) + "\n")


class _Resized(nn.Module):
    """A network that takes images of another size."""

    def __init__(self, network: nn.Module, image_size: int) -> None:
        super().__init__()
        self.network, self.image_size = network, image_size

    def forward(self, images: Tensor) -> Any:
        return self.network(_interpolated(images, self.image_size))


def _interpolated(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _relative_macs(space: AnySpace, archs: Sequence[Arch]) -> list[float]:
    macs = space.costs(space.encode([space.largest(), *archs])).macs
    return [round(float(value), 4) for value in macs[1:] / macs[0]]
