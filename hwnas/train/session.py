"""Setup of a training from its config, the training itself, and the files that it leaves in its run."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hwnas.config import load_json, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.progress import Reporter
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.store import load_network, load_supernet, read_about, save_supernet
from hwnas.supernet.supernet import Supernet
from hwnas.supernet.transfer import carry_over
from hwnas.train.data.detection_augment import DetectionAugmentConfig
from hwnas.train.data.detection_loader import DetectionTrainLoader
from hwnas.train.data.images import BadImageLog
from hwnas.train.data.loader import Batch, TrainLoader
from hwnas.train.data.samples import AnnotatedData
from hwnas.train.data.sources import DataSplits
from hwnas.train.distributed import World
from hwnas.train.elastic import UnitOrder, fit_classifier, fit_clusters, order_units
from hwnas.train.evaluation import unaugmented_loader
from hwnas.train.models import (
    adapt_supernet,
    build_network,
    build_supernet,
    build_timm_model,
    inherit_network,
)
from hwnas.train.options import TrainConfig, first_weights_file
from hwnas.train.presets import single_network_recipe, with_epochs
from hwnas.train.pretrained import fold_normalization, load_pretrained, load_weights, own_normalization, supernet_of
from hwnas.train.recipe import Recipe
from hwnas.train.run_folder import weights_file
from hwnas.train.teacher import load_teacher
from hwnas.train.trainer import BatchSource, Trainer, TrainerConfig, TrainerResult
from hwnas.train.weights import (
    SpaceOrigin,
    TimmOrigin,
    WeightsOrigin,
    load_model,
    read_timm_origin,
    save_weights,
)

_log = logging.getLogger(__name__)

RESULT = "result.json"
ORIGINAL, ORDER = "original.safetensors", "order.json"
"""Files of a run: a pretrained model, prepared as a supernet, and the order of its heads and hidden units."""
CLASSIFIER = "classifier"
"""Folder of a run with the training of a pretrained model whose classifier is new."""

_PROBE_BATCHES, _ORDER_BATCHES = 320, 16
"""Batches of 64 training images that a classifier is fitted to, and that heads and hidden units are ordered by."""
_MAX_LISTED = 20
_GENTLE_SCALE = (0.8, 1.25)
"""Sizes of images with boxes where a recipe only shifts images."""

TrainData = DataSplits | AnnotatedData
"""Images with classes, or with the targets of detection or segmentation."""

EvaluateTrained = Callable[[nn.Module], "Extremes"]
"""Evaluates a trained supernet or network; what it returns is stored in the result."""


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Quality on held-out images of the `smallest` and the `largest` network of a supernet, or of the `trained` one."""

    accuracies: Mapping[str, float] = field(default_factory=dict)
    """Top-1; none on images without classes."""
    divergences: Mapping[str, float] = field(default_factory=dict)
    """On images without classes: the mean KL divergence from the pretrained model, in nats."""
    task_quality: Mapping[str, float] = field(default_factory=dict)
    """mAP of networks for detection, mIoU of those for segmentation."""


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """Weights and figures of a completed training."""

    weights: Path
    """File of the weights."""
    uses_ema: bool
    """True if the weights are the moving average rather than those of the last step."""
    trainer: TrainerResult
    extremes: Extremes
    """Quality of the networks, from the function that evaluates them."""
    bad_images: Sequence[str] = ()
    """Unreadable images that this process has skipped since the training was started or resumed."""


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
    """Create the loader of training images in microbatches.

    Args:
        data: Dataset.
        recipe: Batch size and augmentation.
        image_shape: Channels, height and width of the network's input.
        seed: Seed of the training.
        workers: Processes that load images.
        world: Processes of the training.
        bad: Records unreadable images.

    Raises:
        InputError: There are fewer images than one step takes.
    """
    world = world or World()
    size = recipe.microbatch_size(world.size)
    loader = TrainLoader(
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
    _require_full_batch(loader.batch_size, size * world.size, count=len(data.train), world=world)
    return loader


def make_detection_loader(
    data: AnnotatedData,
    recipe: Recipe,
    *,
    seed: int,
    workers: int = 0,
    world: World | None = None,
    bad: BadImageLog | None = None,
) -> DetectionTrainLoader:
    """Create the loader of training images with boxes or classes of pixels; arguments as for `make_train_loader`."""
    world = world or World()
    size = recipe.microbatch_size(world.size)
    loader = DetectionTrainLoader(
        data.train,
        augment=_detection_augment(recipe, data),
        batch_size=size,
        seed=seed,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
        bad=bad,
    )
    _require_full_batch(loader.batch_size, size * world.size, count=len(data.train), world=world)
    return loader


def _require_full_batch(batch_size: int, needed: int, *, count: int, world: World) -> None:
    """Raise an InputError if there are fewer images than one step takes."""
    if batch_size * world.size != needed:
        message = f"there must be at least {needed} training images, a full batch"
        raise InputError(message, got=count, hint=f"--batch {batch_size // 2 * 2 * world.size}")


def _detection_augment(recipe: Recipe, data: AnnotatedData) -> DetectionAugmentConfig | None:
    """Return the augmentation of images with boxes that is as strong as that of a recipe for classes."""
    own, scale = recipe.augment, DetectionAugmentConfig().scale
    if own.crop == "none":
        return None
    return DetectionAugmentConfig(
        flip=own.flip if data.flip else 0.0,
        scale=scale if own.crop == "random-resized" else _GENTLE_SCALE,
        photometric=0.5 if own.color_jitter or own.rand_augment else 0.0,
    )


def run_training(
    trainer: Trainer,
    *,
    origin: WeightsOrigin | None = None,
    evaluate: EvaluateTrained | None = None,
    resume: bool = False,
) -> SessionResult:
    """Run a training to its end, write weights and result, and evaluate what was trained.

    If the recipe has a moving average, the model gets its weights, which are then written and evaluated.

    Args:
        trainer: Training to run.
        origin: What a single network is, stored with its weights.
        evaluate: Evaluates what was trained. Weights and result are written before it is called, and the result again
            with its accuracies, so that an error in it loses nothing.
        resume: Resume from the last checkpoint.
    """
    outcome = trainer.run(resume=resume)
    uses_ema = trainer.use_ema_weights()
    values = _result_values(trainer, outcome, uses_ema=uses_ema)
    path = trainer.folder
    if trainer.world.is_main_process:
        path = save_weights(trainer.model, trainer.folder, origin)
        _log.info("trained %d steps in %.1f s, weights in %s", outcome.steps, outcome.seconds, path)
        _write_result(trainer.folder, values)
    extremes = Extremes()
    if evaluate is not None:
        trainer.model.eval()
        extremes = evaluate(trainer.model)
        if trainer.world.is_main_process:
            _write_result(trainer.folder, {**values, **asdict(extremes)})
    trainer.world.barrier()
    bad_images = tuple(_bad_images(trainer).reasons)
    return SessionResult(weights=path, uses_ema=uses_ema, trainer=outcome, extremes=extremes, bad_images=bad_images)


@dataclass(frozen=True)
class InitialModel:
    """A model before the first step."""

    model: nn.Module
    notes: tuple[str, ...] = ()
    """Given weights that could not be used, and what was fitted instead."""
    order: UnitOrder | None = None
    """The order of the units of a pretrained model; None: it has been prepared before."""
    fitted: bool = False
    """True if a classifier was fitted to the data, as the model's has other classes."""


def make_model(config: TrainConfig) -> InitialModel:
    """Create the model of a training, with fresh weights or those of a supernet."""
    if config.supernet is not None:
        return _model_from_supernet(config, config.supernet)
    if config.model is not None:
        size, classes = config.image_size, config.num_classes
        model = build_timm_model(config.model, config.recipe, image_size=size, num_classes=classes, seed=config.seed)
        given = config.model_weights
        if given is None:
            return InitialModel(model)
        fresh = load_weights(
            model, config.model, image_size=size, pretrained=given.pretrained, checkpoint=given.checkpoint
        )
        return InitialModel(model, (f"initialized for {classes} classes: {', '.join(fresh)}",) if fresh else ())
    if config.arch is None:
        return InitialModel(build_supernet(config.get_space(), config.recipe, seed=config.seed))
    return InitialModel(build_network(config.get_space(), config.get_arch(), config.recipe, seed=config.seed))


def make_elastic_model(config: TrainConfig, data: DataSplits, *, device: torch.device) -> InitialModel:
    """Create the supernet of a pretrained model: its weights, a classifier for the data, and units in order.

    Args:
        config: Config of a training with an elastic model.
        data: Dataset, whose training images fit the classifier and give the order.
        device: Device that the model runs on.

    Raises:
        InputError: The model is of a kind that is not supported, or its weights cannot be read.
    """
    assert config.elastic is not None
    model, name = _load_elastic(config)
    space = config.get_space()
    supernet = supernet_of(
        model,
        name=name,
        num_classes=config.num_classes,
        drop_path=config.recipe.regularization.drop_path,
        sizes=config.elastic.sizes,
    )
    if config.elastic.name.startswith("timm:"):  # a model that was trained here takes the images as they are
        fold_normalization(supernet, own_normalization(model))
    supernet = supernet.to(device)
    assert supernet.space.config == space.config, "the space of a model with other weights is another one"
    notes, fitted = [], getattr(model, "num_classes", None) != config.num_classes
    if fitted:
        batches = islice(unaugmented_loader(data, config.image_shape).epoch(0), _PROBE_BATCHES)
        notes.append(_fit_head(supernet, batches, labelled=config.labelled))
        if config.recipe.trains_classifier:  # the training on labels comes first, and changes which units matter
            return InitialModel(supernet.cpu(), tuple(notes), fitted=True)
    order = _ordered(supernet, config, data)
    return InitialModel(supernet.cpu(), (*notes, _describe_order(order)), order, fitted)


def _fit_head(supernet: ElasticSupernet, batches: Iterable[Batch], *, labelled: bool) -> str:
    """Fit the classifier of a model to the classes of images, or to clusters of its features if they have none."""
    classes = supernet.space.config.num_classes
    if labelled:
        accuracy = fit_classifier(supernet, batches)
        return f"the classifier was fitted to {classes} classes: top-1 {accuracy:.2%} on its images"
    fit_clusters(supernet, batches)
    return f"neither model nor images have classes: networks are compared by {classes} clusters of the model's features"


def train_classifier(
    config: TrainConfig,
    data: DataSplits,
    initial: InitialModel,
    *,
    folder: Path,
    batches: BatchSource,
    world: World,
    trainer_config: TrainerConfig | None = None,
    reporter: Reporter | None = None,
) -> InitialModel:
    """Train a model whose classifier was fitted on labels, all of its weights, and order its units anew.

    Args:
        config: Config of a training with an elastic model.
        data: Dataset.
        initial: The supernet of the model, which is changed in place.
        folder: Run of the training; checkpoints are kept in a folder of it, from which another call resumes.
        batches: Training images in microbatches.
        world: Processes of the training.
        trainer_config: Execution of the training.
        reporter: Receives progress.
    """
    supernet = initial.model
    assert isinstance(supernet, ElasticSupernet)
    network = supernet.subnet(supernet.space.largest()).to(world.device)
    recipe = single_network_recipe(with_epochs(config.recipe, config.recipe.classifier_epochs))
    lr = config.recipe.classifier_lr or recipe.optimizer.lr
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=lr))
    path = folder / CLASSIFIER
    if world.is_main_process:
        path.mkdir(exist_ok=True)
    world.barrier()
    trainer = Trainer(
        path,
        network,
        batches,
        recipe,
        seed=config.seed,
        data=data.fingerprint,
        world=world,
        config=trainer_config,
        machine=config.machine,
        reporter=reporter,
    )
    trainer.run(resume=True)
    trainer.use_ema_weights()
    supernet.shared.load_state_dict(network.state_dict())
    order = _ordered(supernet.to(world.device), config, data)
    note = f"trained on labels for {recipe.epochs} epochs first, as its classifier is new"
    return InitialModel(supernet.cpu(), (note, _describe_order(order)), order)


