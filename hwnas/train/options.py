"""Options of a training as a user gives them, and the config that they are resolved to.

What reads weights is imported where it is needed: it loads torch, without which most options can be checked.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from hwnas.config import Between, Seed, from_mapping, require_valid, shown
from hwnas.errors import InputError, UsageError
from hwnas.files import absolute_path, file_errors
from hwnas.runs import MANIFEST, NETWORK, SUPERNET, Run, missing_run
from hwnas.space import SPACES
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.lookup import adapted, classifier_name, find_arch
from hwnas.space.space import AnySpace
from hwnas.space.task_head import DEFAULT_HEADS, HeadKind, Task, task_of
from hwnas.train.data.sources import DataConfig, absolute_data_name, require_data
from hwnas.train.evaluated import resolve_arch
from hwnas.train.machine_settings import MachineSettings
from hwnas.train.presets import FINETUNE_RECIPE, RECIPES, resolve_recipe
from hwnas.train.recipe import MAX_EPOCHS, Recipe
from hwnas.train.run_folder import require_path, require_weights, weights_digest, weights_file

SCHEMA = "hwnas.train/2"
"""Schema of a training's config in its run's manifest."""

_TIMM = "timm:"
_TIMM_IMAGE_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A model with its weights: a teacher, or the model whose parts are the networks of an elastic space."""

    name: str
    """`timm:NAME`, a file of a single network, or a run that has one."""
    pretrained: bool = False
    """Use the published weights of a model of timm."""
    checkpoint: Path | None = None
    """Weights of a model of timm in a file."""
    sizes: bool = False
    """Let the networks inside the model also choose the sizes of their images and patches."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training; None stands for a default that depends on the others."""

    data: str | None = None
    """Dataset, as `DataConfig.name`; None: that of the run `supernet`."""
    space: str | None = None
    """Space of the supernet or network; None: that of `supernet`."""
    arch: str | None = None
    """Train this network of the space rather than a supernet: a name, `min`, `max`, `random:SEED`, JSON, or the id of a
    network that was evaluated in the run `supernet`."""
    supernet: Path | None = None
    """Run or file of a supernet, or of a network of a space, to take initial weights from."""
    task: Task | None = None
    """Classification, detection or segmentation; None: that of the space."""
    head: HeadKind | None = None
    """Head for detection or segmentation; None: that of the space, or the default of the task."""
    model: str | None = None
    """Train a model of timm, `timm:NAME`, for comparison."""
    model_weights: PretrainedModel | None = None
    """Weights that the model of timm `model` begins with, published or in a file; None: fresh ones."""
    elastic: PretrainedModel | None = None
    """Train the supernet of the networks inside this model of timm, or the run or file of one that was trained here."""
    recipe: str | None = None
    """Name of a preset; None: that of the space."""
    config_file: Path | None = None
    """TOML file with values of the recipe."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Values of the recipe by dotted key, applied last."""
    epochs: Annotated[int, Between(0, 100_000)] | None = None
    """Number of epochs; warm-up and widening keep their shares of it. 0 leaves the weights of `elastic` as they are."""
    batch_size: Annotated[int, Between(1, 1_000_000)] | None = None
    """Images of one step, over all processes."""
    fit_batch: bool = False
    """Run the images of a step in the fewest parts that fit the device, whatever the recipe says."""
    seed: int = 0
    """Decides initial weights, order and augmentation of images, networks and mixing."""
    image_size: int | None = None
    """Side of the images; None: that of the space."""
    num_classes: int | None = None
    """Classes that the dataset must have; None: as many as it has."""
    heldout: float | None = None
    """Training images to hold out: a share below 1, else a number; 0, for one network: none."""
    max_images: int | None = None
    """Train on at most this many images."""
    data_seed: int | None = None
    """Decides the split, and the images of `digits-clutter`; None: 0, or that of the run `supernet`."""
    max_bad: int | None = None
    """Unreadable images that are skipped before it is an error."""
    root: Path | None = None
    """Folder of a `torch/` dataset."""
    download: bool = False
    """Allow a `torch/` dataset to be downloaded."""
    cache: Path | None = None
    """Folder for a file of decoded and resized training images; None: they are decoded in each epoch."""
    teacher: PretrainedModel | None = None
    """Teacher to distil from."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class EpochsChange:
    """Another number of epochs, with which a training was resumed."""

    step: Annotated[int, Between(0, 10**15)]
    """Steps that were done before."""
    epochs: Annotated[int, Between(0, MAX_EPOCHS)]
    """Epochs from then on, by which the schedule of learning rates is made."""
    ends: bool
    """True: so many epochs were done, and the training ended at `step`; the schedule stayed."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that the result of a training depends on except versions and machine; stored in the run's manifest."""

    data: DataConfig
    recipe: Recipe
    seed: Seed
    image_size: Annotated[int, Between(1, 16_384)]
    channels: Annotated[int, Between(1, 3)]
    num_classes: Annotated[int, Between(2, 1_000_000)]
    space: str | None = None
    arch: str | None = None
    """Network of the space, as canonical JSON; None: a supernet is trained."""
    supernet: Path | None = None
    model: str | None = None
    model_weights: PretrainedModel | None = None
    elastic: PretrainedModel | None = None
    teacher: PretrainedModel | None = None
    supernet_digest: str | None = None
    """Digest of the file of `supernet`; a training is not resumed after the file has changed."""
    elastic_digest: str | None = None
    """Digest of the file of `elastic`; None: it has none."""
    model_digest: str | None = None
    """Digest of the file of `model_weights`; None: it has none."""
    teacher_digest: str | None = None
    """Digest of the teacher's file; None: it has none."""
    labelled: bool = True
    """False: the images have no classes, and networks learn the outputs of the model of `elastic` alone."""
    machine: MachineSettings | None = None
    """Settings of the CPU that the run was made with and that resumed trainings keep; None: not yet chosen."""
    epochs_changes: tuple[EpochsChange, ...] = ()
    """Changes of the epochs of `recipe`, with which the training began, in their order."""
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        require_valid(self)
        if (self.space is None) == (self.model is None) or (self.space is None and self.arch is not None):
            got = f"space {self.space}, model {self.model}, arch {self.arch}"
            raise InputError("a training must have either a space, perhaps with an arch, or a model of timm", got=got)

    @property
    def task(self) -> Task:
        """The task of the networks."""
        return "classification" if self.space is None else SPACES.get(self.space).config.task

    @property
    def current_recipe(self) -> Recipe:
        """The recipe with the epochs that the schedule is made by now."""
        changed = [change.epochs for change in self.epochs_changes if not change.ends]
        return replace(self.recipe, epochs=changed[-1]) if changed else self.recipe

    @property
    def end_step(self) -> int | None:
        """The step that the training was ended at before all its epochs were done; None: it was not."""
        last = self.epochs_changes[-1] if self.epochs_changes else None
        return None if last is None or not last.ends else last.step

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.image_size, self.image_size

    def get_space(self) -> AnySpace:
        """Return the space at the image size and number of classes of this training."""
        assert self.space is not None
        return adapted(SPACES.get(self.space), image_size=self.image_size, num_classes=self.num_classes)

    def get_arch(self) -> Arch:
        """Return the network of the space."""
        assert self.arch is not None
        return find_arch(self.get_space(), self.arch)


