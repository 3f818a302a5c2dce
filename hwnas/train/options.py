"""Options of a training and the configuration that they are resolved to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas.config import from_mapping, shown
from hwnas.errors import InputError, UsageError
from hwnas.runs import MANIFEST, Run
from hwnas.space import SPACES
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.lookup import adapted, find_arch
from hwnas.space.space import AnySpace
from hwnas.supernet.store import load_supernet
from hwnas.train.data.sources import DataConfig, absolute_data_name
from hwnas.train.evaluation import resolve_arch, weights_digest
from hwnas.train.presets import resolve_recipe
from hwnas.train.recipe import Recipe
from hwnas.train.weights import SUPERNET, weights_file

SCHEMA = "hwnas.train/2"
"""Schema of a training's config in its run's manifest."""

_TIMM = "timm:"
_TIMM_IMAGE_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """A network whose answers join the labels."""

    name: str
    """`timm:NAME`, a file of one network, or a run that holds one."""
    pretrained: bool = False
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training; None selects a default."""

    data: str | None = None
    space: str | None = None
    arch: str | None = None
    """One network of the space, instead of its supernet: in any of the forms that `hwnas describe` takes, or by the id
    of one that was judged in the run that `supernet` is."""
    supernet: Path | None = None
    """A run or a file whose weights are where a supernet, or the network, starts."""
    model: str | None = None
    """A reference model, `timm:NAME`."""
    recipe: str | None = None
    config_file: Path | None = None
    """A TOML file with values of the recipe."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Values of the recipe by dotted name."""
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    image_size: int | None = None
    num_classes: int | None = None
    heldout: float | None = None
    max_images: int | None = None
    data_seed: int | None = None
    """Of the split, and of images that are made; None: 0, or that of the run that `supernet` is."""
    max_bad: int | None = None
    """Unreadable images that are skipped before it is an error."""
    root: Path | None = None
    download: bool = False
    teacher: TeacherOptions | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that the result of a training depends on, but versions and machine: it stands in the run's manifest."""

    data: DataConfig
    recipe: Recipe
    seed: int
    image_size: int
    channels: int
    num_classes: int
    space: str | None = None
    arch: str | None = None
    """One network of the space, as canonical JSON."""
    supernet: Path | None = None
    model: str | None = None
    teacher: TeacherOptions | None = None
    supernet_digest: str | None = None
    """Of what the file of `supernet` held, so that a resumed training starts from nothing else."""
    teacher_digest: str | None = None
    """The same of the teacher's file; None: it has none, or the run is older."""
    schema: str = SCHEMA

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.image_size, self.image_size

    def get_space(self) -> AnySpace:
        """The space at the size and the classes of this training."""
        assert self.space is not None
        return adapted(SPACES.get(self.space), image_size=self.image_size, num_classes=self.num_classes)

    def get_arch(self) -> Arch:
        """The network of the space."""
        assert self.arch is not None
        return find_arch(self.get_space(), self.arch)


def resolved(options: TrainOptions, *, num_classes: int) -> TrainConfig:
    """The config of a training of data with so many classes."""
    space = _space(options)
    size, channels = _images(options, space)
    arch = None
    if options.arch is not None:
        assert space is not None
        found = resolve_arch(space, options.arch, options.supernet, command="--space {space} --arch {arch}")
        (canonical,) = space.decode(space.encode([found]))
        arch = canonical_json(canonical.to_mapping())
    return TrainConfig(
        data=resolve_data_config(options),
        recipe=resolve_recipe(
            space=space,
            one_network=options.arch is not None or options.model is not None,
            name=options.recipe,
            file=options.config_file,
            changes=options.changes,
            epochs=options.epochs,
            batch_size=options.batch_size,
        ),
        seed=options.seed,
        image_size=size,
        channels=channels,
        num_classes=num_classes,
        space=None if space is None or options.model is not None else space.name,
        arch=arch,
        supernet=None if options.supernet is None else options.supernet.resolve(),
        model=options.model,
        teacher=None if options.teacher is None else _absolute_teacher(options.teacher),
        supernet_digest=None if options.supernet is None else weights_digest(supernet_file(options.supernet)),
        teacher_digest=_teacher_digest(options.teacher),
    )


def require_unchanged_weights(config: TrainConfig) -> None:
    """The files that a training began with must hold what they held then."""
    supernet = None if config.supernet is None else weights_digest(supernet_file(config.supernet))
    for option, file, before, now in (
        ("--supernet", config.supernet, config.supernet_digest, supernet),
        ("--teacher", config.teacher and config.teacher.name, config.teacher_digest, _teacher_digest(config.teacher)),
    ):
        if before is not None and now != before:
            message = f"the weights of {option} must be those that the training began with"
            raise InputError(message, got=f"{file}, which has changed", hint="the old file, or another training")


