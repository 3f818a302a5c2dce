"""Evaluation of the networks of a supernet on a dataset."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hwnas.metrics import QUANTISED
from hwnas.space.space import AnySpace
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.families import make_supernet
from hwnas.supernet.store import load_supernet
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.data.images import stratified_sample, subset
from hwnas.train.data.loader import Batch, EvalLoader, TrainLoader
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluator import (
    CalibrationImages,
    DecodedOnce,
    SupernetEvaluator,
)
from hwnas.train.executor import EvalPrecision, Executor
from hwnas.train.fake_quantisation import CALIBRATION_IMAGES
from hwnas.train.quality import GALLERY_IMAGES, QualityEvaluator

Split = Literal["heldout", "test"]

_BATCH_SIZE = 256
_CALIBRATION_BATCHES, _CALIBRATION_BATCH_SIZE = 20, 128
"""Training images that the statistics of batch norms are estimated from."""
_QUANTISATION_BATCH_SIZE = 64


def make_evaluator(
    supernet: AnySupernet,
    data: DataSplits,
    *,
    checkpoint_id: str,
    split: Split = "heldout",
    cache: Path | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    precision: EvalPrecision = "fp32",
    keep_hits: bool = False,
    executor: Executor | None = None,
) -> SupernetEvaluator:
    """Create the evaluator of a supernet's networks on one split of a dataset.

    Args:
        supernet: Supernet with the weights.
        data: Dataset; its training images recalibrate batch norms.
        checkpoint_id: Identifies the weights in the cache.
        split: Evaluate on held-out or on test images.
        cache: File of the cache.
        workers: Processes that load images.
        device: Device that networks run on.
        precision: Precision that networks are evaluated in; int8 is calibrated on training images.
        keep_hits: Keep which images are classified correctly.
        executor: Evaluates networks; None: this process does.
    """
    shape = supernet.space.config.input_shape
    return SupernetEvaluator(
        supernet,
        make_eval_loader(data, shape, split=split, workers=workers),
        checkpoint_id=checkpoint_id,
        split_id=f"{data.fingerprint} {split}",
        recalibration=calibration_batches(data, shape),
        cache=cache,
        device=device,
        precision=precision,
        calibration=quantisation_images(data, shape) if precision in QUANTISED else None,
        keep_hits=keep_hits,
        executor=executor,
    )


def make_quality_evaluator(
    supernet: ElasticSupernet,
    data: DataSplits,
    quality: str,
    *,
    original: Path,
    batches: Iterable[Batch],
    device: torch.device | str = "cpu",
    executor: Executor | None = None,
) -> QualityEvaluator:
    """Create the evaluator of the networks inside a pretrained model by a metric that needs no classifier.

    Args:
        supernet: Supernet with the weights.
        data: Dataset; its training images are the gallery of `knn_accuracy`.
        quality: `divergence` or `knn_accuracy`.
        original: File of the model that `divergence` is from.
        batches: Images to evaluate on.
        device: Device that networks run on.
        executor: Evaluates networks; None: this process does.
    """
    if quality == "knn_accuracy":
        gallery = gallery_batches(data, supernet.space.config.input_shape)
        return QualityEvaluator(supernet, batches, device=device, gallery=gallery, executor=executor)
    original_supernet = load_original(original, space=supernet.space)
    model = original_supernet.subnet(supernet.space.largest())
    return QualityEvaluator(supernet, batches, device=device, model=model, executor=executor)


def load_original(file: Path, *, space: AnySpace) -> AnySupernet:
    """Load a supernet with the weights that an elastic training began with.

    Args:
        file: The file of the model in the run.
        space: Space of the supernet: that of the file, or the same with other images and patches.
    """
    given = load_supernet(file)
    supernet = make_supernet(space, given.config)
    supernet.load_state_dict(given.state_dict())
    return supernet.eval()


def make_eval_loader(
    data: DataSplits, image_shape: tuple[int, int, int], *, split: Split, workers: int = 0
) -> EvalLoader:
    """Create the loader of a split, which the dataset must have."""
    images = data.heldout if split == "heldout" else data.test
    assert images is not None
    return EvalLoader(images, image_shape=image_shape, batch_size=_BATCH_SIZE, workers=workers)


def calibration_batches(data: DataSplits, image_shape: tuple[int, int, int]) -> Iterable[Batch]:
    """Return training images without augmentation, the same whenever they are iterated over."""
    return _FirstBatches(unaugmented_loader(data, image_shape, batch_size=_CALIBRATION_BATCH_SIZE))


def unaugmented_loader(data: DataSplits, image_shape: tuple[int, int, int], *, batch_size: int = 64) -> TrainLoader:
    """Create a loader of training images as they are evaluated, in an order that is always the same."""
    no_augmentation = AugmentConfig(crop="none", scale=(1.0, 1.0), flip=0.0)
    return TrainLoader(data.train, augment=no_augmentation, image_shape=image_shape, batch_size=batch_size, seed=0)


def quantisation_images(data: DataSplits, image_shape: tuple[int, int, int]) -> CalibrationImages:
    """Return the training images that int8 is calibrated on, without augmentation; those of an export by default."""
    count = min(CALIBRATION_IMAGES, len(data.train))
    rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[:count])
    loader = EvalLoader(subset(data.train, rows), image_shape=image_shape, batch_size=_QUANTISATION_BATCH_SIZE)
    return CalibrationImages(name=f"{count} images, minmax", batches=loader)


def gallery_batches(data: DataSplits, image_shape: tuple[int, int, int]) -> Iterable[Batch]:
    """Return the training images that vote for the class of others, balanced by class."""
    rows = stratified_sample(data.train.labels, min(GALLERY_IMAGES, len(data.train)), seed=0)
    return DecodedOnce(EvalLoader(subset(data.train, rows), image_shape=image_shape, batch_size=_BATCH_SIZE))


class _FirstBatches:
    """The first batches of a loader's first epoch, which can be iterated over repeatedly."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._loader.epoch(0), _CALIBRATION_BATCHES)
