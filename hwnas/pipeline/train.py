"""Train a supernet, one network of a space, or a model of timm for comparison: `hwnas train`."""

import math
import resource
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hwnas.arguments import checked_arguments
from hwnas.config import load_json, to_mapping
from hwnas.devices import detect
from hwnas.errors import InputError, Interrupted, UsageError, signal_number
from hwnas.files import WriterLock, remove_temporaries
from hwnas.metrics import QualityMetric, indistinct_supernet_warning
from hwnas.pipeline.proposal import names_no_model, propose_space, with_proposed_space
from hwnas.progress import NullReporter, Reporter
from hwnas.runs import LOCK, MODEL, NETWORK, SUPERNET, Run, command_line, record_error, require_new_folder
from hwnas.space import SPACES
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.supernet import AnySupernet, Supernet
from hwnas.train.checkpoint import FOLDER as CHECKPOINTS
from hwnas.train.checkpoint import finished_epochs, last_header
from hwnas.train.data.images import (
    HELDOUT_LIST,
    ArrayDataset,
    BadImageLog,
    read_image_list,
    require_same_images,
    write_image_list,
)
from hwnas.train.data.loader import default_workers
from hwnas.train.data.picture_cache import cached_images
from hwnas.train.data.preprocess import PREPROCESS, describe_annotated, describe_data, write_preprocess
from hwnas.train.data.samples import AnnotatedData
from hwnas.train.data.sources import DataSplits, open_data
from hwnas.train.distributed import World, distributed_world, goes_on
from hwnas.train.elastic import CLUSTERS
from hwnas.train.evaluation import make_eval_loader, make_evaluator, make_quality_evaluator
from hwnas.train.evaluator import DecodedOnce, evaluate_module
from hwnas.train.machine import device_precision
from hwnas.train.memory import estimate_memory, explain_out_of_memory, fit_microbatch, memory_warning
from hwnas.train.metrics_file import read_metrics
from hwnas.train.options import (
    EpochsChange,
    TrainConfig,
    TrainOptions,
    default_run_folder,
    longer_training,
    model_classes,
    predicts_masks,
    read_train_config,
    require_unchanged_weights,
    resolve_config,
    resolve_data_config,
    resolve_image_shape,
    resolve_task,
    validate_options,
)
from hwnas.train.recipe import Recipe, diff_tables
from hwnas.train.run_folder import has_weights, is_run, require_run
from hwnas.train.session import (
    ORIGINAL,
    RESULT,
    Extremes,
    InitialModel,
    TrainData,
    load_elastic_model,
    make_detection_loader,
    make_elastic_model,
    make_model,
    make_teacher,
    make_train_loader,
    run_training,
    save_elastic_model,
    train_classifier,
    weights_origin,
)
from hwnas.train.tasks import (
    QUALITY_OF_TASK,
    evaluate_task,
    evaluation_batches,
    make_task_evaluator,
    open_task_data,
    outputs_of,
)
from hwnas.train.trainer import BatchSource, EvaluateModel, Trainer, TrainerConfig

_TRAINED = {"network": "trained"}
"""Name of the one network of a training in its result, by that in the evaluations of its epochs."""

_FALL = 0.01
"""Fall of a network's held-out accuracy from its best evaluation to the last one that is warned of."""

_OLDER_WEIGHTS = "the weights in the run are those that the training ended with before"

