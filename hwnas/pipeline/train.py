"""`hwnas train`: a supernet of a space, one network of it, or a model of timm for comparison."""

import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hwnas.config import to_mapping
from hwnas.errors import InputError, UsageError
from hwnas.metrics import indistinct_supernet_warning
from hwnas.progress import NullReporter, Reporter
from hwnas.runs import MANIFEST, Run
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.images import HELDOUT_LIST, BadImageLog, require_same_images, write_image_list
from hwnas.train.data.sources import DataSplits, open_data
from hwnas.train.distributed import World, distributed_world
from hwnas.train.evaluation import make_evaluator
from hwnas.train.machine import Interrupted
from hwnas.train.memory import estimate_memory, explain_out_of_memory, memory_warning
from hwnas.train.options import (
    TrainConfig,
    TrainOptions,
    default_run_folder,
    image_shape,
    read_train_config,
    require_unchanged_weights,
    resolve_data_config,
    resolved,
    validate_options,
)
from hwnas.train.recipe import diff_tables
from hwnas.train.session import InitialModel, make_model, make_teacher, make_train_loader, run_training, weights_origin
from hwnas.train.trainer import Trainer, TrainerConfig


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Result of a training."""

    run: Path
    weights: Path
    steps: int
    loss: float | None
    """Of the last step; None: nothing was left to do."""
    seconds: float
    images_per_s: float
    accuracies: Mapping[str, float]
    """Held-out accuracies of a supernet's smallest and largest network."""
    bad_images: tuple[str, ...]
    """The first of those that could not be read."""
    notes: tuple[str, ...]
    is_main_process: bool = True
    """True in the process that writes files."""


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Estimate of a training from a few timed steps."""

    config: TrainConfig
    params: int
    train_images: int
    heldout_images: int
    test_images: int
    steps_per_epoch: int
    seconds_per_step: float
    memory_mb: float
    """The most that this process, or the GPU, has held."""
    notes: tuple[str, ...]

    @property
    def seconds_per_epoch(self) -> float:
        """Seconds per epoch."""
        return self.seconds_per_step * self.steps_per_epoch


def train_model(
    options: TrainOptions,
    *,
    out: Path | None = None,
    resume: bool = False,
    workers: int = 0,
    trainer_config: TrainerConfig | None = None,
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Train, and leave a run folder; with `resume` go on from its last checkpoint, to the same end."""
    if resume and out is None:
        raise UsageError("the run that is resumed must be named", hint="--out RUN --resume")
    folder = out or default_run_folder(options)
    reporter = reporter or NullReporter()
    if not resume:
        _require_new(folder)
    with distributed_world() as world:
        config, data = _resumed(options, folder) if resume else _begun(options)
        start = make_model(config)
        prepared = _make_trainer(
            config,
            data,
            start.model,
            folder=folder,
            world=world,
            workers=workers,
            trainer_config=trainer_config,
            reporter=reporter,
        )
        notes = _notes(config, data, start, world)
        if world.is_main_process:  # from here on nothing is wrong with what was asked for
            _settle(folder, config, data, resume=resume)
            for note in notes:
                reporter.message(f"note: {note}")
        world.barrier()
        with explain_out_of_memory(config, world), _telling_how_to_go_on(folder):
            trained = run_training(
                prepared,
                origin=weights_origin(config),
                evaluate=lambda supernet: _extremes(supernet, data, device=world.device, workers=workers),
                resume=resume,
            )
    return TrainingResult(
        run=folder,
        weights=trained.weights,
        steps=trained.outcome.steps,
        loss=trained.outcome.loss,
        seconds=trained.outcome.seconds,
        images_per_s=trained.outcome.images_per_s,
        accuracies=trained.accuracies,
        bad_images=tuple(trained.bad_images),
        notes=(*notes, *_supernet_warnings(trained.accuracies, num_images=len(data.heldout))),
        is_main_process=world.is_main_process,
    )


def estimate_training(
    options: TrainOptions, *, workers: int = 0, trainer_config: TrainerConfig | None = None
) -> TrainingEstimate:
    """Work a training out, time a few steps of it, and leave nothing behind."""
    config, data = _begun(options)
    start = make_model(config)
    with distributed_world() as world, explain_out_of_memory(config, world):
        prepared = _make_trainer(
            config, data, start.model, folder=Path(), world=world, workers=workers, trainer_config=trainer_config
        )
        notes = _notes(config, data, start, world)
        seconds = prepared.time_steps()
        memory = _memory_mb(world)
    return TrainingEstimate(
        config=config,
        params=sum(parameter.numel() for parameter in start.model.parameters()),
        train_images=len(data.train),
        heldout_images=len(data.heldout),
        test_images=0 if data.test is None else len(data.test),
        steps_per_epoch=prepared.steps_per_epoch,
        seconds_per_step=seconds,
        memory_mb=memory,
        notes=notes,
    )