def resolve_config(
    options: TrainOptions, *, num_classes: int, num_images: int | None = None, labelled: bool = True
) -> TrainConfig:
    """Resolve options to the config of a training.

    Args:
        options: Options as a user gives them.
        num_classes: Number of classes of the dataset, or of the model that is learned from where it has none.
        num_images: Number of training images; None: it is unknown.
        labelled: The images have classes.

    Raises:
        InputError: A name, a file or a value is not allowed.
    """
    space = _resolve_space(options)
    channels, size, _ = _image_shape_of(options, space)
    arch, given = None, _given_network(options.supernet)
    if given is not None:
        if options.arch is not None:
            message = "--arch chooses a network of a supernet, and these are the weights of one network"
            raise UsageError(message, got=options.supernet, hint="leave out --arch")
        arch = canonical_json(given.arch.to_mapping())
    elif options.arch is not None:
        assert space is not None
        network = resolve_arch(space, options.arch, options.supernet, command=_arch_command(options))
        (canonical,) = space.decode(space.encode([network]))
        arch = canonical_json(canonical.to_mapping())
    return TrainConfig(
        data=resolve_data_config(options),
        recipe=resolve_recipe(
            space=space,
            one_network=arch is not None or options.model is not None,
            name=FINETUNE_RECIPE if options.recipe is None and options.model_weights is not None else options.recipe,
            file=options.config_file,
            overrides=options.overrides,
            epochs=options.epochs,
            batch_size=options.batch_size,
            num_images=num_images,
            labelled=labelled,
        ),
        seed=options.seed,
        image_size=size,
        channels=channels,
        num_classes=num_classes,
        space=None if space is None or options.model is not None else space.name,
        arch=arch,
        supernet=None if options.supernet is None else absolute_path(options.supernet),
        model=options.model,
        model_weights=None if options.model_weights is None else _absolute_model(options.model_weights),
        elastic=None if options.elastic is None else _absolute_model(options.elastic),
        teacher=None if options.teacher is None else _absolute_model(options.teacher),
        supernet_digest=None if options.supernet is None else weights_digest(first_weights_file(options.supernet)),
        elastic_digest=_model_digest(options.elastic),
        model_digest=_model_digest(options.model_weights),
        teacher_digest=_model_digest(options.teacher),
        labelled=labelled,
    )