_LONG_S = 24 * 3600
"""A training that takes longer has a smaller space proposed."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Files and measures of a completed training."""

    run: Path
    weights: Path
    steps: int
    """Steps of the training, including those before it was resumed."""
    planned_steps: int
    """Steps of all epochs; more than `steps` if the training was ended before."""
    loss: float | None
    """Loss of the last step; None: the resumed training had already ended."""
    seconds: float
    """Time since the training was started or resumed."""
    images_per_s: float
    accuracies: Mapping[str, float]
    """Held-out accuracies of a supernet's `smallest` and `largest` network, or of the `trained` one; none where no
    images are held out."""
    divergences: Mapping[str, float]
    """In their place on images without classes: the mean divergences from the pretrained model, in nats."""
    metric: QualityMetric
    """The metric that networks of the task are compared by."""
    task_quality: Mapping[str, float]
    """In place of accuracies: mAP of networks for detection, mIoU of those for segmentation."""
    bad_images: tuple[str, ...]
    """Unreadable images that were skipped."""
    notes: tuple[str, ...]
    """Facts that a user should know before the first step."""
    warnings: tuple[str, ...] = ()
    """Facts that a user should know about the trained supernet."""
    test_images: int = 0
    """Images that the chosen network can be tested on; 0 too if the resumed training had already ended."""
    is_main_process: bool = True
    """False in all but one of several processes that train together."""


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Size and duration of a training, from a few timed steps."""

    config: TrainConfig
    """Resolved options."""
    params: int
    """Parameters of the model."""
    train_images: int
    heldout_images: int
    test_images: int
    steps_per_epoch: int
    seconds_per_step: float
    """Median, with loading of images."""
    memory_mb: float
    """Peak memory of the GPU, or of this process."""
    notes: tuple[str, ...]

    @property
    def seconds_per_epoch(self) -> float:
        """Duration of an epoch."""
        return self.seconds_per_step * self.steps_per_epoch


@checked_arguments
def train_model(
    options: TrainOptions,
    *,
    out: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    trainer_config: TrainerConfig | None = None,
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Train a supernet or a network, and leave its weights in a run.

    Args:
        options: What to train, on which data and how.
        out: Folder of the run; None: a new one under `runs`.
        resume: Resume the training in `out` from its last checkpoint, to the same weights. With another number of
            epochs in the options, the learning rate goes on as in a training of so many; if so many are done, the
            training ends now, with the weights that it has.
        workers: Processes that load images; None: none on a CPU, else the cores of each GPU.
        trainer_config: Threads, checkpoints and compilation.
        reporter: Receives messages and progress.

    Raises:
        UsageError: Options exclude each other, or one is missing.
        InputError: A name, a file or a value is not allowed, memory does not suffice, or the training diverges.
        Interrupted: A signal asked to stop; the state is saved and can be resumed.
    """
    if resume and out is None:
        raise UsageError("the run to resume must be given", hint="--out RUN --resume")
    folder = out or default_run_folder(options)
    reporter = reporter or NullReporter()
    with distributed_world() as world, ExitStack() as lock:
        asked, resume = resume, resume or goes_on(world, is_begun=out is not None and is_run(folder))
        require_run(folder, resume=resume)
        if resume and world.is_main_process:
            lock.enter_context(WriterLock(folder / LOCK, activity="training"))
            remove_temporaries(folder)
            remove_temporaries(folder / CHECKPOINTS)
        ended = _ended_training(options, folder) if asked and world.size == 1 else None
        if ended is not None:
            longer = f"hwnas train --out {shlex.quote(str(folder))} --resume --epochs N goes on to more epochs"
            reporter.message(f"note: the training is complete; {longer}")
            return ended
        config, data = _resume_config(options, folder, may_change=asked) if resume else _new_config(options)
        requested = config
        workers = default_workers(world.device, processes=world.size) if workers is None else workers
        if not resume:
            config = _with_device_precision(options, config, world)
        initial = _initial_model(config, data, folder if resume else None, world=world, reporter=reporter)
        if not resume:
            config = _with_fitting_microbatch(options, config, initial, world)
        make_trainer = partial(
            _make_trainer,
            data=data,
            folder=folder,
            world=world,
            workers=workers,
            trainer_config=trainer_config,
            reporter=reporter,
        )
        trainer = make_trainer(config, model=initial.model)
        notes = (*_device_notes(requested.recipe, config.recipe), *_notes(config, data, initial, world, resumed=resume))
        if world.is_main_process:  # all options are valid here, so that wrong ones leave no folder
            if not resume:
                require_new_folder(folder)
                lock.enter_context(WriterLock(folder / LOCK, activity="training"))
                config = replace(config, machine=trainer.choose_machine())
            _prepare_run(folder, config, data, resume=resume)
            if _has_older_weights(folder):
                notes += (f"{_OLDER_WEIGHTS}, until it ends again",)
            for note in notes:
                reporter.message(f"note: {note}")
        world.barrier()
        if initial.fitted and config.recipe.trains_classifier:
            with _record_error(folder, world), explain_out_of_memory(config, world), _add_resume_hint(folder):
                initial = _train_classifier(config, data, initial, trainer, reporter=reporter)
            notes += initial.notes
            trainer = make_trainer(config, model=initial.model)
        if world.is_main_process and initial.order is not None:
            save_elastic_model(initial, folder)
        world.barrier()
        with _record_error(folder, world), explain_out_of_memory(config, world), _add_resume_hint(folder):
            session = run_training(
                trainer,
                origin=weights_origin(config),
                evaluate=lambda model: _extremes(model, config, data, folder, device=world.device, workers=workers),
                resume=resume,
            )
    metric: QualityMetric = QUALITY_OF_TASK[config.task] if config.labelled else "divergence"
    return TrainingResult(
        run=folder,
        weights=session.weights,
        steps=session.trainer.steps,
        planned_steps=session.trainer.planned_steps,
        loss=session.trainer.loss,
        seconds=session.trainer.seconds,
        images_per_s=session.trainer.images_per_s,
        accuracies=session.extremes.accuracies,
        divergences=session.extremes.divergences,
        metric=metric,
        task_quality=session.extremes.task_quality,
        bad_images=tuple(session.bad_images),
        notes=notes,
        warnings=(
            *_supernet_warnings(
                session.extremes.accuracies, num_images=len(data.heldout), command=longer_training(folder, config)
            ),
            *_overfitting_warnings(folder, metric, num_images=len(data.heldout)),
        ),
        test_images=0 if data.test is None else len(data.test),
        is_main_process=world.is_main_process,
    )


