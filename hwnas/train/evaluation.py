"""Accuracy in a run: a judge of its sub-networks, and the file that remembers what it found."""

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from hwnas.errors import InputError
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.accuracy import Judge
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.data.loading import Batch, EvalBatches, TrainBatches
from hwnas.train.data.sources import Data

ACCURACIES = "accuracies.jsonl"
"""The file of a run that remembers the accuracies of its networks."""

Split = Literal["heldout", "test"]
_BATCH_SIZE = 256
_CALIBRATION_BATCHES, _CALIBRATION_SIZE = 20, 128
"""The pictures from which the statistics of batch norms are estimated anew."""


def make_judge(
    supernet: AnySupernet,
    data: Data,
    *,
    checkpoint_id: str,
    split: Split = "heldout",
    cache: Path | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    keep_hits: bool = False,
) -> Judge:
    """What tells the accuracy of the networks of a supernet on one split."""
    shape = supernet.space.config.input_shape
    return Judge(
        supernet,
        eval_batches(data, shape, split=split, workers=workers),
        checkpoint_id=checkpoint_id,
        split_id=f"{data.fingerprint} {split}",
        recalibration=calibration(data, shape),
        cache=cache,
        device=device,
        keep_hits=keep_hits,
    )


def eval_batches(data: Data, shape: tuple[int, int, int], *, split: Split, workers: int = 0) -> EvalBatches:
    """The pictures of a split."""
    images = data.heldout if split == "heldout" else data.test
    assert images is not None
    return EvalBatches(images, image_shape=shape, batch_size=_BATCH_SIZE, workers=workers)


def calibration(data: Data, shape: tuple[int, int, int]) -> Iterable[Batch]:
    """Training pictures as they are, always the same."""
    plain = AugmentConfig(crop="none", scale=(1.0, 1.0), flip=0.0)
    batches = TrainBatches(data.train, augment=plain, image_shape=shape, batch_size=_CALIBRATION_SIZE, seed=0)
    return _Repeated(batches)


def weights_digest(path: Path) -> str:
    """The id of weights: what their file holds."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


class _Repeated:
    """The first batches of an epoch, as often as they are asked for."""

    def __init__(self, batches: TrainBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return islice(self._batches.epoch(0), _CALIBRATION_BATCHES)
