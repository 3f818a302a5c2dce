"""Datasets by name: opened, checked against a network's input and split into training, held-out and test images."""

import hashlib
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from hwnas.arguments import checked_arguments
from hwnas.config import Between, Seed, require_valid
from hwnas.devices.memory import require_memory
from hwnas.errors import InputError, unknown
from hwnas.files import absolute_path, file_errors, nearest_path, printable, require_file_name, require_regular
from hwnas.train.data.digits import (
    CLUTTER_VERSION,
    HELDOUT_IMAGES,
    NUM_ORIGINALS,
    TEST_IMAGES,
    TRAIN_IMAGES,
    ClutterConfig,
    ClutterSplit,
    make_clutter,
    make_digits,
)
from hwnas.train.data.images import (
    MAX_BAD_IMAGES,
    ImageDataset,
    LabeledItems,
    ObjectDataset,
    number_classes,
    require_names,
    stratified_sample,
    stratified_split,
    subset,
)
from hwnas.train.data.parquet import find_parquet_files, is_parquet, open_parquet
from hwnas.train.data.readers import (
    TEST_FOLDERS,
    FolderDataset,
    ImageFolder,
    find_shards,
    open_shards,
    open_torchvision,
)

_log = logging.getLogger(__name__)

HELDOUT_SHARE = 0.1
"""Share of the training images that is held out by default."""

DIGITS_HELDOUT_SHARE = 0.25
"""The same for `digits`, which has few images."""

TEST_SHARE = 0.1
"""Share that is split off for testing if a dataset has no test images."""

_TEST_SEED = 0
_TEST_WORDS = ("test", "validation", "valid", "val")
_MAX_LISTED = 8
_FOLDER_HINT = "--data DIR, with images in DIR/CLASS for each class"
_EMBEDDED = ("digits", "digits-clutter")


class UnlabelledError(InputError):
    """A folder of images has no classes, and what it is opened for needs them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A dataset and its split."""

    name: str
    """`digits`, `digits-clutter`, a folder of images, a Parquet file or a folder of them, `torch/NAME`, `wds/DIR`."""
    root: Path | None = None
    """Folder of a `torch/` dataset."""
    download: bool = False
    """Allow a `torch/` dataset to be downloaded."""
    heldout: Annotated[float, Between(0, 1e9)] | None = None
    """Training images to hold out: a share below 1, else a number; 0: none; None: the default of the dataset."""
    seed: Seed = 0
    """Decides the split, and the images of `digits-clutter`; test images do not depend on it."""
    max_images: Annotated[int, Between(1, 10**9)] | None = None
    """Train on at most this many images, balanced by class; None: on all."""
    max_bad: Annotated[int, Between(0, 10**9)] = MAX_BAD_IMAGES
    """Unreadable images that are skipped before it is an error."""

    cache: Path | None = None
    """Folder of a file with the training images, decoded and resized once; None: none."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("data must have a name or a path", hint="--data digits-clutter")
        if not self.name.isprintable():  # the bytes of a path that is no UTF-8 are not printable either
            raise InputError("the name of data must be printable text in UTF-8", got=printable(self.name))
        require_valid(self)
        if self.heldout is not None and self.heldout >= 1 and self.heldout != int(self.heldout):
            raise InputError("heldout must be a share between 0 and 1 or a whole number of images", got=self.heldout)


@dataclass(frozen=True)
class DataSplits:
    """A dataset, split into training, held-out and test images."""

    name: str
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels; none of images without classes."""
    train: ImageDataset
    heldout: ImageDataset
    """Split from the training images; a search chooses networks by them."""
    test: ImageDataset | None
    fingerprint: str
    """Digest of the dataset's identity, its split and its labels."""
    notes: tuple[str, ...] = ()
    """What a user should know about the split."""
    whole: ImageDataset | None = None
    """All images of a dataset that does not say which are for training; the last note is then on those split off."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A dataset before it is split."""

    classes: tuple[str, ...]
    train: ImageDataset
    test: ImageDataset | None = None
    heldout: ImageDataset | None = None
    heldout_share: float = HELDOUT_SHARE
    identity: str = ""
    needs_test_split: bool = False
    """True if the dataset does not say which images are for training."""
    notes: tuple[str, ...] = ()