def model_classes(options: TrainOptions) -> int:
    """Return the number of classes of the model of `elastic`, for images without classes; 0: it has no classifier.

    Raises:
        InputError: The weights cannot be read, or another number is requested.
    """
    from hwnas.train.pretrained import num_classes_of_weights
    from hwnas.train.weights import read_timm_origin

    assert options.elastic is not None
    model = options.elastic
    if model.name.startswith(_TIMM):
        found = num_classes_of_weights(model.name, checkpoint=model.checkpoint)
    else:
        found = read_timm_origin(Path(model.name)).num_classes
    if options.num_classes not in (None, found):
        message = f"without classes of the images, the classes are the {found} of the model"
        raise InputError(message, got=options.num_classes, hint="leave the number of classes out")
    return found


def require_unchanged_weights(config: TrainConfig) -> None:
    """Raise an InputError if the weights that a training began with have changed since."""
    supernet = None if config.supernet is None else weights_digest(first_weights_file(config.supernet))
    for option, file, before, now in (
        ("--supernet", config.supernet, config.supernet_digest, supernet),
        ("--elastic", config.elastic and config.elastic.name, config.elastic_digest, _model_digest(config.elastic)),
        ("--checkpoint", config.model, config.model_digest, _model_digest(config.model_weights)),
        ("--teacher", config.teacher and config.teacher.name, config.teacher_digest, _model_digest(config.teacher)),
    ):
        if before is not None and now != before:
            message = f"the weights of {option} must be those that the training began with"
            raise InputError(message, got=f"{file}, which has changed", hint="the old file, or another training")


def _model_digest(model: PretrainedModel | None) -> str | None:
    """Return the digest of a model's weights, if they are in a file."""
    if model is None:
        return None
    if model.checkpoint is not None:
        return weights_digest(model.checkpoint)
    return None if model.name.startswith(_TIMM) else weights_digest(weights_file(Path(model.name)))


def _absolute_model(model: PretrainedModel) -> PretrainedModel:
    name = model.name if model.name.startswith(_TIMM) else str(absolute_path(Path(model.name)))
    checkpoint = None if model.checkpoint is None else absolute_path(model.checkpoint)
    return replace(model, name=name, checkpoint=checkpoint)


def elastic_name(model: PretrainedModel, *, image_size: int | None = None) -> str:
    """Return the name of the elastic space of a model.

    Args:
        model: The model.
        image_size: Side of the images; None: that of the model, or that which it was trained with.

    Raises:
        InputError: The file of the model holds no model of timm.
    """
    name, size = model.name, image_size
    if not name.startswith(_TIMM):
        from hwnas.train.weights import read_timm_origin

        origin = read_timm_origin(Path(name))
        name, size = origin.name, image_size or origin.image_size
    at = "" if size is None else f"@{size}"
    return f"elastic:{_TIMM}{name.removeprefix(_TIMM)}{at}{'+sizes' if model.sizes else ''}"


