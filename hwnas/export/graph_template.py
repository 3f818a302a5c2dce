"""Factor an ONNX graph into a template and the numbers in it, and fill a template with other numbers.

A blank is a number that a template leaves open: an integer or real number in a small constant (the target shape of a
Reshape), in an attribute (the axis of a Softmax) or in the shape of the output. Graphs that differ only in such numbers
have equal templates. Names do not matter either: a template renames everything that a node reads or writes.

Exporters store equal constants once. In a template each use of a constant is a constant of its own, because numbers
that are equal for one size of a module may differ for another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any, Literal

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from hwnas.export.size_rules import Number

MAX_VALUES = 16
"""Constants of up to this size have blank values. Larger ones are data and part of the template, unless all their
values are equal: then their shape and the one value are blanks."""

# Relative tolerance of the numbers in a graph. Storing a number in a narrow type moves it by up to 2**-11 (float16) or
# 2**-8 (bfloat16) of itself. Four times that is allowed, since it may come from several operations in that type.
_EXACT = 1e-6
_ROUNDED: dict[int, float] = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1.6e-2}


class UnsupportedGraphError(Exception):
    """A graph has parts that a template cannot hold."""


@dataclass(frozen=True, kw_only=True)
class ConstantTemplate:
    """A constant whose numbers may be blanks."""

    kind: Literal["values", "uniform", "fixed"]
    """The blanks: all values; the shape and the single value that fills it; or none."""
    data_type: int
    dims: tuple[int, ...]
    """Sizes of the constant; for a uniform one only their number is compared."""
    content: bytes = b""
    """Of a fixed constant."""

    @property
    def num_blanks(self) -> int:
        """The number of blanks."""
        return {"values": prod(self.dims), "uniform": len(self.dims) + 1, "fixed": 0}[self.kind]

    def fill(self, numbers: Sequence[Number], *, name: str) -> TensorProto:
        """Return the constant with these numbers in its blanks."""
        dims, content = self.dims, self.content
        if self.kind != "fixed":
            dtype = helper.tensor_dtype_to_np_dtype(self.data_type)
            if self.kind == "uniform":
                *sizes, value = numbers
                dims = tuple(int(size) for size in sizes)
                content = np.full(dims, value).astype(dtype).tobytes()
            else:
                content = np.array(numbers).astype(dtype).tobytes()
        return TensorProto(name=name, data_type=self.data_type, dims=dims, raw_data=content)


@dataclass(frozen=True, kw_only=True)
class GraphInstance:
    """A template with numbers in its blanks: a graph without weights."""

    nodes: list[NodeProto]
    constants: list[TensorProto]
    output: str
    output_shape: tuple[int, ...]
    opset: int
    ir_version: int


@dataclass(frozen=True, kw_only=True)
class GraphTemplate:
    """A graph with blanks.

    Nodes refer to a parameter as `p:` and its name, to the input as `x` (`x0`, `x1`, … if there are several), to
    constants as `c0`, `c1`, … and to computed values as `v0`, `v1`, ….
    """

    nodes: tuple[NodeProto, ...]
    constants: tuple[ConstantTemplate, ...]
    output: str
    output_rank: int
    opset: int
    ir_version: int

    def key(self) -> bytes:
        """Return bytes that are equal for equal templates."""
        constants = [
            (part.kind, part.data_type, len(part.dims) if part.kind == "uniform" else part.dims, part.content)
            for part in self.constants
        ]
        graph: bytes = GraphProto(node=self.nodes).SerializeToString(deterministic=True)
        return repr((constants, self.output, self.output_rank, self.opset, self.ir_version)).encode() + graph

    def tolerances(self, numbers: Sequence[Number]) -> list[float]:
        """Return the relative precision of each number, which is lower in constants of a narrow type."""
        of_constants = [_ROUNDED.get(part.data_type, _EXACT) for part in self.constants for _ in range(part.num_blanks)]
        return [*of_constants, *(_EXACT for _ in range(len(numbers) - len(of_constants)))]

    def fill(self, numbers: Sequence[Number]) -> GraphInstance:
        """Return the graph with these numbers, in the order in which `factor_graph` returns them."""
        remaining = iter(numbers)
        constants = [
            part.fill(list(islice(remaining, part.num_blanks)), name=f"c{index}")
            for index, part in enumerate(self.constants)
        ]
        nodes = []
        for blank in self.nodes:
            node = NodeProto()
            node.CopyFrom(blank)
            for attribute in node.attribute:
                _fill_attribute(attribute, remaining)
            nodes.append(node)
        return GraphInstance(
            nodes=nodes,
            constants=constants,
            output=self.output,
            output_shape=tuple(int(size) for size in remaining),
            opset=self.opset,
            ir_version=self.ir_version,
        )


def factor_graph(model: ModelProto) -> tuple[GraphTemplate, list[Number]]:
    """Factor a graph into its template and its numbers.

    Args:
        model: A graph whose inputs are the parameters of a module and, last, the module's own input, or several of the
            names `hwnas.input.0` and so on.

    Returns:
        The template, and the numbers: those of constants, of attributes, and the sizes of the output.

    Raises:
        UnsupportedGraphError: A node holds a graph of its own, or an operator is not of ONNX itself.
    """
    if model.functions:  # torch defines some of its operators as functions of the graph
        model = inliner.inline_local_functions(model)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if foreign := sorted(set(opsets) - {""}):
        raise UnsupportedGraphError(f"the graph uses operators of {', '.join(foreign)}")
    graph = model.graph
    names = {value.name: f"p:{value.name}" for value in graph.input}
    names[graph.input[-1].name] = "x"
    names |= {value.name: f"x{number}" for number, value in _several_inputs(graph)}
    reader = _GraphReader(names, {tensor.name: tensor for tensor in graph.initializer})
    nodes = tuple(reader.read(node) for node in graph.node if not reader.take_constant(node))
    sizes = [dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim]
    template = GraphTemplate(
        nodes=nodes,
        constants=tuple(reader.constants),
        output=reader.names[graph.output[0].name],
        output_rank=len(sizes),
        opset=opsets[""],
        ir_version=model.ir_version,
    )
    return template, [*reader.constant_numbers, *reader.attribute_numbers, *sizes]


def _several_inputs(graph: GraphProto) -> Iterator[tuple[str, Any]]:
    """Yield the number and the value of each of several inputs of a module."""
    for value in graph.input:
        if value.name.startswith("hwnas.input."):
            yield value.name.removeprefix("hwnas.input."), value


class _GraphReader:
    """Renames nodes, and collects their constants and numbers."""

    def __init__(self, names: dict[str, str], tensors: dict[str, TensorProto]) -> None:
        self.names = names
        self.constants: list[ConstantTemplate] = []
        self.constant_numbers: list[Number] = []
        self.attribute_numbers: list[Number] = []
        self._tensors = tensors

    def take_constant(self, node: NodeProto) -> bool:
        """Keep the tensor of a Constant node for the nodes that read it; return False for any other node."""
        if node.op_type != "Constant":
            return False
        (attribute,) = node.attribute
        if attribute.HasField("t"):
            tensor = attribute.t
        else:
            kind = np.int64 if attribute.name.startswith("value_int") else np.float32
            tensor = numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtype=kind))
        self._tensors[node.output[0]] = tensor
        return True

    def read(self, node: NodeProto) -> NodeProto:
        """Return a node with canonical names and blank attributes."""
        inputs = [self._input(name) for name in node.input]
        for name in filter(None, node.output):  # an unused output may have an empty name
            self.names[name] = f"v{len(self.names)}"
        outputs = [self.names[name] if name else "" for name in node.output]
        attributes = []
        for attribute in sorted(node.attribute, key=lambda item: item.name):
            blank = AttributeProto()
            blank.CopyFrom(attribute)
            blank.doc_string = ""
            self.attribute_numbers.extend(_clear_attribute(blank))
            attributes.append(blank)
        return NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=outputs, attribute=attributes)

    def _input(self, name: str) -> str:
        if name in self._tensors:
            return self._constant(self._tensors[name])
        return self.names[name] if name else ""  # an optional input that is left out has an empty name

    def _constant(self, tensor: TensorProto) -> str:
        array = numpy_helper.to_array(tensor)
        dims = tuple(tensor.dims)
        flat = array.reshape(-1)
        if array.size <= MAX_VALUES:
            self.constants.append(ConstantTemplate(kind="values", data_type=tensor.data_type, dims=dims))
            self.constant_numbers.extend(flat.tolist())
        elif (flat == flat[0]).all():
            self.constants.append(ConstantTemplate(kind="uniform", data_type=tensor.data_type, dims=dims))
            self.constant_numbers.extend([*dims, flat[0].item()])
        else:
            content = array.tobytes()
            self.constants.append(
                ConstantTemplate(kind="fixed", data_type=tensor.data_type, dims=dims, content=content)
            )
        return f"c{len(self.constants) - 1}"


def _clear_attribute(attribute: AttributeProto) -> Iterator[Number]:
    """Yield the numbers of an attribute and set them to 0."""
    match attribute.type:
        case AttributeProto.INT:
            yield attribute.i
            attribute.i = 0
        case AttributeProto.FLOAT:
            yield attribute.f
            attribute.f = 0
        case AttributeProto.INTS:
            yield from list(attribute.ints)
            attribute.ints[:] = [0] * len(attribute.ints)
        case AttributeProto.FLOATS:
            yield from list(attribute.floats)
            attribute.floats[:] = [0] * len(attribute.floats)
        case AttributeProto.STRING | AttributeProto.STRINGS | AttributeProto.TENSOR:
            return
        case _:
            raise UnsupportedGraphError(f"the attribute {attribute.name} holds a graph")


def _fill_attribute(attribute: AttributeProto, numbers: Iterator[Any]) -> None:
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = int(next(numbers))
        case AttributeProto.FLOAT:
            attribute.f = next(numbers)
        case AttributeProto.INTS:
            attribute.ints[:] = [int(number) for number in islice(numbers, len(attribute.ints))]
        case AttributeProto.FLOATS:
            attribute.floats[:] = list(islice(numbers, len(attribute.floats)))