def _ended_training(options: TrainOptions, folder: Path) -> TrainingResult | None:
    """Return the result of a training that has ended, if that is what is to be resumed; None: there is work to do."""
    if replace(options, epochs=None) != TrainOptions():
        return None
    found = load_json(folder / RESULT) if (folder / RESULT).is_file() and has_weights(folder) else None
    if not isinstance(found, dict):
        return None
    config = read_train_config(Run.open(folder))
    require_unchanged_weights(config)
    if options.epochs is not None and _with_changed_epochs(config, options.epochs, folder) != config:
        return None
    qualities = [found.get(name) for name in ("accuracies", "divergences", "task_quality")]
    if not any(qualities) and config.data.heldout != 0:  # it was not evaluated
        return None
    accuracies, divergences, task_quality = ({} if item is None else item for item in qualities)
    metric: QualityMetric = QUALITY_OF_TASK[config.task] if config.labelled else "divergence"
    num_images = len(read_image_list(folder / HELDOUT_LIST))
    return TrainingResult(
        run=folder,
        weights=next(folder / name for name in (SUPERNET, NETWORK, MODEL) if (folder / name).is_file()),
        steps=found["steps"],
        planned_steps=found["planned_steps" if "planned_steps" in found else "steps"],  # one of an earlier version
        loss=None,
        seconds=0.0,
        images_per_s=0.0,
        accuracies=accuracies,
        divergences=divergences,
        metric=metric,
        task_quality=task_quality,
        bad_images=(),
        notes=(),
        warnings=(
            *_supernet_warnings(accuracies, num_images=num_images, command=longer_training(folder, config)),
            *_overfitting_warnings(folder, metric, num_images=num_images),
        ),
    )


