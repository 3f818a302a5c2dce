"""Run ONNX graphs on the CPU with onnxruntime."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, StringStringEntryProto, TensorProto, numpy_helper

from hwnas.errors import MissingError
from hwnas.export.onnxruntime_library import EXACT_INT8, load_onnxruntime

Array = NDArray[np.float32]

_LARGE = 1024
"""Elements from which a weight is passed to the runtime outside of the graph."""
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def can_run_graphs() -> bool:
    """Return True if onnxruntime can be imported."""
    try:
        load_onnxruntime()
    except MissingError:
        return False
    return True


def run_graph(model: ModelProto, images: Array) -> Array:
    """Return the output of a graph; one that onnxruntime cannot run, in bfloat16 or fp8, is widened."""
    (output,) = open_session(runnable(model), fuse_quantised=not has_fp8(model)).run(
        None, {model.graph.input[0].name: images}
    )
    return np.asarray(output)


def open_session(model: ModelProto | bytes, *, fuse_quantised: bool = True) -> Any:
    """Open an InferenceSession on the CPU, with one thread and the runtime's default optimisations.

    Args:
        model: A graph. If it is not serialised, its large weights are passed as arrays without serialising them, which
            halves the time for a large network.
        fuse_quantised: Fuse and move pairs of Q/DQ nodes. With fp8, it moves transpositions to where operators of
            the graph's version do not take that type.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(EXACT_INT8, "1")
    if not fuse_quantised:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    content, weights = (model, {}) if isinstance(model, bytes) else detach_weights(model)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if weights:
        options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.hwnas_weights = values  # the runtime reads this memory without owning it, so the session keeps it alive
    return session


def detach_weights(model: ModelProto) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Split a graph from its large weights, for `SessionOptions.add_external_initializers`.

    Returns:
        The serialised graph, which refers to the weights by name, and the weights. They must be kept as long as a
        session that was opened on them.
    """
    large = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        # Without bfloat16, which numpy lacks.
        if prod(tensor.dims) >= _LARGE and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    }
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        graph.initializer.append(_reference(tensor) if tensor.name in large else tensor)
    weights = {name: numpy_helper.to_array(tensor) for name, tensor in large.items()}
    return light.SerializeToString(), weights


def _reference(tensor: TensorProto) -> TensorProto:
    """Return a tensor without content; its location is any text, since the content is looked up by name."""
    location = StringStringEntryProto(key="location", value="memory")
    return TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
        external_data=[location],
    )


def needs_widening(model: ModelProto) -> bool:
    """Return True if onnxruntime has no CPU kernels for a graph: bfloat16, or float16 around layers in fp8."""
    return has_fp8(model) or any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer)


def has_fp8(model: ModelProto) -> bool:
    """Return True if weights of a graph are in fp8."""
    return any(tensor.data_type == TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer)


def runnable(model: ModelProto) -> ModelProto:
    """Return the graph itself, or the same in float32 if onnxruntime cannot run its precision."""
    return widened(model) if needs_widening(model) else model


def widened(model: ModelProto) -> ModelProto:
    """Return the same graph in float32; its weights keep the values that they have in the narrow type.

    Quantised layers still round to 8 bits.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _NARROW:
                attribute.i = TensorProto.FLOAT
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del wide.graph.value_info[:]  # optional notes on the types in between, which would be wrong now
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        wide: Any = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, name=tensor.name))