def resolve_data_config(options: TrainOptions) -> DataConfig:
    """Resolve the dataset and its split; the dataset of the run `supernet` keeps the split of that run.

    Raises:
        UsageError: No dataset is named.
        InputError: The options contradict the split of the run.
    """
    weights = options.model_weights
    known = _data_of_run(
        options.supernet if weights is None or weights.checkpoint is None else weights.checkpoint.parent
    )
    name = options.data if options.data is None else absolute_data_name(options.data)
    if known is not None and name in (None, known.name):
        # The weights have been trained on the other images: holding out any of those would overrate the networks.
        for key, value in {"heldout": options.heldout or None, "seed": options.data_seed}.items():
            if value not in (None, getattr(known, key)):
                message = "images that the weights were trained on must not be held out"
                got = f"{key} {value}, and {getattr(known, key)} in the run of the weights"
                raise InputError(message, got=got, hint=f"leave {key} as it is in that run")
        return _with_limits(known if options.heldout != 0 else replace(known, heldout=0.0), options)
    if name is None:
        raise UsageError("a training needs images", hint="--data digits-clutter, or a folder of images")
    config = DataConfig(
        name=name, root=options.root, download=options.download, heldout=options.heldout, seed=options.data_seed or 0
    )
    return _with_limits(config, options)


def read_train_config(run: Run) -> TrainConfig:
    """Read the config of a training from the manifest of its run.

    Raises:
        InputError: The run is not a training, or its config is of another schema.
    """
    config = run.manifest.config
    if "recipe" not in config:
        raise _no_training(run)
    if config.get("schema") != SCHEMA:
        hint = "train again, or use the version of hwnas that made the run"
        raise InputError(
            f"{run.path} must have a config of schema {SCHEMA}", got=shown(config.get("schema")), hint=hint
        )
    return from_mapping(TrainConfig, config, where=f"{run.path / MANIFEST}: config")


def _no_training(run: Run) -> InputError:
    """Make the error for a run of another command; that of a search has a supernet, which is suggested."""
    message, searched = f"{run.path} must be the run of a training", run.manifest.config.get("supernet")
    if not isinstance(searched, Mapping) or not isinstance(searched.get("path"), str):
        return InputError(message, got="another kind of run")
    path = Path(searched["path"])
    supernet = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    hint = f"hwnas evaluate {shlex.quote(supernet)}"
    return InputError(message, got="the run of a search", hint=hint, correction=(str(run.path), supernet))


def longer_training(run: Path, config: TrainConfig) -> str | None:
    """Return the command that trains a run for twice as many epochs; None if it was trained for none."""
    epochs = config.current_recipe.epochs
    return f"hwnas train --out {shlex.quote(str(run))} --resume --epochs {2 * epochs}" if epochs else None


def open_train_config(path: Path) -> TrainConfig | None:
    """Read the config of the run of a training; None for a file.

    Raises:
        InputError: There is neither, the run is not a training, or its config is of another schema.
    """
    with file_errors(path):
        exists, is_folder = path.exists(), path.is_dir()
    if not exists:
        raise missing_run(path, f"there is no run and no file {path}")
    return read_train_config(Run.open(path)) if is_folder else None


def _data_of_run(path: Path | None) -> DataConfig | None:
    if path is None or not (path / MANIFEST).is_file():
        return None
    run = Run.open(path)
    return read_train_config(run).data if "recipe" in run.manifest.config else None


def _with_limits(config: DataConfig, options: TrainOptions) -> DataConfig:
    cache = None if options.cache is None else absolute_path(options.cache)
    limits = {"max_images": options.max_images, "max_bad": options.max_bad, "cache": cache}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    return replace(config, **given)


def resolve_image_shape(options: TrainOptions) -> tuple[int, int, int]:
    """Return channels, height and width of the network's input."""
    return _image_shape_of(options, _resolve_space(options))


def resolve_task(options: TrainOptions) -> Task:
    """Return the task of the networks that are trained."""
    space = _resolve_space(options)
    return "classification" if space is None else space.config.task


def predicts_masks(options: TrainOptions) -> bool:
    """Return True if the networks that are trained predict a mask for each box."""
    space = _resolve_space(options)
    head = None if space is None else space.config.task_head
    return head is not None and head.has_masks


