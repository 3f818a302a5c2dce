"""What must hold for an ONNX graph before TensorRT sees it."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.errors import InputError
from hwnas.export.tensorrt.settings import EngineSettings

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX graph with one input of images and one output."""

    name: str
    """Of the input."""
    shape: tuple[int | None, ...]
    """Of the input; None for a length that the graph leaves open."""
    precision: str | None
    """In which most of its weights are stored; None where it has none."""


def read_graph(data: bytes) -> Graph:
    """Look at a serialised ONNX graph; weights in other files are refused, since its hash would not hold them."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InputError("this must be an ONNX graph", got=error) from error
    weights = model.graph.initializer
    outside = [item.name for item in weights if item.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise InputError("the weights must be inside the ONNX file", got=f"{outside[0]!r} in a file of its own")
    names = {item.name for item in weights}
    inputs = [item for item in model.graph.input if item.name not in names]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        got = f"{len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise InputError("the graph must have one input and one output", got=got)
    return Graph(name=inputs[0].name, shape=_shape(inputs[0]), precision=_precision(model))


def check_graph(graph: Graph, settings: EngineSettings) -> None:
    """The graph's batch and the type of its weights must be those of the settings."""
    batch, wanted = graph.shape[0], settings.batches
    if batch is not None and wanted != (batch, batch):
        asked = str(wanted[0]) if wanted[0] == wanted[1] else f"{wanted[0]} to {wanted[1]}"
        hint = "an ONNX graph of that batch, or one that leaves it open"
        raise InputError(f"the graph must take the batch {asked}", got=f"a fixed batch of {batch}", hint=hint)
    if None in graph.shape[1:]:
        raise InputError("only the batch may be open in the graph's input", got=graph.shape)
    if graph.precision not in (None, settings.weight_precision):
        raise InputError(
            f"a {'strongly typed' if settings.typing == 'strong' else 'flagged'} engine of precision "
            f"{settings.precision} needs an ONNX graph with weights in {settings.weight_precision}",
            got=f"weights in {graph.precision}",
            hint="export the ONNX graph in that precision",
        )


def _shape(value: "onnx.ValueInfoProto") -> tuple[int | None, ...]:
    lengths = value.type.tensor_type.shape.dim
    if not lengths:
        raise InputError("the graph's input must have a shape", got=value.name)
    return tuple(item.dim_value if item.HasField("dim_value") else None for item in lengths)


def _precision(model: "onnx.ModelProto") -> str | None:
    import onnx

    kinds = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    sizes: Counter[str] = Counter()
    for item in model.graph.initializer:
        if item.data_type in kinds:
            sizes[kinds[item.data_type]] += math.prod(item.dims)
    return sizes.most_common(1)[0][0] if sizes else None