def _teacher_digest(teacher: TeacherOptions | None) -> str | None:
    """Of the file of a teacher's weights, if they are in one."""
    if teacher is None:
        return None
    if teacher.checkpoint is not None:
        return weights_digest(teacher.checkpoint)
    return None if teacher.name.startswith(_TIMM) else weights_digest(weights_file(Path(teacher.name)))


def _absolute_teacher(teacher: TeacherOptions) -> TeacherOptions:
    name = teacher.name if teacher.name.startswith(_TIMM) else str(Path(teacher.name).resolve())
    checkpoint = None if teacher.checkpoint is None else teacher.checkpoint.resolve()
    return replace(teacher, name=name, checkpoint=checkpoint)


def resolve_data_config(options: TrainOptions) -> DataConfig:
    """Resolve the images and their split: those of the run that the weights come from, if it has them."""
    known = _data_of_run(options.supernet)
    name = options.data if options.data is None else absolute_data_name(options.data)
    if known is not None and name in (None, known.name):
        return _same_split(known, options)
    if name is None:
        raise UsageError("a training needs images", hint="--data digits-clutter, or a folder of images")
    plain = DataConfig(
        name=name, root=options.root, download=options.download, heldout=options.heldout, seed=options.data_seed or 0
    )
    return _with_limits(plain, options)


def read_train_config(run: Run) -> TrainConfig:
    """Read the config of a training from the manifest of its run.

    Raises:
        InputError: The run is not a training, or its config is of another schema.
    """
    config = run.manifest.config
    if "recipe" not in config:
        raise InputError(f"{run.path} must be the run of a training", got="another kind of run")
    if config.get("schema") != SCHEMA:
        hint = "train again, or use the version of hwnas that made the run"
        raise InputError(
            f"{run.path} must have a config of schema {SCHEMA}", got=shown(config.get("schema")), hint=hint
        )
    return from_mapping(TrainConfig, config, where=f"{run.path / MANIFEST}: config")


def _data_of_run(path: Path | None) -> DataConfig | None:
    if path is None or not (path / MANIFEST).is_file():
        return None
    run = Run.open(path)
    return read_train_config(run).data if "recipe" in run.manifest.config else None


def _same_split(known: DataConfig, options: TrainOptions) -> DataConfig:
    """The same images held out again: the weights have been trained on the others."""
    asked = {"heldout": options.heldout, "seed": options.data_seed}
    for name, value in asked.items():
        if value not in (None, getattr(known, name)):
            message = "images that the weights were trained on must not be held out"
            got = f"{name} {value}, and {getattr(known, name)} in {options.supernet}"
            raise InputError(message, got=got, hint=f"leave {name} as it is in that run")
    return _with_limits(known, options)


def _with_limits(config: DataConfig, options: TrainOptions) -> DataConfig:
    limits = {"max_images": options.max_images, "max_bad": options.max_bad}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    return replace(config, **given)


def image_shape(options: TrainOptions) -> tuple[int, int, int]:
    """Channels, height and width of the images that the network will take."""
    size, channels = _images(options, _space(options))
    return channels, size, size


def default_run_folder(options: TrainOptions) -> Path:
    """A new folder under `runs`."""
    what = (options.model or options.space or "network").removeprefix(_TIMM)
    return Path("runs") / f"train-{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def validate_options(options: TrainOptions) -> None:
    """Check that the options are consistent."""
    if options.model is not None and (options.arch is not None or options.supernet is not None):
        raise UsageError("--model trains a model of timm and goes with neither --arch nor --supernet")
    if options.model is not None and not options.model.startswith(_TIMM):
        raise UsageError("--model must be timm:NAME", hint=f"--model {_TIMM}{options.model}")
    if options.arch is not None and options.space is None and options.supernet is None:
        raise UsageError("the space of --arch must be said", hint="--space autoformer-micro, or --supernet RUN")
    if options.space is None and options.model is None and options.supernet is None:
        raise UsageError("what is to be trained must be said", hint="--space autoformer-micro, or --model timm:NAME")


def _space(options: TrainOptions) -> AnySpace | None:
    name = options.space
    if options.supernet is not None:
        held = load_supernet(supernet_file(options.supernet)).space
        if name is not None and SPACES.resolve(name) != held.name:
            raise InputError(f"{options.supernet} must hold a supernet of {name}", got=held.name)
        name = held.name
        size, classes = held.config.image_size, held.config.num_classes
    elif name is None:
        return None
    else:
        size = classes = None
    return adapted(SPACES.get(name), image_size=options.image_size or size, num_classes=options.num_classes or classes)


def supernet_file(path: Path) -> Path:
    """The file of a supernet: itself, or that of a run."""
    return path / SUPERNET if path.is_dir() else path


def _images(options: TrainOptions, space: AnySpace | None) -> tuple[int, int]:
    if space is not None:
        return space.config.image_size, space.config.channels
    return options.image_size or _TIMM_IMAGE_SIZE, 3
