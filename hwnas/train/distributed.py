"""Data-parallel training in several processes, started by torchrun on one machine or more.

Gradients are averaged here rather than by DistributedDataParallel: a supernet runs on slices of its weights, its
networks differ from step to step and between processes, and a weight that no process used must be distinguished from
one with a gradient of zero (`unused_weights` of a recipe).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.train.recipe import UnusedWeights
from hwnas.train.run_folder import RESTARTS

_MAX_PROCESSES = 65_536
_TORCHRUN = "torchrun --nproc-per-node N -m hwnas train ..., or unset WORLD_SIZE to train in one process"

_BUCKET_BYTES = 25 * 2**20
"""Gradients that are sent together, as in DDP: many small messages would cost more than their bytes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Processes of a training; by default this one alone, on the CPU."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    local_size: int = 1
    """Processes on this machine."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this process."""

    @property
    def is_main_process(self) -> bool:
        """True for the process that writes files and reports progress."""
        return self.rank == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """Average each value over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        _all_reduce(sums)
        return [float(value) / self.size for value in sums]

    def maximum(self, value: int) -> int:
        """Return the largest value of all processes."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        _all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def mean_on_device(self, values: Tensor, others: Sequence[float]) -> Tensor:
        """Average values of the device and numbers of the host over all processes, without waiting for the device."""
        sums = values.double()
        if others:
            pinned = torch.tensor(others, dtype=torch.float64, pin_memory=self.device.type == "cuda")
            sums = torch.cat([sums, pinned.to(self.device, non_blocking=True)])
        if self.size > 1:
            _all_reduce(sums)
            sums /= self.size
        return sums

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            with _together():
                dist.barrier()

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the main one, in place."""
        if self.size > 1:
            for tensor in tensors:
                with _together():
                    dist.broadcast(tensor.data, src=0)

    def average_gradients(
        self, parameters: Iterable[nn.Parameter], *, unused_weights: UnusedWeights, same_networks: bool = False
    ) -> None:
        """Average gradients over all processes.

        Args:
            parameters: Weights of the model.
            unused_weights: Weights without a gradient on any process keep none (`skip`) or get zeros (`decay`).
            same_networks: All processes have gradients of the same weights, so that they need not ask one another.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        is_used = [parameter.grad is not None for parameter in trained]
        if self.size > 1 and not same_networks:
            is_used = self._is_used_anywhere(is_used)
        for parameter, used in zip(trained, is_used, strict=True):
            if parameter.grad is None and (used or unused_weights == "decay"):
                parameter.grad = torch.zeros_like(parameter)
        if self.size > 1:
            gradients = [parameter.grad for parameter, used in zip(trained, is_used, strict=True) if used]
            self._average([gradient for gradient in gradients if gradient is not None])

    def average_buffers(self, model: nn.Module) -> None:
        """Average floating-point buffers, such as the running statistics of batch norms, but for constant tables.

        A buffer that is not stored with the weights, as it follows from the config, is constant.
        """
        if self.size > 1:
            stored = model.state_dict(keep_vars=True)
            buffers = [buffer for name, buffer in model.named_buffers() if name in stored]
            self._average([buffer for buffer in buffers if buffer.is_floating_point()])

    def _is_used_anywhere(self, is_used: Sequence[bool]) -> list[bool]:
        """Return for each parameter if any process has a gradient of it."""
        flags = torch.tensor(is_used, dtype=torch.int32, device=self.device)
        _all_reduce(flags, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    @torch.no_grad()
    def _average(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            _all_reduce(flat)
            flat /= self.size
            pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [piece.view_as(tensor) for tensor, piece in zip(bucket, pieces, strict=True)])


def goes_on(world: World, *, is_begun: bool) -> bool:
    """Return True if a training that has begun was started again by torchrun or Slurm, on any process.

    Args:
        world: Processes of the training.
        is_begun: This process sees a run to go on with.
    """
    counts = [os.environ.get(name, "") for name in RESTARTS]
    is_restarted = any(count.isdecimal() and int(count) > 0 for count in counts)
    restarted, begun = world.mean([float(is_restarted), float(is_begun)])
    return restarted > 0 and begun == 1


@contextmanager
def distributed_world() -> Iterator[World]:
    """Join the processes that torchrun describes in the environment; without torchrun, this process alone.

    Raises:
        InputError: A variable of torchrun is missing or has no such value, or the other processes are not met.
    """
    size = _read_variable("WORLD_SIZE", low=1, high=_MAX_PROCESSES, default=1)
    if size == 1:
        yield World(device=_device(0))
        return
    _read_variable("RANK", low=0, high=size - 1)
    _read_variable("MASTER_PORT", low=1, high=65_535)
    if not os.environ.get("MASTER_ADDR"):
        raise InputError("MASTER_ADDR must be the address of the main process", got="nothing", hint=_TORCHRUN)
    device = _device(_read_variable("LOCAL_RANK", low=0, high=size - 1, default=0))
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError, OSError) as error:  # torch's errors of connections are RuntimeErrors
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        got = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{size} processes must meet at {address}", got=got, hint=_TORCHRUN) from error
    local_size = _read_variable("LOCAL_WORLD_SIZE", low=1, high=size, default=1)
    try:
        yield World(rank=dist.get_rank(), size=size, local_size=local_size, device=device)
    finally:
        dist.destroy_process_group()


def _all_reduce(tensor: Tensor, *, op: Any = dist.ReduceOp.SUM) -> None:
    with _together():
        dist.all_reduce(tensor, op=op)


@contextmanager
def _together() -> Iterator[None]:
    """Turn the error of a process that lost the others into one that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo has no type of its own
        message, got = "all processes of a training must stay until its end", str(error).splitlines()[0]
        hint = "the same command with --resume, or torchrun with restarts, which goes on by itself"
        raise InputError(message, got=got, hint=hint) from error


def _read_variable(name: str, *, low: int, high: int, default: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    # isdecimal is also true of digits of other scripts, which int takes, and false of signs and spaces.
    if not (text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
        message = f"{name} in the environment must be a whole number from {low} to {high}"
        raise InputError(message, got=shown(text) if text else "nothing", hint=_TORCHRUN)
    return int(text)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        message = f"LOCAL_RANK in the environment must be below the number of GPUs, {torch.cuda.device_count()}"
        raise InputError(message, got=local_rank, hint=_TORCHRUN)
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group consecutive tensors of one type up to the size of a bucket."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(item.nbytes for item in bucket) > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
