"""Several processes that train one model: started by torchrun, on one machine or many.

Gradients are averaged here and not by DistributedDataParallel: a supernet runs on slices of its weights, its networks
differ from step to step, and which weights no process used has a meaning of its own.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hwnas.train.recipe import UnusedWeights

_BUCKET_BYTES = 25 * 2**20
"""Gradients that are sent at once: many small messages cost more than their bytes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a training, and which of them this is."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all processes."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return [float(value) / self.size for value in together]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def finish_gradients(self, parameters: Iterable[nn.Parameter], *, unused_weights: UnusedWeights) -> None:
        """Average gradients over all processes; those that no process has stay away, or become 0 under `decay`."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = self._used(trained)
        for parameter, somewhere in zip(trained, used, strict=True):
            if parameter.grad is None and (somewhere or unused_weights == "decay"):
                parameter.grad = torch.zeros_like(parameter)
        if self.size > 1:
            gradients = [parameter.grad for parameter, somewhere in zip(trained, used, strict=True) if somewhere]
            self._average([gradient for gradient in gradients if gradient is not None])

    def average_buffers(self, model: nn.Module) -> None:
        """Average what is no weight but kept, as the statistics of batch norms."""
        if self.size > 1:
            self._average([buffer for buffer in model.buffers() if buffer.is_floating_point()])

    def _used(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Which parameters any process has a gradient of."""
        here = [parameter.grad is not None for parameter in parameters]
        if self.size == 1:
            return here
        flags = torch.tensor(here, dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def _average(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, piece in zip(bucket, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))


@contextmanager
def distributed_world() -> Iterator[World]:
    """The world that torchrun describes in the environment; without it, this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=_device(0))
        return
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=device)
    finally:
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(item.nbytes for item in bucket) > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
