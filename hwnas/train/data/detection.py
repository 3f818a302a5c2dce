"""Datasets with boxes, or with a class for each pixel, by name: opened, and split as those for classification are."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, printable
from hwnas.train.data.coco import find_coco, open_coco
from hwnas.train.data.digits import ClutterSplit
from hwnas.train.data.digits_scene import HELDOUT_SCENES, SCENE_VERSION, TEST_SCENES, TRAIN_SCENES, DigitsScenes
from hwnas.train.data.images import Indices
from hwnas.train.data.samples import (
    IGNORED,
    AnnotatedData,
    AnnotatedDataset,
    AnnotatedImages,
    AnnotatedSource,
    SemanticImages,
    Task,
    require_image_size,
)
from hwnas.train.data.sources import HELDOUT_SHARE, TEST_SHARE
from hwnas.train.data.voc import is_voc, open_voc

DIGITS_SCENE = "digits-scene"
"""Name of the embedded dataset."""

_TEST_SEED = 0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How a dataset is opened."""

    name: str
    task: Task
    image_size: int
    heldout: float | None
    seed: int
    max_images: int | None
    masks: bool = True


def load_detection(
    name: str,
    *,
    image_size: int,
    heldout: float | None = None,
    seed: int = 0,
    max_images: int | None = None,
    masks: bool = True,
) -> AnnotatedData:
    """Open a dataset of images with boxes.

    Args:
        name: `digits-scene`, or a folder in COCO's or Roboflow's layout.
        image_size: Side of the square that images are letterboxed to.
        heldout: Training images to hold out: a share below 1, else a number; 0: none; None: the default of the dataset.
        seed: Decides the split, and the scenes of `digits-scene`; test images do not depend on it.
        max_images: Train on at most this many images; None: on all.
        masks: Read the masks of boxes if the dataset has them.

    Raises:
        InputError: The dataset cannot be opened or split.
    """
    return _open(
        _Options(
            name=name,
            task="detection",
            image_size=image_size,
            heldout=heldout,
            seed=seed,
            max_images=max_images,
            masks=masks,
        )
    )


def load_segmentation(
    name: str, *, image_size: int, heldout: float | None = None, seed: int = 0, max_images: int | None = None
) -> AnnotatedData:
    """Open a dataset of images with a class for each pixel.

    Args:
        name: `digits-scene`, a folder in the layout of Pascal VOC, or one in COCO's layout whose boxes have masks.
        image_size: As for `load_detection`.
        heldout: As for `load_detection`.
        seed: As for `load_detection`.
        max_images: As for `load_detection`.

    Raises:
        InputError: The dataset cannot be opened or split.
    """
    return _open(
        _Options(
            name=name,
            task="segmentation",
            image_size=image_size,
            heldout=heldout,
            seed=seed,
            max_images=max_images,
        )
    )


def _open(options: _Options) -> AnnotatedData:
    require_image_size(options.image_size)
    amount = options.heldout
    if amount is not None and not (0 <= amount < 1 or (amount >= 1 and float(amount).is_integer())):
        raise InputError("heldout must be a share between 0 and 1 or a whole number of images", got=amount)
    if options.max_images is not None and options.max_images < 1:
        raise InputError("max_images must be at least 1", got=options.max_images)
    data = _open_scenes(options) if options.name == DIGITS_SCENE else _split(_open_folder(options), options)
    counts = (len(data.train), len(data.heldout), 0 if data.test is None else len(data.test))
    _log.info("%s: %d training, %d held-out and %d test images", options.name, *counts)
    return data


def _open_scenes(options: _Options) -> AnnotatedData:
    train = min(options.max_images or TRAIN_SCENES, TRAIN_SCENES)
    amount = HELDOUT_SCENES if options.heldout is None else options.heldout
    heldout = round(amount * train) if amount < 1 else int(amount)

    def make(split: ClutterSplit, count: int) -> AnnotatedDataset:
        scenes = DigitsScenes(split=split, count=count, image_size=options.image_size, seed=options.seed)
        return _part(scenes if options.task == "detection" else SemanticImages(scenes), np.arange(count), options)

    source = AnnotatedSource(
        classes=tuple(map(str, range(10))),
        train=make("train", 0).images,
        test=None,
        masks=True,
        identity=f"{DIGITS_SCENE} {SCENE_VERSION} seed {options.seed}",
    )
    parts = make("train", train), make("heldout", heldout), make("test", TEST_SCENES)
    # A mirrored 2 is no 2.
    return replace(_data(source, options, *parts), flip=False)


