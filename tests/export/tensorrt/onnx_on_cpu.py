"""Runs an ONNX graph on the CPU from and to plain addresses, as an engine does on a GPU."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

_KINDS: dict[int, tuple[str, torch.dtype]] = {
    onnx.TensorProto.FLOAT: ("FLOAT", torch.float32),
    onnx.TensorProto.FLOAT16: ("HALF", torch.float16),
    onnx.TensorProto.BFLOAT16: ("BF16", torch.bfloat16),
}


@dataclass(frozen=True)
class FakeTensor:
    """An input or an output; -1 is a length that is open."""

    name: str
    is_input: bool
    kind: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            mine in (-1, given) for mine, given in zip(self.shape, shape, strict=True)
        )


class CpuGraph:
    """A graph that ONNX Runtime evaluates; bfloat16, which it has too little of, is evaluated in float32."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        names = {item.name for item in model.graph.initializer}
        inputs = [_tensor(item, is_input=True) for item in model.graph.input if item.name not in names]
        self.tensors = inputs + [_tensor(item, is_input=False) for item in model.graph.output]
        self.weight_bytes = sum(len(item.raw_data) for item in model.graph.initializer)
        self._model = model
        self._session: Any = None

    @property
    def inputs(self) -> list[FakeTensor]:
        return [item for item in self.tensors if item.is_input]

    def find(self, name: str) -> FakeTensor | None:
        return next((item for item in self.tensors if item.name == name), None)

    def output_shape(self, name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        found = self._run({item.name: np.zeros(shapes[item.name], np.float32) for item in self.inputs})
        return tuple(found[name].shape)

    def run_in_memory(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        given = {item.name: _load(item, shapes[item.name], addresses[item.name]) for item in self.inputs}
        for name, value in self._run(given).items():
            tensor = self.find(name)
            assert tensor is not None
            data = torch.from_numpy(value).to(tensor.dtype).contiguous()
            ctypes.memmove(addresses[name], data.data_ptr(), data.nbytes)

    def _run(self, given: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                _without_bfloat16(self._model).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        feed = {item.name: given[item.name].astype(kinds[item.type]) for item in self._session.get_inputs()}
        names = [item.name for item in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feed), strict=True))


def _tensor(value: onnx.ValueInfoProto, *, is_input: bool) -> FakeTensor:
    kind, dtype = _KINDS[value.type.tensor_type.elem_type]
    lengths = value.type.tensor_type.shape.dim
    shape = tuple(item.dim_value if item.HasField("dim_value") else -1 for item in lengths)
    return FakeTensor(value.name, is_input, kind, dtype, shape)


def _load(tensor: FakeTensor, shape: tuple[int, ...], address: int) -> NDArray[np.float32]:
    held = torch.empty(shape, dtype=tensor.dtype)
    ctypes.memmove(held.data_ptr(), address, held.nbytes)
    return held.float().numpy()


def _without_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    half, full = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    for item in copied.graph.initializer:
        if item.data_type == half:
            wide = onnx.numpy_helper.to_array(item).astype(np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(wide, item.name))
    for value in (*copied.graph.input, *copied.graph.output, *copied.graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = full
    for node in copied.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = full
            elif attribute.HasField("t") and attribute.t.data_type == half:
                attribute.t.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(attribute.t).astype(np.float32))
                )
    return copied
