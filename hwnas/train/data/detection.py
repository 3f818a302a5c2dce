"""Datasets with boxes, or with a class for each pixel, by name: opened, and split as those for classification are."""

import hashlib

import numpy as np

from hwnas.errors import InputError, unknown
from hwnas.train.data.digits_scene import HELDOUT_SCENES, SCENE_VERSION, TEST_SCENES, TRAIN_SCENES, DigitsScenes
from hwnas.train.data.samples import (
    AnnotatedData,
    AnnotatedDataset,
    SemanticImages,
    Task,
    require_image_size,
)

_EMBEDDED = ("digits-scene",)


def load_detection(
    name: str, *, image_size: int, heldout: float | None = None, seed: int = 0, max_images: int | None = None
) -> AnnotatedData:
    """Open a dataset of images with boxes.

    Args:
        name: `digits-scene`.
        image_size: Side of the square that images are letterboxed to.
        heldout: Training images to hold out: a share below 1, else a number; 0: none; None: the default of the dataset.
        seed: Decides the split, and the scenes of `digits-scene`; test images do not depend on it.
        max_images: Train on at most this many images; None: on all.

    Raises:
        InputError: The dataset cannot be opened or split.
    """
    return _load(name, "detection", image_size, heldout, seed, max_images)


def load_segmentation(
    name: str, *, image_size: int, heldout: float | None = None, seed: int = 0, max_images: int | None = None
) -> AnnotatedData:
    """Open a dataset of images with a class for each pixel; arguments as for `load_detection`."""
    return _load(name, "segmentation", image_size, heldout, seed, max_images)


def _load(
    name: str, task: Task, image_size: int, heldout: float | None, seed: int, max_images: int | None
) -> AnnotatedData:
    require_image_size(image_size)
    if heldout is not None and not (0 <= heldout < 1 or heldout in range(10**9)):
        raise InputError("heldout must be a share between 0 and 1 or a whole number of images", got=heldout)
    if name == "digits-scene":
        return _digits_scene(task, image_size, heldout, seed, max_images)
    raise unknown("data", name, _EMBEDDED)


def _digits_scene(
    task: Task, image_size: int, heldout: float | None, seed: int, max_images: int | None
) -> AnnotatedData:
    train = min(max_images or TRAIN_SCENES, TRAIN_SCENES)
    amount = HELDOUT_SCENES if heldout is None else heldout
    counts = {"train": train, "heldout": round(amount * train) if amount < 1 else int(amount), "test": TEST_SCENES}

    def make(split: str) -> AnnotatedDataset:
        scenes = DigitsScenes(split=split, count=counts[split], image_size=image_size, seed=seed)  # type: ignore[arg-type]
        images = scenes if task == "detection" else SemanticImages(scenes)
        return AnnotatedDataset(images=images, indices=np.arange(counts[split]), image_size=image_size)

    identity = f"digits-scene {SCENE_VERSION} {task} {image_size} seed {seed} {counts}"
    return AnnotatedData(
        name="digits-scene",
        task=task,
        classes=tuple(map(str, range(10))),
        image_size=image_size,
        train=make("train"),
        heldout=make("heldout"),
        test=make("test"),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:24],
        flip=False,
    )