def _open_folder(options: _Options) -> AnnotatedSource:
    path = Path(options.name)
    with file_errors(path):
        is_folder = path.is_dir()
    if not is_folder:
        if "/" not in options.name and not path.suffix:
            raise unknown("data", options.name, (DIGITS_SCENE, "a folder"))
        raise InputError(f"there is no folder {printable(path)}", hint=f"--data {DIGITS_SCENE}")
    if parts := find_coco(path):
        source = open_coco(*parts, masks=options.masks)
        return source if options.task == "detection" else _semantic(source, path)
    if is_voc(path):
        if options.task == "detection":
            raise InputError(f"{path} has no boxes", got="classes of pixels", hint="--task segmentation")
        return open_voc(path)
    layouts = "annotations/instances_train*.json, train/_annotations.coco.json, or VOC's SegmentationClass and lists"
    raise InputError(f"{path} must have {layouts}", got="none of them")


def _semantic(source: AnnotatedSource, path: Path) -> AnnotatedSource:
    """Return the instances of a dataset as classes of pixels."""
    if not source.masks:
        got = source.notes[0] if source.notes else "boxes alone"
        raise InputError(f"the boxes of {path} must have masks", got=got, hint="--task detection")
    test = None if source.test is None else SemanticImages(source.test)
    return replace(source, train=SemanticImages(source.train), test=test)


def _split(source: AnnotatedSource, options: _Options) -> AnnotatedData:
    train = np.arange(len(source.train.keys))
    test = None
    if source.test is not None:
        test = _part(source.test, np.arange(len(source.test.keys)), options)
    else:
        train, chosen = _split_off(train, TEST_SHARE, seed=_TEST_SEED, what="test")
        test = _part(source.train, chosen, options)
        note = f"{len(chosen)} images ({TEST_SHARE:.0%}) were split off for testing: the dataset has none"
        source = replace(source, notes=(*source.notes, note))
    amount = HELDOUT_SHARE if options.heldout is None else options.heldout
    heldout = train[:0]
    if amount:
        train, heldout = _split_off(train, amount, seed=options.seed, what="held-out")
    if options.max_images is not None and options.max_images < len(train):
        train = _split_off(train, options.max_images, seed=options.seed, what="training")[1]
    trained = replace(_part(source.train, train, options), crowds=False)
    return _data(source, options, trained, _part(source.train, heldout, options), test)


def _split_off(indices: Indices, amount: float, *, seed: int, what: str) -> tuple[Indices, Indices]:
    """Return the images that stay, and those split off: a share below 1, at least one, else a number."""
    count = max(round(amount * len(indices)), 1) if amount < 1 else int(amount)
    if count >= len(indices):
        message = f"there must be training images beside the {what} images"
        raise InputError(message, got=f"{len(indices)} images, {count} of them {what} images")
    order = np.random.default_rng(seed).permutation(len(indices))
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


def _part(images: AnnotatedImages, indices: Indices, options: _Options) -> AnnotatedDataset:
    return AnnotatedDataset(images=images, indices=indices, image_size=options.image_size, masks=options.masks)


def _data(
    source: AnnotatedSource,
    options: _Options,
    train: AnnotatedDataset,
    heldout: AnnotatedDataset,
    test: AnnotatedDataset,
) -> AnnotatedData:
    if options.task == "segmentation" and len(source.classes) >= IGNORED:
        message = f"images with a class for each pixel must have at most {IGNORED - 1} classes beside the background"
        raise InputError(message, got=len(source.classes), hint=f"{IGNORED} stands for pixels that do not count")
    return AnnotatedData(
        name=options.name,
        task=options.task,
        classes=source.classes,
        image_size=options.image_size,
        train=train,
        heldout=heldout,
        test=test,
        fingerprint=_fingerprint(source, options, (train, heldout, test)),
        notes=source.notes,
        masks=source.masks and options.masks and options.task == "detection",
    )


def _fingerprint(source: AnnotatedSource, options: _Options, parts: tuple[AnnotatedDataset, ...]) -> str:
    lines = [source.identity, options.task, str(options.image_size), *source.classes]
    digest = hashlib.sha256("\n".join(lines).encode())
    for part in parts:
        digest.update(b"\0" + "\n".join(part.keys).encode())
    return digest.hexdigest()[:24]
