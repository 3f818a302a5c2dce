"""What a graph gives, by onnxruntime on the CPU."""

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    ModelProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[np.float32]

_LARGE = 1024
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def evaluate(model: ModelProto, images: Array) -> Array:
    """The logits for images; bfloat16 graphs, which this runtime cannot run, are widened to float32."""
    (output,) = open_session(runnable(model)).run(None, {model.graph.input[0].name: images})
    return np.asarray(output)


def open_session(model: ModelProto | bytes) -> "onnxruntime.InferenceSession":
    """A session on the CPU, with one thread and the runtime's usual optimisations.

    The weights of a graph that is not serialised yet are handed over as they are, which for large networks takes half
    the time off.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content, weights = (model, {}) if isinstance(model, bytes) else without_weights(model)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if weights:
        options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.hwnas_weights = values  # the runtime reads this memory and does not own it
    return session


def without_weights(model: ModelProto) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """A graph that only names its large weights, and these by name, for `SessionOptions.add_external_initializers`.

    Whoever opens a session on them must keep them for as long as the session.
    """
    large = {tensor.name: tensor for tensor in model.graph.initializer if _is_large(tensor)}
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        graph.initializer.append(_name_only(tensor) if tensor.name in large else tensor)
    weights = {name: numpy_helper.to_array(tensor) for name, tensor in large.items()}
    return light.SerializeToString(), weights


def _is_large(tensor: TensorProto) -> bool:
    """Whether a tensor is worth a way of its own; numpy has no bfloat16 to hand over."""
    return prod(tensor.dims) >= _LARGE and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _name_only(tensor: TensorProto) -> TensorProto:
    place = StringStringEntryProto(key="location", value="memory")
    return TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
        external_data=[place],
    )


def is_widened(model: ModelProto) -> bool:
    """Whether a graph is run with wider numbers than its own."""
    return any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer)


def runnable(model: ModelProto) -> ModelProto:
    """The graph itself, or the same in float32 where this runtime has no kernels for its numbers."""
    return widened(model) if is_widened(model) else model


def widened(model: ModelProto) -> ModelProto:
    """The same graph in float32, with the weights that its own precision has left of them."""
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            _widen_attribute(node.op_type, attribute)
    for value in (*wide.graph.input, *wide.graph.output):
        _widen_value(value)
    del wide.graph.value_info[:]
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        wide: Any = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, name=tensor.name))


def _widen_attribute(op_type: str, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif op_type == "Cast" and attribute.name == "to" and attribute.i in _NARROW:
        attribute.i = TensorProto.FLOAT


def _widen_value(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type in _NARROW:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
