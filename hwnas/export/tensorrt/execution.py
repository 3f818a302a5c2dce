"""Run an engine on a batch of images, again and again, as a recorded CUDA graph.

A CUDA graph records the kernels of one run and launches them all with one call, so that the time of a run is that of
the GPU and not that of launching kernel after kernel from the CPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.export.tensorrt.build import deserialize_engine
from hwnas.export.tensorrt.library import (
    LIBRARIES,
    LibraryName,
    TensorRtError,
    TensorRtMessage,
    collect_messages,
    failure,
    load_tensorrt,
)

_WARMUP_RUNS = 2
"""Runs before the recording: in the first ones TensorRT allocates memory and fixes shapes, and the library for RTX
compiles kernels. CUDA graphs forbid both."""

_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


class RecordedGraph(Protocol):
    """A CUDA graph that was recorded once."""

    def replay(self) -> None:
        """Launch it on the current stream."""

    def reset(self) -> None:
        """Release its memory."""


class Cuda(Protocol):
    """The CUDA operations that running an engine takes: memory, one stream, a recorded graph."""

    @property
    def handle(self) -> int:
        """The stream's handle in C."""

    def current(self) -> AbstractContextManager[object]:
        """Make the stream torch's current one inside the block."""

    def upload(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy in device memory; the copy is complete on return."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return uninitialised device memory."""

    def wait(self) -> None:
        """Wait until the stream is idle."""

    def record(self, launch: Callable[[], object]) -> RecordedGraph:
        """Record what `launch` puts on the stream, without running it."""


class TorchCuda:
    """The GPU that torch uses, with a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The stream's handle in C."""
        return int(self._stream.cuda_stream)

    def current(self) -> AbstractContextManager[object]:
        """Make the stream torch's current one inside the block."""
        return torch.cuda.stream(self._stream)

    def upload(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy in device memory; the copy is complete on return."""
        uploaded = tensor.contiguous().to("cuda")
        torch.cuda.synchronize()  # the copy runs on torch's default stream, which our stream does not wait for
        return uploaded

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return uninitialised device memory."""
        return torch.empty(tuple(shape), dtype=dtype, device="cuda")

    def wait(self) -> None:
        """Wait until the stream is idle."""
        self._stream.synchronize()

    def record(self, launch: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """Record what `launch` puts on the stream, without running it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: CUDA calls of other threads (a data loader's, say) do not break the recording.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            launch()
        return graph


class Execution:
    """An engine with an execution context and buffers for one batch of images."""

    def __init__(
        self,
        engine: bytes,
        images: Tensor,
        *,
        cuda: Cuda,
        library: LibraryName = "tensorrt",
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Load an engine, run it twice and record it.

        Whatever TensorRT for RTX compiles for this GPU and this batch is compiled before the recording.

        Args:
            engine: The serialised engine.
            images: The batch, of shape (batch, channels, height, width); cast to the engine's input type.
            cuda: The GPU; `TorchCuda()` outside of tests.
            library: The library that built it.
            on_progress: Called after each step.

        Raises:
            InputError: The images have another shape than the engine was built for.
            MissingError: There is no driver, or it is too old for the library.
            TensorRtError: The engine cannot be loaded or run, or does not fit into memory.
        """
        self._name = library
        self._library = load_tensorrt(library)
        self._cuda = cuda
        with collect_messages(self._library) as messages:
            self._engine = deserialize_engine(self._library, engine, messages)
            on_progress()
            self._context = self._create_context()
            if self._context is None:
                raise failure("the engine's scratch memory must fit the GPU", messages)
            on_progress()
            self._bind(images, messages)
            with cuda.current():
                for _ in range(_WARMUP_RUNS):
                    self._enqueue()
            cuda.wait()
            on_progress()
            self._require_capturable()
        self._recorded = cuda.record(self._enqueue)

    def launch(self) -> None:
        """Start one run on the current stream, without waiting for it."""
        self._recorded.replay()

    def logits(self, images: Tensor | None = None) -> Tensor:
        """Run once and return the output, in float32 on the CPU.

        Args:
            images: Images of the same shape that take the place of the ones before; None for the same images again.
        """
        with self._cuda.current():
            if images is not None:
                self._input.copy_(images)
            self.launch()
        self._cuda.wait()
        return self._output.to("cpu", torch.float32, copy=True)  # the next run writes to the same memory

    def memory_mb(self) -> float | None:
        """Return the memory of weights, scratch space, images and logits, in MB of 10^6 bytes.

        None if TensorRT does not report the size of the weights.
        """
        if not hasattr(self._library, "EngineStat"):  # missing in the first releases of TensorRT 10
            return None
        weights = self._engine.get_engine_stat(self._library.EngineStat.TOTAL_WEIGHTS_SIZE)
        buffers = self._input.nbytes + self._output.nbytes
        return float(weights + self._engine.device_memory_size_v2 + buffers) / 1e6

    def close(self) -> None:
        """Release the engine and its memory; the object cannot be used afterwards."""
        self._cuda.wait()
        self._recorded.reset()
        # In this order: a context must not outlive its engine, nor the buffers what points at them.
        del self._recorded, self._context, self._engine, self._input, self._output

    def _create_context(self) -> Any:
        if not LIBRARIES[self._name].is_portable:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        # Kernels for a batch of a dynamic engine are otherwise compiled in the background, while slower ones run. Those
        # would be recorded, and timed.
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        return self._engine.create_execution_context(config)

    def _require_capturable(self) -> None:
        if LIBRARIES[self._name].is_portable and not self._context.is_stream_capturable(self._cuda.handle):
            message = "TensorRT for RTX must be able to record the engine as a CUDA graph"
            raise TensorRtError("unsupported", message, got="an engine that allocates memory while it runs")

    def _bind(self, images: Tensor, messages: list[TensorRtMessage]) -> None:
        """Allocate the buffers and give them to the context."""
        source, target = self._tensor_names()
        if not self._context.set_input_shape(source, tuple(images.shape)):
            accepted = tuple(self._engine.get_tensor_shape(source))
            raise InputError(
                "the images must have a shape that the engine was built for",
                got=tuple(images.shape),
                hint=f"its input is {accepted}, where -1 is a batch in the range that it was built for",
            )
        self._input = self._cuda.upload(images.to(self._dtype(source)))
        self._output = self._cuda.empty(tuple(self._context.get_tensor_shape(target)), self._dtype(target))
        for name, tensor in ((source, self._input), (target, self._output)):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise failure(f"TensorRT must accept the memory of {name!r}", messages)

    def _tensor_names(self) -> tuple[str, str]:
        modes = self._library.TensorIOMode
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.INPUT]
        outputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError("an engine must have one input and one output", got=f"{inputs} and {outputs}")
        return inputs[0], outputs[0]

    def _dtype(self, name: str) -> torch.dtype:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise InputError(f"{name!r} must be of a type that torch has", got=kind, known=_DTYPES)
        return _DTYPES[kind]

    def _enqueue(self) -> None:
        with collect_messages(self._library) as messages:
            if not self._context.execute_async_v3(self._cuda.handle):
                raise failure("TensorRT must be able to run the engine", messages)
