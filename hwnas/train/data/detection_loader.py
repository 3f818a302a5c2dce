"""Batches of samples with boxes, masks or classes of pixels, for training and for evaluation.

As for classification, every random draw is a function of (seed, epoch, position), so that batches depend neither on the
number of worker processes nor on what was loaded before. Positions count the images of an epoch over all ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.data.augment import epoch_order
from hwnas.train.data.detection_augment import DetectionAugmentConfig, augment
from hwnas.train.data.images import BadImageError, BadImageLog, Indices
from hwnas.train.data.loader import PlannedBatches, load_batches, usable_workers
from hwnas.train.data.samples import AnnotatedDataset, Sample, Target
from hwnas.train.seeds import torch_seed


@dataclass(frozen=True)
class DetectionBatch:
    """Samples of a batch."""

    images: Tensor
    """(B, 3, S, S), uint8."""
    targets: Any
    """A list of dicts (detection) or int64 (B, S, S) (segmentation)."""
    indices: Tensor
    """(B,), int64: their indices in the dataset."""

    def to(self, device: torch.device | str) -> Self:
        """Move the batch to a device."""
        targets = self.targets
        if isinstance(targets, Tensor):
            targets = targets.to(device)
        else:
            targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
        return type(self)(self.images.to(device), targets, self.indices.to(device))

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class FetchedSamples:
    """The samples at some positions."""

    samples: list[Sample]
    indices: list[int]
    bad: dict[str, str]
    """Names of unreadable images, and why; the main process logs them."""


class DetectionTrainLoader:
    """Batches of augmented training samples, epoch by epoch.

    An epoch is a permutation of the images; those that do not fill a batch are left out. The next readable image stands
    in for an unreadable one, which is recorded in `bad`.

    Args:
        dataset: Training images.
        augment: How they are augmented; None: as they are evaluated.
        batch_size: Images of a batch on this rank; fewer if the dataset is smaller.
        seed: Decides order and augmentation.
        workers: Processes that load images; 0: this one.
        rank: Number of this process among those that train together.
        world_size: Number of processes that train together.
        bad: Records unreadable images; by default up to 50 are skipped.

    Raises:
        InputError: The dataset is too small, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: AnnotatedDataset,
        *,
        augment: DetectionAugmentConfig | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bad: BadImageLog | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError("the rank must be below the world size", got=f"rank {rank} of {world_size}")
        if len(dataset) < world_size:
            raise InputError("there must be an image for each rank", got=f"{len(dataset)} images, {world_size} ranks")
        if batch_size < 1:
            raise InputError("batch_size must be at least 1", got=batch_size)
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self.batch_size = min(batch_size, len(dataset) // world_size)
        self.rank, self.world_size = rank, world_size
        self.workers = usable_workers(workers)
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.dataset) // self.world_size // self.batch_size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[DetectionBatch]:
        """Iterate over the batches of an epoch.

        Args:
            epoch: Number of the epoch.
            first: Batch to begin with; a resumed training skips those that it has seen.
        """
        if not 0 <= first <= len(self):
            raise InputError(f"an epoch has the batches 0 to {len(self) - 1}", got=first)
        plan = _TrainPlan(self.dataset, self.augment, self.seed, epoch, self.bad.limit)
        size, world = self.batch_size, self.world_size
        positions = [np.arange(step * size, (step + 1) * size) * world + self.rank for step in range(first, len(self))]
        for batch in _batches(plan, positions, self):
            if not len(batch):
                raise InputError("at least one image must be readable", got=self.bad.summary())
            yield batch


class DetectionEvalLoader:
    """Batches of letterboxed samples to evaluate networks on, each once and in order, without unreadable ones.

    Args:
        dataset: Images to evaluate on.
        batch_size: Images of a batch; the last may have fewer.
        workers: Processes that load images; 0: this one.
        bad: Records unreadable images; by default up to 50 are skipped.
    """

    def __init__(
        self, dataset: AnnotatedDataset, *, batch_size: int, workers: int = 0, bad: BadImageLog | None = None
    ) -> None:
        if batch_size < 1:
            raise InputError("batch_size must be at least 1", got=batch_size)
        self.dataset, self.batch_size = dataset, batch_size
        self.workers = usable_workers(workers)
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[DetectionBatch]:
        starts = range(0, len(self.dataset), self.batch_size)
        positions = [np.arange(start, min(start + self.batch_size, len(self.dataset))) for start in starts]
        yield from (batch for batch in _batches(_EvalPlan(self.dataset), positions, self) if len(batch))


class _TrainPlan:
    """The samples of an epoch by position, augmented."""

    def __init__(
        self, dataset: AnnotatedDataset, config: DetectionAugmentConfig | None, seed: int, epoch: int, max_bad: int
    ) -> None:
        self.dataset, self.config, self.max_bad = dataset, config, max_bad
        self.key = (seed, epoch)
        self.order = epoch_order(len(dataset), repeats=1, seed=seed, epoch=epoch)

    def fetch(self, positions: Indices) -> FetchedSamples:
        """Read and augment the samples at some positions."""
        fetched = FetchedSamples(samples=[], indices=[], bad={})
        for position in positions:
            found = self._next_readable(int(self.order[position]), int(position), fetched.bad)
            if found is None:
                break
            fetched.samples.append(found[0])
            fetched.indices.append(found[1])
        return fetched

    def _next_readable(self, index: int, position: int, bad: dict[str, str]) -> tuple[Sample, int] | None:
        """Read a sample, or the next readable one; None after more unreadable ones than are allowed."""
        count = len(self.dataset)
        for candidate in range(index, index + count):
            try:
                return self._augmented(candidate % count, position), candidate % count
            except BadImageError as error:
                bad[error.key] = error.reason
                if len(bad) > self.max_bad:
                    break
        return None

    def _augmented(self, index: int, position: int) -> Sample:
        if self.config is None:
            return self.dataset[index]
        seed = torch_seed(self.key[0], "augmentation", self.key[1], position)
        return augment(self.dataset.read(index), self.config, size=self.dataset.image_size, seed=seed)


@dataclass(frozen=True)
class _EvalPlan:
    """The samples of a dataset as they are evaluated, without unreadable ones."""

    dataset: AnnotatedDataset

    def fetch(self, positions: Indices) -> FetchedSamples:
        """Read the samples with these indices."""
        fetched = FetchedSamples(samples=[], indices=[], bad={})
        for index in positions:
            try:
                fetched.samples.append(self.dataset[int(index)])
            except BadImageError as error:
                fetched.bad[error.key] = error.reason
                continue
            fetched.indices.append(int(index))
        return fetched


def _batches(
    plan: _TrainPlan | _EvalPlan, positions: list[Indices], loader: DetectionTrainLoader | DetectionEvalLoader
) -> Iterator[DetectionBatch]:
    for fetched in load_batches(PlannedBatches(plan, positions), loader.workers):
        for key, reason in fetched.bad.items():
            loader.bad.add(key, reason)
        yield _collate(fetched)


def _collate(fetched: FetchedSamples) -> DetectionBatch:
    images = [image for image, _ in fetched.samples]
    targets: list[Target] = [target for _, target in fetched.samples]
    is_segmented = bool(targets) and isinstance(targets[0], Tensor)
    return DetectionBatch(
        torch.stack(images) if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8),
        torch.stack(targets) if is_segmented else targets,
        torch.tensor(fetched.indices, dtype=torch.int64),
    )