def open_data(
    config: DataConfig, *, image_shape: tuple[int, int, int], num_classes: int | None = None, labelled: bool = True
) -> DataSplits:
    """Open a dataset, check it against a network's input and split it.

    Args:
        config: The dataset and its split.
        image_shape: Channels, height and width of the network's input; embedded datasets are made at this size.
        num_classes: Classes that the dataset must have; None: any number, which the network is then made for.
        labelled: Refuse images without classes. False: a folder of images needs none.

    Raises:
        UnlabelledError: The images of a folder have no classes.
        InputError: The dataset cannot be opened or split, or does not fit the network.
    """
    if image_shape[0] not in (1, 3):
        raise InputError("images have 1 or 3 channels, and so must the space", got=image_shape[0])
    unlabelled = None if labelled else _open_unlabelled(config)
    source = unlabelled or _open(config, image_shape)
    if unlabelled is None:
        _require_classes(source, config.name, num_classes)
    whole = source.train if source.needs_test_split else None
    if source.needs_test_split:
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
        whole,
    )


def _open(config: DataConfig, image_shape: tuple[int, int, int]) -> _Source:
    if config.name == "digits":
        require_memory(12 * NUM_ORIGINALS * image_shape[0] * image_shape[1] ** 2, what="the images of digits")
        train, test = make_digits(image_shape[1], image_shape[0])
        return _Source(
            classes=_numbered(10), train=train, test=test, heldout_share=DIGITS_HELDOUT_SHARE, identity="digits"
        )
    if config.name == "digits-clutter":
        return _open_clutter(config, image_shape)
    for prefix, opener in _PREFIXES.items():
        if config.name.casefold().startswith(prefix):
            return opener(config)
    return _open_path(config)


def _open_clutter(config: DataConfig, image_shape: tuple[int, int, int]) -> _Source:
    train = config.max_images or TRAIN_IMAGES
    amount = HELDOUT_IMAGES if config.heldout is None else config.heldout
    heldout = round(amount * train) if amount < 1 else int(amount)
    channels, size, _ = image_shape
    images = train + heldout + TEST_IMAGES
    require_memory(images * channels * size**2, what=f"{images:,} images of {config.name}")

    def make(split: ClutterSplit, count: int) -> ImageDataset:
        return make_clutter(
            ClutterConfig(split=split, count=count, image_size=size, channels=channels, seed=config.seed)
        )

    return _Source(
        classes=_numbered(10),
        train=make("train", train),
        heldout=make("heldout", heldout) if heldout else None,
        test=make("test", TEST_IMAGES),
        identity=f"digits-clutter {CLUTTER_VERSION} {image_shape} seed {config.seed}",
    )


def require_data(name: str) -> None:
    """Raise an InputError unless data are embedded, of a library, or a folder or file that is there."""
    if name in _EMBEDDED or name.casefold().startswith(tuple(_PREFIXES)):
        return
    path = Path(name)
    with file_errors(path):
        exists = path.exists()
    if not exists:
        near = nearest_path(path)
        if "/" not in name and not path.suffix:
            beside = () if near is None else (str(near),)
            raise unknown("data", name, (*_EMBEDDED, *beside, "a folder", "a Parquet file", "torch/…", "wds/…"))
        hint = f"--data {'digits-clutter' if near is None else shlex.quote(str(near))}"
        raise InputError(f"there is no folder or file {printable(path)}", hint=hint)


def _open_path(config: DataConfig) -> _Source:
    require_data(config.name)
    path = Path(config.name)
    if not path.is_dir():
        require_regular(path)
    with file_errors(path):
        if is_parquet(path):
            return _open_parquet(path)
        if path.is_dir():
            return _open_folder(path)
    raise InputError("data in one file must be Parquet", got=path, hint=_FOLDER_HINT)


def _open_folder(path: Path) -> _Source:
    folder = ImageFolder(path)
    classes = folder.classes()
    if not classes:
        count = len(folder.index.files(folder.train or ""))
        message = f"{path} must have a folder of images for each class"
        if count:
            hint = "a folder for each class, or hwnas train --elastic timm:NAME, which needs none"
            raise UnlabelledError(message, got=f"{count} images without classes", hint=hint)
        with file_errors(path):
            is_empty = not any(path.iterdir())
        got = "an empty folder" if is_empty else "no images"
        raise InputError(message, got=got, hint=_FOLDER_HINT)
    train = folder.dataset(folder.train or "", classes)
    test = folder.dataset(folder.test, classes) if folder.test else None
    folder.index.save()
    return _Source(
        classes=classes,
        train=train,
        test=test,
        identity="folder",
        needs_test_split=folder.train is None,
        notes=tuple(_folder_notes(folder, has_test=test is not None)),
    )