@contextmanager
def _telling_how_to_go_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}\n  try     hwnas train --out {folder} --resume") from stopped


def _notes(config: TrainConfig, data: DataSplits, start: InitialModel, world: World) -> tuple[str, ...]:
    """Notes for the user before the first step."""
    full = memory_warning(estimate_memory(config, start.model, world), config.recipe)
    return (*data.notes, *start.notes, *([] if full is None else [full]))


def _supernet_warnings(accuracies: Mapping[str, float], *, num_images: int) -> Iterator[str]:
    if accuracies:
        memory_warning = indistinct_supernet_warning(
            accuracies["smallest"], accuracies["largest"], num_images=num_images
        )
        if memory_warning is not None:
            yield memory_warning


def _begun(options: TrainOptions) -> tuple[TrainConfig, DataSplits]:
    validate_options(options)
    shape = image_shape(options)
    data = open_data(resolve_data_config(options), image_shape=shape, num_classes=options.num_classes)
    return resolved(options, num_classes=len(data.classes)), data


def _resumed(options: TrainOptions, folder: Path) -> tuple[TrainConfig, DataSplits]:
    """The config of the run, which whatever is asked for must equal."""
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds no training to go on with", hint="the same command without --resume")
    config = read_train_config(Run.open(folder))
    require_unchanged_weights(config)
    if options != TrainOptions():
        _require_same_training(_repeated(options, config), config)
    data = open_data(config.data, image_shape=config.image_shape, num_classes=config.num_classes)
    return config, data


def _repeated(options: TrainOptions, config: TrainConfig) -> TrainConfig:
    """The config of a command that need not name the data again."""
    if options.data is None:
        options = replace(options, data=config.data.name)
    if (options.space, options.model, options.supernet) == (None, None, None):
        options = replace(options, space=config.space, model=config.model, supernet=config.supernet)
    validate_options(options)
    return resolved(options, num_classes=config.num_classes)


def _require_same_training(asked: TrainConfig, config: TrainConfig) -> None:
    found = diff_tables(to_mapping(asked), to_mapping(config))
    if found:
        rows = [f"{key} {mine} instead of {theirs}" for key, (mine, theirs) in found.items()]
        more = f"; and {len(rows) - 4} more" if len(rows) > 4 else ""
        hint = "--resume with --out alone, or another --out for another training"
        raise InputError("a resumed training must stay the same", got="; ".join(rows[:4]) + more, hint=hint)


def _settle(folder: Path, config: TrainConfig, data: DataSplits, *, resume: bool) -> None:
    """Make the run folder, or see that it holds the same images out."""
    if resume:
        if (folder / HELDOUT_LIST).exists():
            require_same_images(folder / HELDOUT_LIST, data.heldout)
            return
    else:
        _create(folder, config)
    write_image_list(folder / HELDOUT_LIST, data.heldout)


def _require_new(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder} is a run already", hint=f"--out {folder} --resume to go on, or another --out")


def _create(folder: Path, config: TrainConfig) -> None:
    Run.create(folder, command=("hwnas", *sys.argv[1:]), config=config, seeds={"seed": config.seed})


def _make_trainer(
    config: TrainConfig,
    data: DataSplits,
    model: torch.nn.Module,
    *,
    folder: Path,
    world: World,
    workers: int,
    trainer_config: TrainerConfig | None,
    reporter: Reporter | None = None,
) -> Trainer:
    batches = make_train_loader(
        data,
        config.recipe,
        image_shape=config.image_shape,
        seed=config.seed,
        workers=workers,
        world=world,
        bad=BadImageLog(limit=config.data.max_bad),
    )
    return Trainer(
        folder,
        model.to(world.device),
        batches,
        config.recipe,
        seed=config.seed,
        data=data.fingerprint,
        teacher=make_teacher(config),
        world=world,
        config=trainer_config,
        reporter=reporter,
    )


def _extremes(supernet: AnySupernet, data: DataSplits, *, device: torch.device, workers: int) -> dict[str, float]:
    """Accuracy of the smallest and the largest network of the supernet."""
    space = supernet.space
    evaluator = make_evaluator(supernet, data, checkpoint_id="last", device=device, workers=workers)
    smallest, largest = evaluator.evaluate([space.smallest(), space.largest()])
    return {"smallest": smallest.top1, "largest": largest.top1}


def _memory_mb(world: World) -> float:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1e6 if sys.platform == "darwin" else kilobytes / 1e3
