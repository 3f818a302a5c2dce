"""The little of CUDA that running an engine takes: memory, one stream, a recorded graph."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor


class Recording(Protocol):
    """Work that was recorded once as a CUDA graph."""

    def replay(self) -> None:
        """Launch it again on the current stream."""

    def reset(self) -> None:
        """Give back what it holds."""


class Cuda(Protocol):
    """A device with one stream."""

    @property
    def handle(self) -> int:
        """The stream, as a C library knows it."""

    def current(self) -> AbstractContextManager[object]:
        """Makes the stream the one on which torch works."""

    def place(self, tensor: Tensor) -> Tensor:
        """A copy in the device's memory, which is complete on return."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the device."""

    def wait(self) -> None:
        """Wait until the stream has done its work."""

    def record(self, launch: Callable[[], object]) -> Recording:
        """Record what `launch` puts on the stream, without running it."""


class TorchCuda:
    """The GPU that torch uses, with a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The stream's pointer."""
        return int(self._stream.cuda_stream)

    def current(self) -> AbstractContextManager[object]:
        """The stream as torch's current one."""
        return torch.cuda.stream(self._stream)

    def place(self, tensor: Tensor) -> Tensor:
        """A contiguous copy on the GPU."""
        placed = tensor.contiguous().to("cuda")
        torch.cuda.synchronize()
        return placed

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the GPU whose values are whatever was there."""
        return torch.empty(tuple(shape), dtype=dtype, device="cuda")

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def record(self, launch: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """A CUDA graph of what is launched; calls of other threads do not disturb the recording."""
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=self._stream, capture_error_mode="thread_local"):
            launch()
        return recorded
