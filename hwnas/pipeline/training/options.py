"""What a user asks of a training, and the config that it is worked out to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas.errors import InputError, UsageError
from hwnas.pipeline.archs import adapted, find_arch
from hwnas.pipeline.training.recipes import chosen_recipe
from hwnas.space import SPACES
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.space import Space
from hwnas.supernet.store import load_supernet
from hwnas.train.data.config import DataConfig
from hwnas.train.recipe import Recipe
from hwnas.train.weights import SUPERNET

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
    """What is to be trained, on what and how; None is left to us."""

    data: str | None = None
    space: str | None = None
    arch: str | None = None
    """One network of the space, instead of its supernet: in any of the forms that `hwnas describe` takes."""
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
    limit: int | None = None
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.image_size, self.image_size

    def chosen_space(self) -> Space[Any, Any]:
        """The space at the size and the classes of this training."""
        assert self.space is not None
        return adapted(SPACES.get(self.space), image_size=self.image_size, num_classes=self.num_classes)

    def chosen_arch(self) -> Arch:
        """The network of the space."""
        assert self.arch is not None
        return find_arch(self.chosen_space(), self.arch)


def resolved(options: TrainOptions, *, num_classes: int) -> TrainConfig:
    """The config of a training of data with so many classes."""
    space = _space(options)
    size, channels = _images(options, space)
    arch = None
    if options.arch is not None:
        assert space is not None
        found = find_arch(space, options.arch, command="--space {space} --arch {arch}")
        (canonical,) = space.decode(space.encode([found]))
        arch = canonical_json(canonical.to_mapping())
    return TrainConfig(
        data=data_config(options),
        recipe=chosen_recipe(
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
        supernet=options.supernet,
        model=options.model,
        teacher=options.teacher,
    )


def data_config(options: TrainOptions) -> DataConfig:
    """Which pictures, and how they are split."""
    if options.data is None:
        raise UsageError("a training needs pictures", hint="--data digits-clutter, or a folder of pictures")
    return DataConfig(
        name=options.data,
        root=options.root,
        download=options.download,
        heldout=options.heldout,
        seed=options.seed,
        limit=options.limit,
    )


def image_shape(options: TrainOptions) -> tuple[int, int, int]:
    """Channels, height and width of the images that the network will take."""
    size, channels = _images(options, _space(options))
    return channels, size, size


def default_out(options: TrainOptions) -> Path:
    """A new folder under `runs`."""
    what = (options.model or options.space or "network").removeprefix(_TIMM)
    return Path("runs") / f"train-{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def require_consistent(options: TrainOptions) -> None:
    """What is asked for must go together."""
    if options.model is not None and (options.arch is not None or options.supernet is not None):
        raise UsageError("--model trains a model of timm and goes with neither --arch nor --supernet")
    if options.model is not None and not options.model.startswith(_TIMM):
        raise UsageError("--model must be timm:NAME", hint=f"--model {_TIMM}{options.model}")
    if options.space is None and options.model is None and options.supernet is None:
        raise UsageError("what is to be trained must be said", hint="--space autoformer-micro, or --model timm:NAME")


def _space(options: TrainOptions) -> Space[Any, Any] | None:
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


def _images(options: TrainOptions, space: Space[Any, Any] | None) -> tuple[int, int]:
    if space is not None:
        return space.config.image_size, space.config.channels
    return options.image_size or _TIMM_IMAGE_SIZE, 3