def default_run_folder(options: TrainOptions) -> Path:
    """Return a new folder under `runs`, named for what is trained and the time."""
    elastic = None if options.elastic is None else SPACES.resolve(elastic_name(options.elastic))
    name = (options.model or options.space or elastic or "network").removeprefix(_TIMM)
    return Path("runs") / f"train-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def validate_options(options: TrainOptions) -> None:
    """Raise a UsageError if options exclude each other or what to train is missing."""
    if options.task not in (None, "classification") or options.head is not None:
        for option, value in (
            ("--model", options.model),
            ("--elastic", options.elastic),
            ("--teacher", options.teacher),
        ):
            if value is not None:
                message = "networks for detection and segmentation are those of a space"
                hint = "--space NAME, or --supernet RUN of a trained backbone"
                raise UsageError(message, got=option, hint=hint)
    if options.model is not None and (options.arch is not None or options.supernet is not None):
        raise UsageError("--model trains a model of timm and cannot be combined with --arch or a supernet")
    if options.model_weights is not None and options.model is None:
        raise UsageError("weights of a model of timm need the model", hint="--model timm:NAME")
    if options.elastic is not None:
        _validate_elastic(options)
    of_network = options.arch is not None or options.model is not None or _given_network(options.supernet) is not None
    if options.heldout == 0 and not of_network:
        message = "--heldout 0 is for one network: those of a supernet are evaluated on held-out images"
        raise UsageError(message, hint="--arch or --model, or leave out --heldout")
    if options.epochs == 0 and options.elastic is None:
        raise UsageError("--epochs 0 leaves weights as they are, which only a pretrained model has", hint="--epochs 1")
    if options.model is not None and not options.model.startswith(_TIMM):
        raise UsageError("--model must be timm:NAME", hint=f"--model {_TIMM}{options.model}")
    if options.arch is not None and options.space is None and options.supernet is None:
        raise UsageError("the space of --arch must be given", hint="--space autoformer-micro, or --supernet RUN")
    if options.space is None and options.model is None and options.supernet is None and options.elastic is None:
        hint = (
            "hwnas init DIR, which chooses for your images; or --dry-run, which proposes a space, or --model timm:NAME"
        )
        raise UsageError("what to train must be given", got="no --space", hint=hint)


def check_options(options: TrainOptions) -> None:
    """Raise the errors of options that show without weights and images, and so without torch.

    Raises:
        UsageError: Options exclude each other, or one is missing.
        InputError: A name, a value or a path is not allowed.
    """
    if options.supernet is not None:
        require_path(options.supernet)
    validate_options(options)
    if options.recipe is not None:
        RECIPES.get(options.recipe)
    if options.supernet is not None or options.elastic is not None:  # their weights decide on the rest
        _require_arch_of_run(options)
        return
    space = _resolve_space(options)
    if options.arch is not None:
        assert space is not None
        resolve_arch(space, options.arch, None, command=_arch_command(options))
    resolve_recipe(
        space=space,
        one_network=options.arch is not None or options.model is not None,
        name=options.recipe,
        file=options.config_file,
        overrides=options.overrides,
        epochs=options.epochs,
        batch_size=options.batch_size,
    )
    data = resolve_data_config(options)
    if space is None or space.config.task == "classification":
        require_data(data.name)


def _require_arch_of_run(options: TrainOptions) -> None:
    """Require that a network of a supernet's run is one, where the run says what its space is."""
    if options.arch is None or options.supernet is None or not (options.supernet / SUPERNET).is_file():
        return
    if (options.space, options.task, options.head) != (None, None, None):
        return
    config = open_train_config(options.supernet)
    if config is not None and config.space is not None:
        resolve_arch(config.get_space(), options.arch, options.supernet, command=_arch_command(options))


def _arch_command(options: TrainOptions) -> str:
    source = "--space {space}" if options.supernet is None else f"--supernet {shlex.quote(str(options.supernet))}"
    return f"hwnas train {source} --arch {{arch}}"


