"""A training from its images to its files: what the command `train` does, given a model, images and a recipe."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.runs import write_atomic
from hwnas.supernet.store import load_supernet
from hwnas.supernet.supernet import AnySupernet, Supernet
from hwnas.train.data.images import BadImageLog
from hwnas.train.data.loader import TrainLoader
from hwnas.train.data.sources import DataSplits
from hwnas.train.distributed import World
from hwnas.train.models import (
    adapt_supernet,
    build_network,
    build_supernet,
    build_timm_model,
    inherit_network,
)
from hwnas.train.options import TrainConfig, supernet_file
from hwnas.train.recipe import Recipe
from hwnas.train.teacher import load_teacher
from hwnas.train.trainer import Trainer, TrainerResult
from hwnas.train.weights import SpaceOrigin, TimmOrigin, WeightsOrigin, save_weights

_log = logging.getLogger(__name__)

RESULT = "result.json"
_BAD_SHOWN = 20

EvaluateSupernet = Callable[[AnySupernet], Mapping[str, float]]
"""The accuracies of a trained supernet's smallest and largest network by name, or whatever else is to be kept."""


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """Result of a training."""

    weights: Path
    """The file."""
    average: bool
    """True if the weights are the moving average instead of those of the last step."""
    outcome: TrainerResult
    accuracies: Mapping[str, float]
    """Accuracies of the evaluation."""
    bad_images: Sequence[str] = ()
    """Those that this process could not read and left out, since the training was begun or resumed."""


def make_train_loader(
    data: DataSplits,
    recipe: Recipe,
    *,
    image_shape: tuple[int, int, int],
    seed: int,
    workers: int = 0,
    world: World | None = None,
    bad: BadImageLog | None = None,
) -> TrainLoader:
    """The training images in batches of the size that one process takes at once; unreadable ones go to `bad`."""
    world = world or World()
    size = recipe.microbatch_size(world.size)
    batches = TrainLoader(
        data.train,
        augment=recipe.augment,
        image_shape=image_shape,
        batch_size=size,
        seed=seed,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
        bad=bad,
    )
    if batches.batch_size != size:
        message = f"there must be at least {size * world.size} training images, a whole batch"
        raise InputError(message, got=len(data.train), hint=f"--batch {batches.batch_size // 2 * 2 * world.size}")
    return batches


def run_training(
    trainer: Trainer,
    *,
    origin: WeightsOrigin | None = None,
    evaluate: EvaluateSupernet | None = None,
    resume: bool = False,
) -> SessionResult:
    """Run a training to its end, write the weights and the result, and judge a supernet.

    Where the recipe has a moving average, the model is left with it, and it is what is written and judged. All is
    written before the judge is asked, and the result once more with what it said.
    """
    outcome = trainer.run(resume=resume)
    averaged = trainer.use_ema_weights()
    values = _values(trainer, outcome, averaged=averaged)
    path = trainer.folder
    if trainer.world.is_main_process:
        path = save_weights(trainer.model, trainer.folder, origin)
        _log.info("trained %d steps in %.1f s, weights in %s", outcome.steps, outcome.seconds, path)
        _write_result(trainer.folder, values)
    accuracies: Mapping[str, float] = {}
    if evaluate is not None and isinstance(trainer.model, Supernet):
        trainer.model.eval()
        accuracies = evaluate(trainer.model)
        if trainer.world.is_main_process:
            _write_result(trainer.folder, {**values, "accuracies": dict(accuracies)})
    trainer.world.barrier()
    bad = tuple(_bad(trainer).reasons)
    return SessionResult(weights=path, average=averaged, outcome=outcome, accuracies=accuracies, bad_images=bad)


def _values(trainer: Trainer, outcome: TrainerResult, *, averaged: bool) -> dict[str, Any]:
    """Contents of the result file; a training that had finished before keeps its own."""
    count = round(trainer.world.mean([len(_bad(trainer))])[0] * trainer.world.size)
    file = trainer.folder / RESULT
    if outcome.loss is None and file.exists():
        before = parse_json(file.read_text(encoding="utf-8"), source=str(file))
        if isinstance(before, dict):
            return before
    kind: Literal["average", "plain"] = "average" if averaged else "plain"
    bad = {"bad_images": count, "first_bad_images": list(_bad(trainer).reasons)[:_BAD_SHOWN]}
    return {**asdict(outcome), "weights": kind, "accuracies": {}, **bad}


def _bad(trainer: Trainer) -> BadImageLog:
    bad = getattr(trainer.batches, "bad", None)
    return bad if isinstance(bad, BadImageLog) else BadImageLog()


def _write_result(run: Path, values: Mapping[str, Any]) -> None:
    write_atomic(run / RESULT, json.dumps(values, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class InitialModel:
    """A model as it is before the first step."""

    model: nn.Module
    notes: tuple[str, ...] = ()
    """Weights that could not be used."""


def make_model(config: TrainConfig) -> InitialModel:
    """The model of a training, with fresh weights or those of a supernet."""
    if config.supernet is not None:
        return _continued(config)
    if config.model is not None:
        return InitialModel(_of_timm(config, config.model))
    if config.arch is None:
        return InitialModel(build_supernet(config.get_space(), config.recipe, seed=config.seed))
    return InitialModel(build_network(config.get_space(), config.get_arch(), config.recipe, seed=config.seed))


def make_teacher(config: TrainConfig) -> nn.Module | None:
    """The network whose answers join the labels."""
    if config.teacher is None:
        return None
    return load_teacher(
        config.teacher.name,
        image_size=config.image_size,
        num_classes=config.num_classes,
        pretrained=config.teacher.pretrained,
        checkpoint=config.teacher.checkpoint,
    )


def weights_origin(config: TrainConfig) -> WeightsOrigin | None:
    """Origin of a single network."""
    if config.model is not None:
        return TimmOrigin(name=config.model, image_size=config.image_size, num_classes=config.num_classes)
    if config.arch is not None:
        return SpaceOrigin(space=config.get_space(), arch=config.get_arch())
    return None


def _of_timm(config: TrainConfig, name: str) -> nn.Module:
    return build_timm_model(
        name, config.recipe, image_size=config.image_size, num_classes=config.num_classes, seed=config.seed
    )


def _continued(config: TrainConfig) -> InitialModel:
    """A supernet, or a network of it, with given weights, at the images and classes of this training."""
    assert config.supernet is not None
    held = load_supernet(supernet_file(config.supernet))
    supernet, fresh = adapt_supernet(held, config.get_space(), config.recipe, seed=config.seed)
    notes = (f"drawn anew, for {config.num_classes} classes: {', '.join(fresh)}",) if fresh else ()
    if config.arch is None:
        return InitialModel(supernet, notes)
    return InitialModel(inherit_network(supernet, config.get_arch(), config.recipe), notes)
