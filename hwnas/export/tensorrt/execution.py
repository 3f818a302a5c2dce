"""An engine that runs one batch of images again and again, as a recorded CUDA graph."""

from typing import Any

import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.export.tensorrt.build import deserialised
from hwnas.export.tensorrt.cuda import Cuda
from hwnas.export.tensorrt.library import load_tensorrt
from hwnas.export.tensorrt.messages import Message, collected, failure

_RUNS_BEFORE_RECORDING = 2
"""TensorRT takes memory and settles shapes in its first runs, which a recording does not allow."""

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


class Execution:
    """One engine, one context, its own buffers for a fixed batch; the images are cast to the type that it takes."""

    def __init__(self, engine: bytes, images: Tensor, *, cuda: Cuda) -> None:
        self._library = load_tensorrt()
        self._cuda = cuda
        with collected(self._library) as messages:
            self._engine = deserialised(self._library, engine, messages)
            self._context = self._new_context(messages)
            self._bind(images, messages)
            with cuda.current():
                for _ in range(_RUNS_BEFORE_RECORDING):
                    self._enqueue()
            cuda.wait()
        self._recording = cuda.record(self._enqueue)

    def launch(self) -> None:
        """Put one run on the current stream; it does not wait."""
        self._recording.replay()

    def logits(self) -> Tensor:
        """Run once; the output in float32 on the CPU."""
        with self._cuda.current():
            self.launch()
        self._cuda.wait()
        return self._output.float().cpu()

    def memory_mb(self) -> float | None:
        """Weights, scratch memory of the context, images and logits, in MB of 10^6 bytes.

        None where TensorRT does not tell the size of the weights.
        """
        if not hasattr(self._library, "EngineStat"):  # the first versions of 10 lack it
            return None
        weights = self._engine.get_engine_stat(self._library.EngineStat.TOTAL_WEIGHTS_SIZE)
        buffers = self._input.nbytes + self._output.nbytes
        return float(weights + self._engine.device_memory_size_v2 + buffers) / 1e6

    def close(self) -> None:
        """Let go of the engine and of its memory; it is not used afterwards."""
        self._cuda.wait()
        self._recording.reset()
        # In this order: a context must not outlive its engine, nor the buffers what points at them.
        del self._recording, self._context, self._engine, self._input, self._output

    def _new_context(self, messages: list[Message]) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise failure("the engine's scratch memory must fit the GPU", messages)
        return context

    def _bind(self, images: Tensor, messages: list[Message]) -> None:
        """Give the engine its images and a place for its output."""
        source, target = self._names()
        if not self._context.set_input_shape(source, tuple(images.shape)):
            taken = tuple(self._engine.get_tensor_shape(source))
            raise InputError(
                "the images must have a shape that the engine was built for",
                got=tuple(images.shape),
                hint=f"its input is {taken}, where -1 is a batch in the range that it was built for",
            )
        self._input = self._cuda.place(images.to(self._dtype(source)))
        self._output = self._cuda.empty(tuple(self._context.get_tensor_shape(target)), self._dtype(target))
        for name, tensor in ((source, self._input), (target, self._output)):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise failure(f"TensorRT must take the memory of {name!r}", messages)

    def _names(self) -> tuple[str, str]:
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
        with collected(self._library) as messages:
            if not self._context.execute_async_v3(self._cuda.handle):
                raise failure("TensorRT must be able to run the engine", messages)