def _validate_elastic(options: TrainOptions) -> None:
    assert options.elastic is not None
    others = {
        "--space": options.space,
        "--arch": options.arch,
        "--model": options.model,
        "--supernet": options.supernet,
    }
    given = [name for name, value in others.items() if value is not None]
    if given:
        message = "--elastic names the model whose parts are trained, and cannot be combined with others"
        raise UsageError(message, got=given[0], hint=f"leave out {given[0]}")
    model, is_timm = options.elastic, options.elastic.name.startswith(_TIMM)
    if is_timm and not model.pretrained and model.checkpoint is None:
        message = "an elastic supernet needs the weights of its model"
        hint = "--pretrained, --checkpoint FILE, or --elastic RUN of a model that was trained here"
        raise UsageError(message, got=model.name, hint=hint)
    if not is_timm and (model.pretrained or model.checkpoint is not None):
        message = "--pretrained and --checkpoint are for a model of timm, timm:NAME"
        raise UsageError(message, got=model.name, hint="leave them out: a run has its weights")


def _resolve_space(options: TrainOptions) -> AnySpace | None:
    name = _task_space(options, options.space)
    if options.elastic is not None:
        name = elastic_name(options.elastic, image_size=options.image_size)
    if options.supernet is not None:
        from hwnas.supernet.store import load_supernet

        given = _given_network(options.supernet)
        stored = load_supernet(supernet_file(options.supernet)).space if given is None else given.space
        name = name or _task_space(options, stored.name)
        assert name is not None
        begins_task = classifier_name(SPACES.resolve(name)) == stored.name != SPACES.resolve(name)
        if begins_task and given is None:  # a backbone that was trained as a classifier
            return adapted(SPACES.get(name), image_size=options.image_size, num_classes=options.num_classes)
        if SPACES.resolve(name) != stored.name:
            kind = "supernet" if given is None else "network"
            raise InputError(f"{options.supernet} must hold a {kind} of {name}", got=stored.name)
        name = stored.name
        size, classes = stored.config.image_size, stored.config.num_classes
    elif name is None:
        return None
    else:
        size = classes = None
    return adapted(SPACES.get(name), image_size=options.image_size or size, num_classes=options.num_classes or classes)


def _task_space(options: TrainOptions, name: str | None) -> str | None:
    """Return the name of a space with the head that the options ask for.

    Raises:
        UsageError: The space, the task and the head contradict each other.
    """
    if name is None or (options.task is None and options.head is None):
        return name
    task = options.task or task_of(options.head)
    config = SPACES.get(name).config
    own: Task = config.task
    if options.head is not None and task_of(options.head) != task:
        message = f"--head must be one for {task}"
        raise UsageError(message, got=options.head, hint=f"--head {DEFAULT_HEADS.get(task, 'of another task')}")
    if own == task and (options.head is None or options.head == config.task_head.kind):
        return name
    if own != "classification" or task == "classification":
        message = f"--task {task} must be the task of the networks of the space"
        raise UsageError(message, got=name, hint=f"--space {classifier_name(SPACES.resolve(name))}")
    return f"{options.head or DEFAULT_HEADS[task]}-{name}"


def supernet_file(path: Path) -> Path:
    """Return the file of a supernet: the path itself, or that of a run."""
    return path / SUPERNET if path.is_dir() else path


def first_weights_file(path: Path) -> Path:
    """Return the file of the weights that a training begins with: of a supernet or, if there is none, of a network."""
    require_weights(path)
    network = path / NETWORK
    return network if network.is_file() and not supernet_file(path).is_file() else supernet_file(path)


@dataclass(frozen=True)
class _GivenNetwork:
    """Space and arch of a network whose weights a training begins with."""

    space: AnySpace
    arch: Arch


def _given_network(path: Path | None) -> _GivenNetwork | None:
    """Return the network of a space whose weights a training begins with; None: it begins with others."""
    file = None if path is None else first_weights_file(path)
    if file is None or not file.is_file():
        return None
    from hwnas.supernet.store import read_about

    if read_about(file).get("kind") != "network":
        return None
    state = file.stat()
    return _read_given(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read_given(file: Path, mtime_ns: int, size: int) -> _GivenNetwork:
    """Read a file of a network, which is checked in full, once for all questions about it."""
    from hwnas.supernet.store import load_network

    stored = load_network(file)
    return _GivenNetwork(stored.space, stored.arch)


def _image_shape_of(options: TrainOptions, space: AnySpace | None) -> tuple[int, int, int]:
    if space is not None:
        return space.config.channels, space.config.image_size, space.config.image_size
    size = options.image_size or _TIMM_IMAGE_SIZE
    return 3, size, size