def _ordered(supernet: ElasticSupernet, config: TrainConfig, data: DataSplits) -> UnitOrder:
    batches = islice(unaugmented_loader(data, config.image_shape).epoch(0), _ORDER_BATCHES)
    return order_units(supernet, torch.cat([batch.images for batch in batches]))


def _describe_order(order: UnitOrder) -> str:
    kept, before = (sum(order.divergences[score]) / len(order.cuts) for score in (order.score, "unsorted"))
    return f"units ordered by {order.score}: mean divergence of cut networks {kept:.3g}, unsorted {before:.3g}"


def load_elastic_model(folder: Path) -> InitialModel | None:
    """Load the prepared supernet of a pretrained model from the run of its training; None: there is none yet."""
    file = folder / ORIGINAL
    return InitialModel(load_supernet(file)) if file.is_file() else None


def save_elastic_model(initial: InitialModel, folder: Path) -> None:
    """Write the prepared supernet and the order of its units to the run of its training."""
    assert initial.order is not None
    assert isinstance(initial.model, Supernet)
    save_supernet(initial.model, folder / ORIGINAL)
    write_atomic(folder / ORDER, json.dumps(to_mapping(initial.order)) + "\n")


def _load_elastic(config: TrainConfig) -> tuple[nn.Module, str]:
    """Return the pretrained model and its name in timm."""
    elastic, size = config.elastic, config.image_size
    assert elastic is not None
    if not elastic.name.startswith("timm:"):
        path = Path(elastic.name)
        origin = read_timm_origin(path)
        if origin.image_size == size:
            model = load_model(path)
        else:  # its positions are interpolated
            model = load_pretrained(origin.name, image_size=size, checkpoint=weights_file(path))
        return model.eval(), origin.name.removeprefix("timm:")
    model = load_pretrained(elastic.name, image_size=size, pretrained=elastic.pretrained, checkpoint=elastic.checkpoint)
    return model.eval(), elastic.name.removeprefix("timm:")


