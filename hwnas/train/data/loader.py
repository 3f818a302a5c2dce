"""Batches of pictures: every draw is a function of (seed, epoch, position), whoever makes the batch.

Position is the place in an epoch of all ranks together; rank r of w has the positions r, r + w, …
"""

import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hwnas.devices.machine import usable_cores
from hwnas.errors import InputError
from hwnas.train.data.augment import IMAGENET, AugmentConfig, Normalization, eval_transform
from hwnas.train.data.fetching import DecodedImages, EpochPlan, EvalPlan, FetchedBatch, decode_if_small
from hwnas.train.data.images import ArrayDataset, BadImageLog, ImageDataset

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Pictures for a network."""

    images: Tensor
    """(pictures, channels, height, width), float32, normalised."""
    labels: Tensor
    """(pictures,), int64."""
    indices: Tensor
    """(pictures,), int64: their numbers in the set."""

    def to(self, device: torch.device | str) -> Self:
        """The batch on a device; to a GPU it is copied out of pinned memory, beside what the device does meanwhile."""
        parts = [self.images, self.labels, self.indices]
        if torch.device(device).type == "cuda":
            parts = [part if part.is_cuda else part.pin_memory() for part in parts]
        return type(self)(*(part.to(device, non_blocking=True) for part in parts))

    def __len__(self) -> int:
        return len(self.labels)


class TrainLoader:
    """The epochs of training pictures.

    An epoch is a permutation of the pictures; what does not fill a batch is left out. An unreadable picture is
    replaced by the next readable one of the set, and counted in `bad`.
    """

    def __init__(
        self,
        images: ImageDataset,
        *,
        augment: AugmentConfig,
        image_shape: tuple[int, int, int],
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        normalization: Normalization = IMAGENET,
        bad: BadImageLog | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError("the rank must be one of the world's", got=f"rank {rank} of {world_size}")
        if len(images) < world_size:
            raise InputError("there must be a picture for each rank", got=f"{len(images)} pictures, {world_size} ranks")
        _require_shape(image_shape)
        self.images, self.augment, self.image_shape = images, augment, image_shape
        self.batch_size = min(_positive("batch_size", batch_size), len(images) // world_size)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.workers = usable_workers(workers)
        self.normalization = normalization
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.world_size // self.batch_size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `first` on."""
        if not 0 <= first <= len(self):
            raise InputError(f"an epoch has the batches 0 to {len(self) - 1}", got=first)
        plan = EpochPlan(
            self._kept if self.augment.shift_flip_only else self.images,
            augment=self.augment,
            image_shape=self.image_shape,
            seed=self.seed,
            epoch=epoch,
            max_bad=self.bad.limit,
        )
        size, world = self.batch_size, self.world_size
        positions = [np.arange(step * size, (step + 1) * size) * world + self.rank for step in range(first, len(self))]
        yield from _batches(_Steps(plan, positions), self)

    @cached_property
    def _kept(self) -> ImageDataset | DecodedImages:
        return decode_if_small(self.images, self.image_shape, bad=self.bad)


class EvalLoader:
    """Pictures to judge networks on, each once and in order; unreadable ones are left out, and counted in `bad`."""

    def __init__(
        self,
        images: ImageDataset,
        *,
        image_shape: tuple[int, int, int],
        batch_size: int,
        workers: int = 0,
        crop_share: float | None = None,
        interpolation: str = "bicubic",
        normalization: Normalization = IMAGENET,
        bad: BadImageLog | None = None,
    ) -> None:
        _require_shape(image_shape)
        self.images, self.image_shape = images, image_shape
        self.batch_size = _positive("batch_size", batch_size)
        self.workers = usable_workers(workers)
        self.view = eval_transform(image_size=image_shape[1], crop_share=crop_share, interpolation=interpolation)
        self.direct = crop_share in (None, 1.0) and _array_shape(images) == image_shape
        self.normalization = normalization
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Batches of a pass; the last one may be smaller."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        plan = EvalPlan(images=self.images, view=self.view, direct=self.direct, image_shape=self.image_shape)
        starts = range(0, len(self.images), self.batch_size)
        positions = [np.arange(start, min(start + self.batch_size, len(self.images))) for start in starts]
        yield from (batch for batch in _batches(_Steps(plan, positions), self) if len(batch))


def usable_workers(wanted: int) -> int:
    """As many processes as were asked for, or as there are processor cores; fewer are announced."""
    if wanted < 0:
        raise InputError("the number of workers must not be negative", got=wanted)
    cores = usable_cores()
    if wanted > cores:
        _log.warning("%d workers load pictures, not %d: there are %d processor cores", cores, wanted, cores)
    return min(wanted, cores)


class _Steps(Dataset[FetchedBatch]):
    """The batches of one pass by number, for worker processes."""

    def __init__(self, plan: EpochPlan | EvalPlan, positions: list[Any]) -> None:
        self.plan = plan
        self.positions = positions

    def __getitem__(self, step: int) -> FetchedBatch:
        return self.plan.fetch(self.positions[step])

    def __len__(self) -> int:
        return len(self.positions)


def _batches(steps: _Steps, owner: TrainLoader | EvalLoader) -> Iterator[Batch]:
    mean, std = (
        torch.from_numpy(255 * part)[:, None, None] for part in owner.normalization.columns(owner.image_shape[0])
    )
    for fetched in _loaded(steps, owner.workers):
        for key, reason in fetched.bad:
            owner.bad.add(key, reason)
        if not len(fetched.pictures) and isinstance(owner, TrainLoader):
            raise InputError("at least one picture must be readable", got=owner.bad.summary())
        images = torch.from_numpy(fetched.pictures).float().sub_(mean).div_(std)
        steps.plan.finish(images, fetched.positions)
        yield Batch(images, torch.from_numpy(fetched.labels), torch.from_numpy(fetched.indices))


def _loaded(steps: _Steps, workers: int) -> Iterator[FetchedBatch]:
    if not workers:
        yield from (steps[step] for step in range(len(steps)))
        return
    loader = DataLoader(
        steps,
        batch_size=None,
        num_workers=min(workers, max(1, len(steps))),
        collate_fn=_unchanged,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # otherwise the loader draws from torch's global one
    )
    yield from loader


def _unchanged(fetched: Any) -> Any:
    return fetched


def _outlive_signals(worker: int) -> None:
    """A signal to all processes of a training must leave it its workers until it has saved its state.

    They end with the loader; a second SIGTERM ends them at once, so that nothing waits for them in vain.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _array_shape(images: ImageDataset) -> tuple[int, ...] | None:
    """Channels, height and width of pictures in memory."""
    if not isinstance(images, ArrayDataset):
        return None
    height, width, channels = images.array.shape[1:]
    return channels, height, width


def _require_shape(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError("pictures have 1 or 3 channels, and so must the space", got=channels)
    if height != width:
        raise InputError("images must be square", got=f"{height} x {width}")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name} must be at least 1", got=value)
    return value