@checked_arguments
def estimate_training(
    options: TrainOptions, *, workers: int | None = None, trainer_config: TrainerConfig | None = None
) -> TrainingEstimate:
    """Check options, time a few steps and write no files.

    Args:
        options: What to train, on which data and how; without a model, the space that suits images and machine.
        workers: Processes that load images; None: none on a CPU, else the cores of each GPU.
        trainer_config: Threads and compilation.

    Raises:
        UsageError: Options exclude each other, or one is missing.
        InputError: A name, a file or a value is not allowed, or memory does not suffice.
    """
    given, proposal = options, None
    if names_no_model(options):
        options, proposal = with_proposed_space(options, detect())
    requested, data = _new_config(options)
    with distributed_world() as world:
        config = _with_device_precision(options, requested, world)
        initial = _initial_model(config, data, None, world=World(), reporter=NullReporter())
        config = _with_fitting_microbatch(options, config, initial, world)
        workers = default_workers(world.device, processes=world.size) if workers is None else workers
        with explain_out_of_memory(config, world):
            trainer = _make_trainer(
                replace(config, data=replace(config.data, cache=None)),  # it writes no files
                data=data,
                model=initial.model,
                folder=Path(),
                world=world,
                workers=workers,
                trainer_config=trainer_config,
            )
            notes = (*_device_notes(requested.recipe, config.recipe), *_notes(config, data, initial, world))
            seconds = trainer.time_steps()
            memory = _peak_memory_mb(world)
    total_s = config.recipe.epochs * trainer.steps_per_epoch * seconds
    is_supernet = config.arch is None and config.model is None and config.elastic is None
    if proposal is None and total_s > _LONG_S and is_supernet and isinstance(data, DataSplits):
        proposal = propose_space(data, detect())
    if proposal is not None and (names_no_model(given) or proposal.space != config.space):
        notes = (proposal.describe(), *notes)
    return TrainingEstimate(
        config=config,
        params=sum(parameter.numel() for parameter in initial.model.parameters()),
        train_images=len(data.train),
        heldout_images=len(data.heldout),
        test_images=0 if data.test is None else len(data.test),
        steps_per_epoch=trainer.steps_per_epoch,
        seconds_per_step=seconds,
        memory_mb=memory,
        notes=notes,
    )


def _record_error(folder: Path, world: World) -> AbstractContextManager[None]:
    return record_error(folder) if world.is_main_process else nullcontext()


