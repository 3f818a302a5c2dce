"""From the name of a set of pictures to what is trained on, selected on and judged with in the end."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.train.data.digits import (
    HELDOUT_PICTURES,
    TEST_PICTURES,
    TRAIN_PICTURES,
    VERSION,
    ClutterConfig,
    Split,
    digits,
    make_clutter,
)
from hwnas.train.data.images import ImageDataset, stratified_sample, stratified_split, subset
from hwnas.train.data.parquet import find_parquet_files, is_parquet, open_parquet
from hwnas.train.data.readers import ImageFolder, find_shards, open_shards, open_torch

_log = logging.getLogger(__name__)

HELDOUT_SHARE = 0.1
"""What is held out where nobody says."""

DIGITS_HELDOUT_SHARE = 0.25
"""The same of `digits`, of which there are few."""

TEST_SHARE = 0.1
"""What is split off for testing from a set without test pictures."""

_TEST_SEED = 0
_TEST_WORDS = ("test", "validation", "valid", "val")
_EMBEDDED = ("digits", "digits-clutter")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A set of pictures and how it is split."""

    name: str
    """`digits`, `digits-clutter`, a folder of pictures, a Parquet file or a folder of them, `torch/NAME`, `wds/DIR`."""
    root: Path | None = None
    """Where a `torch/` set lies."""
    download: bool = False
    """Whether a `torch/` set may be downloaded."""
    heldout: float | None = None
    """How much of the training pictures is held out: below 1 a share, else a number; None: what suits the set."""
    seed: int = 0
    """Of the split, and of pictures that are made; the test pictures do not depend on it."""
    max_images: int | None = None
    """How many training pictures are used, balanced by class; None: all."""
    max_bad: int = 50
    """How many unreadable pictures are skipped before it is an error."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("data must have a name or a path", hint="--data digits-clutter")
        _require_heldout(self.heldout)
        if self.max_images is not None and self.max_images < 1:
            raise InputError("max_images must be at least 1", got=self.max_images)
        if self.max_bad < 0:
            raise InputError("max_bad must not be negative", got=self.max_bad)
        if self.seed < 0:
            raise InputError("the seed of the data must not be negative", got=self.seed)


def _require_heldout(amount: float | None) -> None:
    if amount is not None and not (0 < amount < 1 or (amount >= 1 and amount == int(amount))):
        raise InputError("heldout must be a share between 0 and 1 or a whole number of pictures", got=amount)


@dataclass(frozen=True)
class DataSplits:
    """A set of pictures, split."""

    name: str
    classes: tuple[str, ...]
    train: ImageDataset
    heldout: ImageDataset
    """Split from the training pictures: what a search selects on."""
    test: ImageDataset | None
    fingerprint: str
    """Digest of what the set is, of its split and its labels."""
    notes: tuple[str, ...] = ()
    """What a user should know about the split."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A set before it is split."""

    classes: tuple[str, ...]
    train: ImageDataset
    test: ImageDataset | None = None
    heldout: ImageDataset | None = None
    heldout_share: float = HELDOUT_SHARE
    identity: str = ""
    whole: bool = False
    """Whether test pictures must be split off, because nothing says which are for training."""
    notes: tuple[str, ...] = ()


def open_data(config: DataConfig, *, image_shape: tuple[int, int, int], num_classes: int | None = None) -> DataSplits:
    """Open a set of pictures, check it against what a network takes, and split it.

    Without `num_classes` the set may have any number of classes, which the network will be made for.
    """
    _require_shape(image_shape)
    source = _opened(config, image_shape)
    _require_classes(source, config.name, num_classes)
    if source.whole:
        source = _with_test(source)
    train, heldout = _split(source, config)
    if config.max_images is not None and config.max_images < len(train):
        train = subset(train, stratified_sample(train.labels, config.max_images, seed=config.seed))
    test = 0 if source.test is None else len(source.test)
    _log.info("%s: %d training, %d held-out and %d test images", config.name, len(train), len(heldout), test)
    return DataSplits(
        config.name,
        source.classes,
        train,
        heldout,
        source.test,
        _fingerprint(source, train, heldout),
        source.notes,
    )


def _opened(config: DataConfig, image_shape: tuple[int, int, int]) -> _Source:
    if config.name == "digits":
        train, test = digits(image_shape[1], image_shape[0])
        return _Source(
            classes=_numbered(10), train=train, test=test, heldout_share=DIGITS_HELDOUT_SHARE, identity="digits"
        )
    if config.name == "digits-clutter":
        return _clutter(config, image_shape)
    for prefix, opener in _PREFIXES.items():
        if config.name.casefold().startswith(prefix):
            return opener(config)
    return _path(config)


def _clutter(config: DataConfig, image_shape: tuple[int, int, int]) -> _Source:
    train = config.max_images or TRAIN_PICTURES
    heldout = HELDOUT_PICTURES if config.heldout is None else _count(config.heldout, train)
    channels, size, _ = image_shape

    def made(split: Split, count: int) -> ImageDataset:
        return make_clutter(
            ClutterConfig(split=split, count=count, image_size=size, channels=channels, seed=config.seed)
        )

    return _Source(
        classes=_numbered(10),
        train=made("train", train),
        heldout=made("heldout", heldout),
        test=made("test", TEST_PICTURES),
        identity=f"digits-clutter {VERSION} {image_shape} seed {config.seed}",
    )


