"""Batches of training images and of images to evaluate networks on.

Every random draw is a function of (seed, epoch, position), so that batches depend neither on the number of worker
processes nor on what was loaded before. Positions count the images of an epoch over all ranks: rank r of w takes the
positions r, r + w, r + 2w, ...
"""

import logging
import signal
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hwnas.devices.machine import usable_cores
from hwnas.errors import STOP_SIGNALS, InputError
from hwnas.train.data.augment import IMAGENET, AugmentConfig, Normalization, eval_transform
from hwnas.train.data.fetching import DecodedImages, EpochPlan, EvalPlan, decode_if_small
from hwnas.train.data.finishing import Finish
from hwnas.train.data.images import ArrayDataset, BadImageLog, ImageDataset, Indices

Fetched = TypeVar("Fetched", covariant=True)
AnyBatch = TypeVar("AnyBatch")

_log = logging.getLogger(__name__)

_MAX_DEFAULT_WORKERS = 16


class Batch:
    """Images for a network.

    Attributes:
        labels: (B,), int64.
        indices: (B,), int64: their indices in the dataset.

    Args:
        images: (B, C, H, W), float32, or bytes that `finish` makes them of.
        labels: Class index of each image.
        indices: Index of each image in the dataset.
        finish: Normalizes bytes, on the device that they have been moved to; None: the images are ready.
    """

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor, *, finish: Finish | None = None) -> None:
        self._given, self._finish = images, finish
        self.labels, self.indices = labels, indices

    @cached_property
    def images(self) -> Tensor:
        """(B, C, H, W), float32, normalized."""
        return self._given if self._finish is None else self._finish(self._given)

    def to(self, device: torch.device | str) -> "Batch":
        """Move the batch to a device: as bytes, from pinned memory and while the GPU computes if it is one."""
        device = torch.device(device)
        if device == self._given.device:
            return self
        parts = list(self.tensors)
        if device.type == "cuda":
            parts = [part if part.is_cuda else part.pin_memory() for part in parts]
        return Batch(*(part.to(device, non_blocking=True) for part in parts), finish=self._finish)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors that are moved between devices."""
        return self._given, self.labels, self.indices

    def __len__(self) -> int:
        return len(self.labels)


class Prefetcher(Generic[AnyBatch]):
    """Batches of which a GPU gets the next one while it computes.

    Args:
        batches: Batches in memory of the host; those of another type than `Batch` stay there.
        device: The device.
    """

    def __init__(self, batches: Iterator[AnyBatch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ahead: tuple[AnyBatch, torch.cuda.Event | None] | None = None

    def prepare(self) -> None:
        """Copy the next batch to a GPU, beside what it computes; on a CPU there is nothing to gain."""
        if self._stream is None or self._ahead is not None:
            return
        batch = next(self._batches, None)
        if not isinstance(batch, Batch):
            self._ahead = None if batch is None else (batch, None)
            return
        with torch.cuda.stream(self._stream):
            moved: Any = batch.to(self._device)
        self._ahead = moved, self._stream.record_event()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AnyBatch:
        if self._stream is None:
            return next(self._batches)
        self.prepare()
        if self._ahead is None:
            raise StopIteration
        (batch, copied), self._ahead = self._ahead, None
        if copied is not None and isinstance(batch, Batch):
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            for tensor in batch.tensors:
                tensor.record_stream(computing)  # so that its memory is not given to the next copy too early
        return batch


class TrainLoader:
    """Batches of augmented training images, epoch by epoch.

    An epoch is a permutation of the images; those that do not fill a batch are left out. The next readable image stands
    in for an unreadable one, which is recorded in `bad`.

    Args:
        dataset: Training images.
        augment: How they are augmented.
        image_shape: Channels, height and width of the network's input.
        batch_size: Images of a batch on this rank; fewer if the dataset is smaller.
        seed: Decides order and augmentation.
        workers: Processes that load images; 0: this one.
        rank: Number of this process among those that train together.
        world_size: Number of processes that train together.
        normalization: Mean and standard deviation of the channels.
        bad: Records unreadable images; by default up to 50 are skipped.

    Raises:
        InputError: The dataset is too small, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
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
            raise InputError("the rank must be below the world size", got=f"rank {rank} of {world_size}")
        if len(dataset) < world_size:
            raise InputError("there must be an image for each rank", got=f"{len(dataset)} images, {world_size} ranks")
        _require_shape(image_shape)
        self.dataset, self.augment, self.image_shape = dataset, augment, image_shape
        self.batch_size = min(_positive("batch_size", batch_size), len(dataset) // world_size)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.workers = usable_workers(workers)
        self.normalization = normalization
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.dataset) // self.world_size // self.batch_size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch.

        Args:
            epoch: Number of the epoch.
            first: Batch to begin with; a resumed training skips those that it has seen.
        """
        if not 0 <= first <= len(self):
            raise InputError(f"an epoch has the batches 0 to {len(self) - 1}", got=first)
        plan = EpochPlan(
            self._decoded if self.augment.shift_flip_only else self.dataset,
            augment=self.augment,
            image_shape=self.image_shape,
            seed=self.seed,
            epoch=epoch,
            max_bad=self.bad.limit,
        )
        size, world = self.batch_size, self.world_size
        positions = [np.arange(step * size, (step + 1) * size) * world + self.rank for step in range(first, len(self))]
        yield from _batches(plan, positions, self)

    @cached_property
    def _decoded(self) -> ImageDataset | DecodedImages:
        return decode_if_small(self.dataset, self.image_shape, bad=self.bad)


class EvalLoader:
    """Batches of images to evaluate networks on, each image once and in order, without unreadable ones.

    Args:
        dataset: Images to evaluate on.
        image_shape: Channels, height and width of the network's input.
        batch_size: Images of a batch; the last may have fewer.
        workers: Processes that load images; 0: this one.
        crop_share: Share of the shorter side that is evaluated; None: as `eval_transform` chooses.
        interpolation: Interpolation of resized images.
        normalization: Mean and standard deviation of the channels.
        bad: Records unreadable images; by default up to 50 are skipped.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
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
        self.dataset, self.image_shape = dataset, image_shape
        self.batch_size = _positive("batch_size", batch_size)
        self.workers = usable_workers(workers)
        self.transform = eval_transform(image_size=image_shape[1], crop_share=crop_share, interpolation=interpolation)
        self.direct = crop_share in (None, 1.0) and _array_shape(dataset) == image_shape
        self.normalization = normalization
        self.bad = bad if bad is not None else BadImageLog()

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        plan = EvalPlan(
            dataset=self.dataset, transform=self.transform, direct=self.direct, image_shape=self.image_shape
        )
        starts = range(0, len(self.dataset), self.batch_size)
        positions = [np.arange(start, min(start + self.batch_size, len(self.dataset))) for start in starts]
        yield from (batch for batch in _batches(plan, positions, self) if len(batch))