def _folder_notes(folder: ImageFolder, *, has_test: bool) -> Iterator[str]:
    if folder.train and not has_test:
        *names, last = TEST_FOLDERS
        yield _no_test_images(folder.path, f"a folder {'/, '.join(names)}/ or {last}/ beside {folder.train}/")
    if special := sorted(folder.index.special):
        listed = printable(", ".join(special[:_MAX_LISTED]))
        yield f"skipped {len(special)} pipes, sockets or devices among the images: {listed}"


def _open_unlabelled(config: DataConfig) -> _Source | None:
    """Open a folder of images without classes; None: the dataset is of another kind.

    Images in a single subfolder have no classes either.
    """
    path = Path(config.name)
    if config.name in _EMBEDDED or config.name.casefold().startswith(tuple(_PREFIXES)) or not path.is_dir():
        return None
    folder = ImageFolder(path)
    if is_parquet(path) or len(folder.classes()) > 1 or not (keys := folder.index.files(folder.train or "")):
        return None
    others = folder.index.files(folder.test) if folder.test else []
    train, test = (FolderDataset(path, part, np.zeros(len(part), dtype=np.int64)) for part in (keys, others))
    require_names(train)
    require_names(test)
    folder.index.save()
    return _Source(
        classes=(),
        train=train,
        test=test if others else None,
        identity="folder without classes",
        needs_test_split=folder.train is None,
        notes=tuple(_folder_notes(folder, has_test=bool(others))),
    )


def _open_parquet(path: Path) -> _Source:
    files = [path] if path.is_file() else find_parquet_files(path, ("train",))
    if not files:
        raise InputError(f"{path} must have files train*.parquet")
    train, names = open_parquet(files)
    tests = [] if path.is_file() else find_parquet_files(path, _TEST_WORDS)
    test = open_parquet(tests)[0] if tests else None
    notes = (_no_test_images(path, "files test*.parquet"),) if path.is_dir() and test is None else ()
    identity = " ".join(f"{file.name} {file.stat().st_size}" for file in (*files, *tests))
    classes = names or number_classes(train.labels, source=str(path))
    return _Source(
        classes=classes,
        train=train,
        test=test,
        identity=f"parquet {identity}",
        needs_test_split=path.is_file(),
        notes=notes,
    )


@checked_arguments
def register_dataset(
    name: str,
    train: LabeledItems,
    *,
    test: LabeledItems | None = None,
    classes: Sequence[str] | None = None,
    train_labels: Sequence[int] | None = None,
    test_labels: Sequence[int] | None = None,
) -> str:
    """Make a dataset object available under a name, wherever a folder of images is named.

    The name is valid in this process. To resume a run, register the same dataset again; a digest of its labels and of
    its first image verifies that it is the same.

    Args:
        name: A name of your own: letters, digits and `-_.`.
        train: Training images: anything with `__len__` and `__getitem__` that gives pairs of an image (PIL, or uint8 of
            (H, W, 1 or 3)) and a class index. A part of it is held out.
        test: Test images; by default a part of the training images.
        classes: Names of the classes; by default their numbers.
        train_labels: Class indices, if known without reading the images; by default `train.targets`, as in torchvision.
        test_labels: The same of the test images.

    Returns:
        The name to use as `data`: `object/NAME`.

    Raises:
        InputError: The labels do not fit the items or the classes, or there are too few images to hold some out.
    """
    require_file_name(name, what="the name of a dataset")
    parts = [ObjectDataset(train, train_labels)]
    if test is not None:
        parts.append(ObjectDataset(test, test_labels))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.labels.tobytes())
        digest.update(np.asarray(part.read(0)).tobytes() if len(part) else b"")
    source = _Source(
        classes=number_classes(parts[0].labels, source=f"the dataset {name}") if classes is None else tuple(classes),
        train=parts[0],
        test=parts[1] if test is not None else None,
        identity=f"object {digest.hexdigest()}",
        needs_test_split=test is None,
    )
    key = f"{_OBJECT}{name}"
    _require_classes(source, key, None)
    _OBJECTS[key.casefold()] = source
    return key


