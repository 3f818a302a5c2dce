"""Evaluation of the networks of a supernet on a dataset, and networks by the id that they were evaluated under."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hwnas.errors import InputError
from hwnas.files import read_bytes
from hwnas.metrics import QUANTISED
from hwnas.space.arch import Arch
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace, Candidate
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
    parse_accuracies,
)
from hwnas.train.executor import EvalPrecision, Executor
from hwnas.train.fake_quantisation import CALIBRATION_IMAGES
from hwnas.train.quality import GALLERY_IMAGES, QualityEvaluator

ACCURACIES_FILE = "accuracies.jsonl"
"""File of a run that caches the accuracies of its networks."""

Split = Literal["heldout", "test"]

_BATCH_SIZE = 256
_CALIBRATION_BATCHES, _CALIBRATION_BATCH_SIZE = 20, 128
"""Training images that the statistics of batch norms are estimated from."""
_QUANTISATION_BATCH_SIZE = 64
_ID = re.compile(r"[0-9a-f]{4,64}", re.IGNORECASE)
"""An id of a network, or its first digits; as few as four, as git takes of commits."""


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


def resolve_arch(
    space: AnySpace, text: str, run: Path | None, *, command: str, others: Iterable[Candidate] = ()
) -> Arch:
    """Find a network by a name, JSON or a file, as `find_arch` does, or by its id.

    Args:
        space: Space of the network.
        text: As for `find_arch`, or the first digits of an id, at least four. Ids are known of networks that were
            evaluated in the run, of published ones, of the smallest and the largest, and of `others`.
        run: Run whose evaluated networks are known.
        command: Command of the hint in an error, with the placeholders `{space}` and `{arch}`.
        others: Further networks whose ids are known.

    Raises:
        InputError: No network, or more than one, has this id.
    """
    if not _ID.fullmatch(text) or text in space.published or Path(text).is_file():
        return find_arch(space, text, command=command)
    matches = {arch_id: arch for arch_id, arch in _known_ids(space, run, others) if arch_id.startswith(text.casefold())}
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        raise InputError("an id must have enough digits to match one network", got=text, known=sorted(matches))
    where = space.name if run is None else str(run)
    hint = command.format(space=space.name, arch="'{…}'") + ", the network as JSON"
    raise InputError(f"no network with this id was evaluated in {where}", got=text, hint=hint)


class _FirstBatches:
    """The first batches of a loader's first epoch, which can be iterated over repeatedly."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._loader.epoch(0), _CALIBRATION_BATCHES)


def _known_ids(space: AnySpace, run: Path | None, others: Iterable[Candidate]) -> Iterator[tuple[str, Arch]]:
    named = (space.smallest(), space.largest(), *space.published.values())
    for candidate in (*space.candidates(space.encode(named)), *others):
        yield candidate.arch_id, candidate.arch
    file = None if run is None else run / ACCURACIES_FILE
    if file is not None and file.is_file():
        complete = read_bytes(file).rpartition(b"\n")[0]
        for row in parse_accuracies(complete, file):
            if "arch" in row:
                yield row["arch_id"], space.parse(row["arch"])