def usable_workers(requested: int) -> int:
    """Return the number of loading processes: at most one per usable CPU core, with a warning if that is fewer."""
    if requested < 0:
        raise InputError("the number of workers must not be negative", got=requested)
    cores = usable_cores()
    if requested > cores:
        _log.warning("%d workers load images, not %d: there are %d CPU cores", cores, requested, cores)
    return min(requested, cores)


def default_workers(device: torch.device, *, processes: int = 1) -> int:
    """Return the number of processes that load the images of a process of a training.

    Args:
        device: Device of the process. On a CPU there are none: its cores train.
        processes: Processes that train together. Each GPU has its share of the cores but one, up to 16.
    """
    if device.type == "cpu":
        return 0
    gpus = max(1, min(processes, torch.cuda.device_count()))
    return max(1, min(_MAX_DEFAULT_WORKERS, usable_cores() // gpus - 1))


class BatchPlan(Protocol[Fetched]):
    """Images at some positions of a pass, and how they are read and augmented."""

    def fetch(self, positions: Indices) -> Fetched:
        """Read the images at some positions."""


class PlannedBatches(Dataset[Fetched]):
    """The batches of one pass by index, for worker processes."""

    def __init__(self, plan: BatchPlan[Fetched], positions: list[Indices]) -> None:
        self.plan = plan
        self.positions = positions

    def __getitem__(self, index: int) -> Fetched:
        return self.plan.fetch(self.positions[index])

    def __len__(self) -> int:
        return len(self.positions)


def _batches(plan: EpochPlan | EvalPlan, positions: list[Indices], loader: TrainLoader | EvalLoader) -> Iterator[Batch]:
    for fetched in load_batches(PlannedBatches(plan, positions), loader.workers):
        for key, reason in fetched.bad:
            loader.bad.add(key, reason)
        if not len(fetched.pixels) and isinstance(loader, TrainLoader):
            raise InputError("at least one image must be readable", got=loader.bad.summary())
        finish = Finish(loader.normalization, fetched.erasures)
        parts = (torch.from_numpy(part) for part in (fetched.pixels, fetched.labels, fetched.indices))
        yield Batch(*parts, finish=finish)


def load_batches(planned: PlannedBatches[Fetched], workers: int) -> Iterator[Fetched]:
    """Read the batches of a pass in order.

    Args:
        planned: The batches.
        workers: Processes that read them; 0: this one.

    Raises:
        InputError: A process was killed.
    """
    if not workers:
        yield from (planned[index] for index in range(len(planned)))
        return
    loader = DataLoader(
        planned,
        batch_size=None,
        num_workers=min(workers, max(1, len(planned))),
        collate_fn=_identity,
        worker_init_fn=_ignore_first_signal,
        generator=torch.Generator(),  # otherwise the loader draws from torch's global generator
    )
    batches = iter(loader)
    while True:
        try:
            fetched = next(batches, None)
        except RuntimeError as error:  # torch has no type of its own for a worker that was killed
            if "DataLoader worker" not in str(error):
                raise
            hint = "free some memory (/dev/shm included), fewer --workers, or --workers 0"
            got = str(error).splitlines()[0]
            raise InputError("the processes that load images must not be killed", got=got, hint=hint) from error
        if fetched is None:
            return
        yield fetched


def _identity(fetched: Any) -> Any:
    return fetched


def _ignore_first_signal(worker: int) -> None:
    """Ignore SIGINT, SIGHUP and the first SIGTERM.

    They may reach all processes of a training at once, and the main process needs its workers until it has saved a
    checkpoint; they end with the loader. A second SIGTERM ends a worker at once, so that none is left behind.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _array_shape(dataset: ImageDataset) -> tuple[int, ...] | None:
    """Return channels, height and width of images in memory."""
    if not isinstance(dataset, ArrayDataset):
        return None
    height, width, channels = dataset.array.shape[1:]
    return channels, height, width


def _require_shape(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError("images have 1 or 3 channels, and so must the space", got=channels)
    if height != width:
        raise InputError("images must be square", got=f"{height} x {width}")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name} must be at least 1", got=value)
    return value