def make_teacher(config: TrainConfig) -> nn.Module | None:
    """Load the teacher of a training, if it has one."""
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
    """Return what a single network is, to be stored with its weights; None for a supernet."""
    if config.model is not None:
        return TimmOrigin(name=config.model, image_size=config.image_size, num_classes=config.num_classes)
    if config.arch is not None:
        return SpaceOrigin(space=config.get_space(), arch=config.get_arch())
    return None


def _model_from_supernet(config: TrainConfig, path: Path) -> InitialModel:
    """Create a supernet or a network with the weights of a supernet, at the image size and classes of a training."""
    file = first_weights_file(path)
    if read_about(file).get("kind") == "network":
        return _model_from_network(config, file)
    source = load_supernet(file)
    supernet, fresh = adapt_supernet(source, config.get_space(), config.recipe, seed=config.seed)
    notes = (f"initialized for {config.num_classes} classes: {', '.join(fresh)}",) if fresh else ()
    if fresh == ("head",):
        notes = (f"the backbone begins with the weights of {path}, the head with fresh ones",)
    if config.arch is None:
        return InitialModel(supernet, notes)
    return InitialModel(inherit_network(supernet, config.get_arch(), config.recipe), notes)


def _model_from_network(config: TrainConfig, file: Path) -> InitialModel:
    """Create a network with the weights of the same network, perhaps at another image size or number of classes."""
    network = build_network(config.get_space(), config.get_arch(), config.recipe, seed=config.seed)
    own, stored = network.state_dict(), load_network(file).network.state_dict()
    # A classifier of patches belongs to a recipe: another one may not train it, or train one that the file lacks.
    weights = {name: tensor for name, tensor in stored.items() if name in own or "patch_classifier" not in name}
    missing = {name: own[name] for name in own if name not in stored and "patch_classifier" in name}
    fresh = (*carry_over({**weights, **missing}, network), *missing)
    notes = (f"initialized for {config.num_classes} classes: {', '.join(fresh)}",) if fresh else ()
    return InitialModel(network, notes)


def _result_values(trainer: Trainer, outcome: TrainerResult, *, uses_ema: bool) -> dict[str, Any]:
    """Return the values of the result; those of a training that had already ended are kept."""
    # The number of unreadable images is summed over processes, so that all of them must come here.
    num_bad = round(trainer.world.mean([len(_bad_images(trainer))])[0] * trainer.world.size)
    file = trainer.folder / RESULT
    if outcome.loss is None and file.exists():
        before = load_json(file)
        if isinstance(before, dict):
            return before
    kind: Literal["ema", "last"] = "ema" if uses_ema else "last"
    bad = {"bad_images": num_bad, "first_bad_images": list(_bad_images(trainer).reasons)[:_MAX_LISTED]}
    return {**asdict(outcome), "weights": kind, **asdict(Extremes()), **bad}


def _bad_images(trainer: Trainer) -> BadImageLog:
    bad = getattr(trainer.batches, "bad", None)
    return bad if isinstance(bad, BadImageLog) else BadImageLog()


def _write_result(run: Path, values: Mapping[str, Any]) -> None:
    write_atomic(run / RESULT, json.dumps(values, indent=2, allow_nan=False) + "\n")