def _open_object(config: DataConfig) -> _Source:
    key = config.name.casefold()
    if key not in _OBJECTS:
        hint = "hwnas.register_dataset(name, dataset)"
        raise InputError(
            f"the dataset {config.name} must be registered in this process", got=", ".join(_OBJECTS), hint=hint
        )
    return _OBJECTS[key]


def _open_torchvision(config: DataConfig) -> _Source:
    (train, classes), (test, _) = (
        open_torchvision(config.name, root=config.root, train=train, download=config.download)
        for train in (True, False)
    )
    return _Source(classes=classes, train=train, test=test, identity=config.name.casefold())


def _open_shards(config: DataConfig) -> _Source:
    folder = Path(config.name[len("wds/") :])
    files = find_shards(folder, ("train",))
    if not files:
        raise InputError(f"{folder} must be a folder with files *train*.tar", got="none there")
    train = open_shards(files)
    tests = find_shards(folder, _TEST_WORDS)
    test = open_shards(tests) if tests else None
    notes = () if tests else (_no_test_images(folder, "files *test*.tar"),)
    identity = " ".join(f"{file.name} {file.stat().st_size}" for file in (*files, *tests))
    classes = number_classes(train.labels, source=str(folder))
    return _Source(classes=classes, train=train, test=test, identity=f"wds {identity}", notes=notes)


_OBJECT = "object/"
_OBJECTS: dict[str, _Source] = {}

_PREFIXES: dict[str, Callable[[DataConfig], _Source]] = {
    "torch/": _open_torchvision,
    "wds/": _open_shards,
    _OBJECT: _open_object,
}


def absolute_data_name(name: str) -> str:
    """Return a name of data that is valid in every working folder: paths are made absolute, names stay."""
    with file_errors(name, "used as data", also=(ValueError,)):  # ValueError: a NUL character
        if name.casefold().startswith("wds/"):
            return f"{name[:4]}{absolute_path(Path(name[4:]))}"
        if name.casefold().startswith(tuple(_PREFIXES)):
            return name
        path = Path(name)
        return str(absolute_path(path)) if len(path.parts) > 1 or path.is_absolute() or path.is_dir() else name


def short_data_name(name: str) -> str:
    """Return a name of data without the folders that it lies in, for files that others read."""
    return Path(name).name if Path(name.removeprefix("wds/")).is_absolute() else name


def _no_test_images(path: Path, remedy: str) -> str:
    return f"{path} has no test images for a last check of the chosen network; to have some, add {remedy}"


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _require_classes(source: _Source, name: str, num_classes: int | None) -> None:
    count = len(source.classes)
    if count < 2:
        raise InputError(f"{name} must have at least two classes", got=", ".join(source.classes) or "none")
    for part in filter(None, (source.train, source.test, source.heldout)):
        if not len(part):
            raise InputError(f"each part of {name} must have images", got="none")
        require_names(part)
        if part.labels.min() < 0 or part.labels.max() >= count:
            message = f"labels of {name} must be numbers from 0 to {count - 1}"
            raise InputError(message, got=f"{part.labels.min()} to {part.labels.max()}")
    sizes = np.bincount(source.train.labels, minlength=count)
    if sizes.min() < 2:
        few = [source.classes[label] for label in np.flatnonzero(sizes < 2)[:8]]
        message = f"every class of {name} must have two training images, one of them to hold out"
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
        notes=(
            *source.notes,
            f"{len(test):,} of {len(test) + len(train):,} images ({TEST_SHARE:.0%}) were split off for testing: "
            "the dataset has none",
        ),
    )


def _split(source: _Source, config: DataConfig) -> tuple[ImageDataset, ImageDataset]:
    if source.heldout is not None:
        return source.train, source.heldout
    amount = source.heldout_share if config.heldout is None else config.heldout
    if not amount:
        return source.train, subset(source.train, ())
    train, heldout = stratified_split(source.train.labels, amount, seed=config.seed)
    return subset(source.train, train), subset(source.train, heldout)


def _fingerprint(source: _Source, train: ImageDataset, heldout: ImageDataset) -> str:
    # Names of files that are no UTF-8 have surrogates in Python.
    digest = hashlib.sha256("\n".join((source.identity, *source.classes)).encode("utf-8", "surrogatepass"))
    for part in (train, heldout, source.test):
        digest.update(b"\0")
        if part is not None:
            digest.update("\n".join(part.keys).encode("utf-8", "surrogatepass"))
            digest.update(np.ascontiguousarray(part.labels, dtype="<i8").tobytes())
    return digest.hexdigest()[:24]