def _count(amount: float, total: int) -> int:
    return round(amount * total) if amount < 1 else int(amount)


def _path(config: DataConfig) -> _Source:
    path = Path(config.name)
    if not path.exists():
        if "/" not in config.name and not path.suffix:
            raise unknown("data", config.name, (*_EMBEDDED, "a folder", "a Parquet file", "torch/…", "wds/…"))
        raise InputError(f"there is no folder or file {path}", hint="--data digits-clutter")
    if is_parquet(path):
        return _parquet(path)
    if path.is_dir():
        return _folder(path)
    raise InputError("data in one file must be Parquet", got=path)


def _folder(path: Path) -> _Source:
    folder = ImageFolder(path)
    classes = folder.classes()
    if not classes:
        raise InputError(f"{path} must have a folder of pictures for each class", got="no folders")
    train = folder.images(folder.train or path, classes)
    test = folder.images(folder.test, classes) if folder.test else None
    notes = (f"{path} has no test pictures",) if folder.train and test is None else ()
    return _Source(classes=classes, train=train, test=test, identity="folder", whole=folder.train is None, notes=notes)


def _parquet(path: Path) -> _Source:
    files = [path] if path.is_file() else find_parquet_files(path, ("train",))
    if not files:
        raise InputError(f"{path} must have files train*.parquet")
    train, names = open_parquet(files)
    tests = [] if path.is_file() else find_parquet_files(path, _TEST_WORDS)
    test = open_parquet(tests)[0] if tests else None
    notes = (f"{path} has no test pictures",) if path.is_dir() and test is None else ()
    identity = " ".join(f"{file.name} {file.stat().st_size}" for file in (*files, *tests))
    classes = names or _numbered(int(train.labels.max(initial=-1)) + 1)
    return _Source(
        classes=classes, train=train, test=test, identity=f"parquet {identity}", whole=path.is_file(), notes=notes
    )


def _torch(config: DataConfig) -> _Source:
    (train, classes), (test, _) = (
        open_torch(config.name, root=config.root, train=train, download=config.download) for train in (True, False)
    )
    return _Source(classes=classes, train=train, test=test, identity=config.name.casefold())


def _shards(config: DataConfig) -> _Source:
    folder = Path(config.name[len("wds/") :])
    files = find_shards(folder, ("train",))
    if not files:
        raise InputError(f"{folder} must be a folder with files *train*.tar", got="none there")
    train = open_shards(files)
    tests = find_shards(folder, _TEST_WORDS)
    test = open_shards(tests) if tests else None
    notes = () if tests else (f"{folder} has no test pictures",)
    identity = " ".join(f"{file.name} {file.stat().st_size}" for file in (*files, *tests))
    return _Source(
        classes=_numbered(int(train.labels.max()) + 1), train=train, test=test, identity=f"wds {identity}", notes=notes
    )


_PREFIXES: dict[str, Callable[[DataConfig], _Source]] = {"torch/": _torch, "wds/": _shards}


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _require_shape(image_shape: tuple[int, int, int]) -> None:
    if image_shape[0] not in (1, 3):
        raise InputError("pictures have 1 or 3 channels, and so must the images of the space", got=image_shape[0])


def _require_classes(source: _Source, name: str, num_classes: int | None) -> None:
    count = len(source.classes)
    if count < 2:
        raise InputError(f"{name} must have at least two classes", got=", ".join(source.classes) or "none")
    for part in filter(None, (source.train, source.test, source.heldout)):
        if not len(part):
            raise InputError(f"each part of {name} must have pictures", got="none")
        if part.labels.min() < 0 or part.labels.max() >= count:
            message = f"labels of {name} must be numbers from 0 to {count - 1}"
            raise InputError(message, got=f"{part.labels.min()} to {part.labels.max()}")
    sizes = np.bincount(source.train.labels, minlength=count)
    if sizes.min() < 2:
        few = [source.classes[label] for label in np.flatnonzero(sizes < 2)[:8]]
        message = f"every class of {name} must have two training pictures, one of them to hold out"
        raise InputError(message, got=f"fewer in {', '.join(few)}")
    if num_classes not in (None, count):
        message = f"{name} has {count} classes, and so must the network"
        raise InputError(message, got=num_classes, hint=f"a network for {count} classes")


def _with_test(source: _Source) -> _Source:
    train, test = stratified_split(source.train.labels, TEST_SHARE, seed=_TEST_SEED)
    return _Source(
        classes=source.classes,
        train=subset(source.train, train),
        test=subset(source.train, test),
        identity=source.identity,
        notes=(f"{len(test)} pictures ({TEST_SHARE:.0%}) were split off for testing: the set has no test pictures",),
    )


def _split(source: _Source, config: DataConfig) -> tuple[ImageDataset, ImageDataset]:
    if source.heldout is not None:
        return source.train, source.heldout
    amount = source.heldout_share if config.heldout is None else config.heldout
    train, heldout = stratified_split(source.train.labels, amount, seed=config.seed)
    return subset(source.train, train), subset(source.train, heldout)


def _fingerprint(source: _Source, train: ImageDataset, heldout: ImageDataset) -> str:
    digest = hashlib.sha256("\n".join((source.identity, *source.classes)).encode())
    for part in (train, heldout, source.test):
        digest.update(b"\0")
        if part is not None:
            digest.update("\n".join(part.keys).encode())
            digest.update(np.ascontiguousarray(part.labels, dtype="<i8").tobytes())
    return digest.hexdigest()[:24]