@contextmanager
def _add_resume_hint(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stopped:
        command = f"hwnas train --out {shlex.quote(str(folder))} --resume"
        message = f"{str(stopped) or 'the run is kept'}\n  try     {command}"
        epochs, is_older = finished_epochs(folder), _has_older_weights(folder)
        if is_older:
            message = f"{_OLDER_WEIGHTS}; {message}"
        if epochs and (is_older or not has_weights(folder)):
            message += f"\n  or, to end it now with the weights that it has:\n  try     {command} --epochs {epochs}"
        raise Interrupted(message, number=signal_number(stopped)) from stopped


def _has_older_weights(folder: Path) -> bool:
    """Return True if a run has the weights of a training that had ended and goes on."""
    return has_weights(folder) and not (folder / RESULT).is_file()


def _initial_model(
    config: TrainConfig, data: TrainData, resumed: Path | None, *, world: World, reporter: Reporter
) -> InitialModel:
    if config.elastic is None:
        return make_model(config)
    assert isinstance(data, DataSplits), "elastic spaces of classifiers have images with one class"
    prepared = None if resumed is None else load_elastic_model(resumed)
    if prepared is not None:
        return prepared
    reporter.message(f"preparing {config.elastic.name}: the order of its heads and hidden units")
    initial = make_elastic_model(config, data, device=world.device)
    _share_weights(initial, world)
    return initial


def _train_classifier(
    config: TrainConfig,
    data: TrainData,
    initial: InitialModel,
    trainer: Trainer,
    *,
    reporter: Reporter,
) -> InitialModel:
    """Train a pretrained model with a new classifier on labels, with the images and the machine of a training."""
    assert isinstance(data, DataSplits)
    epochs = config.recipe.classifier_epochs
    reporter.message(f"training the model itself for {epochs} epochs, as its classifier is new")
    trained = train_classifier(
        config,
        data,
        initial,
        folder=trainer.folder,
        batches=trainer.batches,
        world=trainer.world,
        trainer_config=trainer.config,
        reporter=reporter,
    )
    _share_weights(trained, trainer.world)
    if trainer.world.is_main_process:
        for note in trained.notes:
            reporter.message(f"note: {note}")
    return trained


def _share_weights(initial: InitialModel, world: World) -> None:
    """Give all processes the weights of the main one: sums on a GPU, and with them an order, may differ."""
    initial.model.to(world.device)
    world.broadcast(initial.model.state_dict().values())


def _is_set(options: TrainOptions, name: str) -> bool:
    """Return True if a setting was chosen by the user rather than by a recipe that is known by name."""
    return name in options.overrides or options.config_file is not None


def _with_device_precision(options: TrainOptions, config: TrainConfig, world: World) -> TrainConfig:
    """Return the config in a precision that helps on the device, unless the user chose one."""
    if _is_set(options, "precision"):
        return config
    precision = device_precision(config.recipe.precision, world.device)
    return replace(config, recipe=replace(config.recipe, precision=precision))


def _with_fitting_microbatch(
    options: TrainOptions, config: TrainConfig, initial: InitialModel, world: World
) -> TrainConfig:
    """Return the config with microbatches that fit into memory, unless the user chose their number."""
    if options.fit_batch:
        config = replace(config, recipe=replace(config.recipe, grad_accum_steps=1))
    elif _is_set(options, "grad_accum_steps"):
        return config
    fitting = fit_microbatch(config.recipe, estimate_memory(config, initial.model, world), processes=world.size)
    # All processes have parts of one size: that of the one with the least memory.
    steps = world.maximum(fitting.grad_accum_steps)
    return replace(config, recipe=replace(config.recipe, grad_accum_steps=steps))


def _device_notes(requested: Recipe, recipe: Recipe) -> Iterator[str]:
    """Say what of a recipe the device changed, and how to decide otherwise."""
    if recipe.precision != requested.precision:
        yield (
            f"trained in {recipe.precision}, as {requested.precision} of the recipe does not help on this device "
            f"(--set precision={requested.precision} insists on it)"
        )
    if recipe.grad_accum_steps != requested.grad_accum_steps:
        yield (
            f"{recipe.batch_size} images per step as in the recipe, {recipe.microbatch_size(1)} at once, as more do "
            f"not fit into memory (--set grad_accum_steps={requested.grad_accum_steps} insists on more)"
        )


def _notes(
    config: TrainConfig, data: TrainData, initial: InitialModel, world: World, *, resumed: bool = False
) -> tuple[str, ...]:
    """Return what a user should know before the first step; of a resumed training, what may have changed since."""
    found = memory_warning(estimate_memory(config, initial.model, world), config.recipe)
    warning = () if found is None else (found,)
    if resumed:
        return (*_epochs_notes(config), *warning)
    unlabelled = "the images have no classes: networks learn the outputs of the model alone"
    first = (*data.notes, *([] if config.labelled else [unlabelled]), *_size_note(config), *_cache_note(config, data))
    return (*first, *initial.notes, *warning)


def _epochs_notes(config: TrainConfig) -> Iterator[str]:
    """Say what the last change of the number of epochs means."""
    if not config.epochs_changes:
        return
    change, recipe = config.epochs_changes[-1], config.current_recipe
    if not change.ends:
        yield f"from step {change.step + 1:,} on, the learning rate is that of a training of {change.epochs} epochs"
        return
    yield f"the training ends after step {change.step:,}, with {change.epochs} of {recipe.epochs} epochs done"
    if change.epochs < recipe.sampling.widening_epochs:
        widening = recipe.sampling.widening_epochs
        yield f"narrow networks were to come in during the first {widening} epochs: some were never trained"


def _cache_note(config: TrainConfig, data: TrainData) -> Iterator[str]:
    if config.data.cache is not None and isinstance(data, AnnotatedData):
        yield "--cache is not used: it is for images with one class each"
    elif config.data.cache is not None and isinstance(data.train, ArrayDataset):
        yield "--cache is not used: the images are in memory"


def _size_note(config: TrainConfig) -> Iterator[str]:
    """Say what images of another size than that of the space cost."""
    if config.space is None or config.elastic is not None:
        return
    space, chosen = SPACES.get(config.space), config.get_space()
    before, after = space.config.image_size, chosen.config.image_size
    if before != after:
        macs = [int(item.costs(item.encode([item.largest()])).macs[0]) for item in (space, chosen)]
        yield (
            f"{after}-pixel images cost {macs[1] / macs[0]:.2g} times the MACs of the space's own {before} "
            f"({macs[1] / 1e6:,.0f} against {macs[0] / 1e6:,.0f} million in the largest network)"
        )


def _supernet_warnings(
    accuracies: Mapping[str, float], *, num_images: int, command: str | None = None
) -> Iterator[str]:
    if "smallest" in accuracies:
        smallest, largest = accuracies["smallest"], accuracies["largest"]
        warning = indistinct_supernet_warning(smallest, largest, num_images=num_images, command=command)
        if warning is not None:
            yield warning


def _overfitting_warnings(run: Path, metric: QualityMetric, *, num_images: int) -> Iterator[str]:
    """Say that a single network was better at an earlier evaluation, by more than two standard errors.

    One standard error is exceeded by chance where many epochs were evaluated, of which the best one is compared.
    """
    evaluated = [(row["heldout"]["network"], row["epoch"] + 1) for row in read_metrics(run) if _is_evaluated(row)]
    if not evaluated:
        return
    (best, epoch), (last, last_epoch) = max(evaluated, key=lambda found: found[0]), evaluated[-1]
    if best - last > max(_FALL, 2 * math.sqrt(best * (1 - best) / num_images)):
        fall = f"the held-out {metric} fell from {best:.2%} after epoch {epoch} to {last:.2%} after epoch {last_epoch}"
        yield f"{fall}: the network overfits, and another training with --epochs {epoch} may be better"


def _is_evaluated(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("heldout"), dict) and "network" in row["heldout"]


def _new_config(options: TrainOptions) -> tuple[TrainConfig, TrainData]:
    validate_options(options)
    shape = resolve_image_shape(options)
    task = resolve_task(options)
    if task != "classification":
        found = open_task_data(
            resolve_data_config(options),
            task,
            image_size=shape[1],
            num_classes=options.num_classes,
            masks=predicts_masks(options),
        )
        return resolve_config(options, num_classes=found.num_classes, num_images=len(found.train)), found
    labelled = options.elastic is None  # the networks of a pretrained model need no classes
    data = open_data(
        resolve_data_config(options), image_shape=shape, num_classes=options.num_classes, labelled=labelled
    )
    images = len(data.train)
    if data.classes:
        return resolve_config(options, num_classes=len(data.classes), num_images=images), data
    classes = model_classes(options) or max(2, min(CLUSTERS, images // 4))
    return resolve_config(options, num_classes=classes, num_images=images, labelled=False), data


def _resume_config(options: TrainOptions, folder: Path, *, may_change: bool) -> tuple[TrainConfig, TrainData]:
    """Read the config of a run; options, if any are given, must resolve to the same.

    Args:
        options: Options of the call that resumes.
        folder: The run.
        may_change: The number of epochs may be another one.
    """
    config = read_train_config(Run.open(folder))
    require_unchanged_weights(config)
    data: TrainData
    if config.task != "classification":
        head = config.get_space().config.task_head
        data = open_task_data(
            config.data,
            config.task,
            image_size=config.image_size,
            num_classes=config.num_classes,
            masks=head is not None and head.has_masks,
        )
    else:
        data = open_data(
            config.data, image_shape=config.image_shape, num_classes=config.num_classes, labelled=config.labelled
        )
    epochs = options.epochs if may_change else None
    if replace(options, epochs=None if may_change else options.epochs) != TrainOptions():
        options = options if epochs is None else replace(options, epochs=config.recipe.epochs)
        requested = _complete_and_resolve(options, config, num_images=len(data.train))
        # What the device decided is that of the run.
        decided = {
            name: getattr(config.recipe, name)
            for name in ("precision", "grad_accum_steps")
            if not _is_set(options, name)
        }
        requested = replace(requested, recipe=replace(requested.recipe, **decided))
        _require_same_config(requested, replace(config, machine=None, epochs_changes=()))
    return config if epochs is None else _with_changed_epochs(config, epochs, folder), data


def _with_changed_epochs(config: TrainConfig, epochs: int, folder: Path) -> TrainConfig:
    """Return the config of a training that is resumed with a number of epochs.

    Raises:
        InputError: The recipe does not allow so few, or nothing is trained that the training could end with.
    """
    recipe, header = config.current_recipe, last_header(folder)
    done = 0 if header is None else header.epoch
    has_ended = config.end_step is not None or done >= recipe.epochs
    if (epochs == recipe.epochs and config.end_step is None) or (epochs <= done and has_ended):
        return config
    command = f"hwnas train --out {shlex.quote(str(folder))} --resume"
    if not config.recipe.epochs:
        message = "a training without epochs has no schedule that more of them could follow"
        raise InputError(message, got=f"--epochs {epochs}", hint="another --out")
    if epochs <= done:
        if header is None:
            message = f"{folder} has no trained weights that it could end with"
            raise InputError(message, got="no checkpoint", hint=command)
        change = EpochsChange(step=header.step, epochs=done, ends=True)
        return replace(config, epochs_changes=(*config.epochs_changes, change))
    warmup, widening = recipe.schedule.warmup_epochs, recipe.sampling.widening_epochs
    least = max(warmup + 1, widening)
    if epochs < least:
        message = f"a training with {warmup} epochs of warm-up and {widening} of widening must have at least {least}"
        hint = f"{command} --epochs {least}{f', or --epochs {done} to end it now' if done else ''}"
        raise InputError(message, got=f"--epochs {epochs}", hint=hint)
    change = EpochsChange(step=0 if header is None else header.step, epochs=epochs, ends=False)
    return replace(config, epochs_changes=(*config.epochs_changes, change))


def _complete_and_resolve(options: TrainOptions, config: TrainConfig, *, num_images: int) -> TrainConfig:
    """Resolve the options of a resumed training, which need not name data and model again."""
    if options.data is None:
        options = replace(options, data=config.data.name)
    if (options.space, options.model, options.supernet, options.elastic) == (None, None, None, None):
        space = config.space if config.elastic is None else None
        options = replace(
            options,
            space=space,
            model=config.model,
            model_weights=config.model_weights,
            supernet=config.supernet,
            elastic=config.elastic,
        )
    validate_options(options)
    return resolve_config(options, num_classes=config.num_classes, num_images=num_images, labelled=config.labelled)


def _require_same_config(requested: TrainConfig, config: TrainConfig) -> None:
    differences = diff_tables(to_mapping(requested), to_mapping(config))
    if differences:
        rows = [f"{key} {given} instead of {stored}" for key, (given, stored) in differences.items()]
        more = f"; and {len(rows) - 4} more" if len(rows) > 4 else ""
        hint = "--resume with --out only, or another --out for another training"
        message = "a resumed training must have the options that it began with"
        raise InputError(message, got="; ".join(rows[:4]) + more, hint=hint)


def _prepare_run(folder: Path, config: TrainConfig, data: TrainData, *, resume: bool) -> None:
    """Create the run, or check that a resumed one held out the same images, and say how its images are prepared."""
    if resume and (folder / HELDOUT_LIST).exists():
        require_same_images(folder / HELDOUT_LIST, data.heldout)
    if resume and read_train_config(run := Run.open(folder)) != config:
        run.with_config(config)
        (folder / RESULT).unlink(missing_ok=True)  # that of another number of epochs
    if not resume:
        Run.create(folder, command=command_line(), config=config, seeds={"seed": config.seed})
    if not (folder / PREPROCESS).exists():
        shape, classes = config.image_shape, config.num_classes
        if isinstance(data, AnnotatedData):
            record = describe_annotated(data, image_shape=shape)
        else:
            record = describe_data(data, num_classes=classes, image_shape=shape)
        write_preprocess(folder, record)
    if not (folder / HELDOUT_LIST).exists():
        write_image_list(folder / HELDOUT_LIST, data.heldout)


def _make_trainer(
    config: TrainConfig,
    *,
    data: TrainData,
    model: torch.nn.Module,
    folder: Path,
    world: World,
    workers: int,
    trainer_config: TrainerConfig | None,
    reporter: Reporter | None = None,
) -> Trainer:
    common: dict[str, Any] = {
        "seed": config.seed,
        "workers": workers,
        "world": world,
        "bad": BadImageLog(limit=config.data.max_bad),
    }
    loader: BatchSource
    cache = config.data.cache
    if isinstance(data, DataSplits) and cache is not None and not isinstance(data.train, ArrayDataset):
        note = (reporter or NullReporter()).message
        train = cached_images(
            data.train, cache, image_size=config.image_shape[1], identity=data.fingerprint, on_message=note
        )
        data = replace(data, train=train)
    if isinstance(data, AnnotatedData):
        loader = make_detection_loader(data, config.recipe, **common)
    else:
        loader = make_train_loader(data, config.recipe, image_shape=config.image_shape, **common)
    return Trainer(
        folder,
        model.to(world.device),
        loader,
        config.current_recipe,
        seed=config.seed,
        data=data.fingerprint,
        teacher=make_teacher(config),
        world=world,
        config=trainer_config,
        machine=config.machine,
        end_step=config.end_step,
        earlier_epochs=(config.recipe.epochs, *(change.epochs for change in config.epochs_changes)),
        evaluate=_heldout_evaluation(config, data, trainer_config, device=world.device, workers=workers),
        reporter=reporter,
    )


def _heldout_evaluation(
    config: TrainConfig,
    data: TrainData,
    trainer_config: TrainerConfig | None,
    *,
    device: torch.device,
    workers: int,
) -> EvaluateModel | None:
    """Return a function that evaluates the model of a training on held-out images; None if that was not requested.

    Raises:
        InputError: There are no held-out images, or they have no classes.
    """
    if trainer_config is None or not trainer_config.evaluate_every:
        return None
    if not config.labelled or not len(data.heldout):
        got = "no held-out images" if config.labelled else "images without classes"
        message = "accuracy while training needs held-out images with classes"
        raise InputError(message, got=got, hint="leave out --evaluate-every")

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        if isinstance(data, AnnotatedData):
            return _task_quality(model, data, device=device, workers=workers)
        if isinstance(model, Supernet):
            names = {"smallest": model.space.smallest(), "largest": model.space.largest()}
            evaluator = make_evaluator(model, data, checkpoint_id="last", device=device, workers=workers)
            return {name: found.top1 for name, found in zip(names, evaluator.evaluate([*names.values()]), strict=True)}
        loader = make_eval_loader(data, config.image_shape, split="heldout", workers=workers)
        return {"network": evaluate_module(model, loader, device=device).top1}

    return evaluate


def _task_quality(
    model: torch.nn.Module, data: AnnotatedData, *, device: torch.device, workers: int
) -> dict[str, float]:
    """Evaluate a network for detection or segmentation, or the smallest and the largest one of a supernet."""
    if isinstance(model, Supernet):
        archs = {"smallest": model.space.smallest(), "largest": model.space.largest()}
        evaluator = make_task_evaluator(model, data, device=device, workers=workers)
        return dict(zip(archs, evaluator.evaluate([*archs.values()]), strict=True))
    outputs = outputs_of(model)
    assert outputs is not None
    batches = evaluation_batches(data, split="heldout", workers=workers)
    return {"network": evaluate_task(model.eval(), outputs, (batch.to(device) for batch in batches))}


def _extremes(
    model: torch.nn.Module, config: TrainConfig, data: TrainData, run: Path, *, device: torch.device, workers: int
) -> Extremes:
    """Evaluate a network, or the smallest and the largest one of a supernet, which shows if it separates them."""
    if not len(data.heldout):
        return Extremes()
    if isinstance(data, AnnotatedData):
        found = _task_quality(model, data, device=device, workers=workers)
        return Extremes(task_quality={_TRAINED.get(name, name): value for name, value in found.items()})
    if not isinstance(model, Supernet):
        loader = make_eval_loader(data, config.image_shape, split="heldout", workers=workers)
        return Extremes(accuracies={"trained": evaluate_module(model, loader, device=device).top1})
    supernet: AnySupernet = model
    archs = [supernet.space.smallest(), supernet.space.largest()]
    if not config.labelled:
        assert isinstance(supernet, ElasticSupernet)
        loader = make_eval_loader(data, supernet.space.config.input_shape, split="heldout", workers=workers)
        evaluator = make_quality_evaluator(
            supernet, data, "divergence", original=run / ORIGINAL, batches=DecodedOnce(loader), device=device
        )
        return Extremes(divergences=dict(zip(("smallest", "largest"), evaluator.evaluate(archs), strict=True)))
    accuracies = make_evaluator(supernet, data, checkpoint_id="last", device=device, workers=workers).evaluate(archs)
    return Extremes(
        accuracies={name: item.top1 for name, item in zip(("smallest", "largest"), accuracies, strict=True)}
    )


def _peak_memory_mb(world: World) -> float:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1e6 if sys.platform == "darwin" else kilobytes / 1e3
