"""A graph taken apart into its form and the numbers in it, and put together again with other numbers.

The form is the graph with names of its own and every number left blank: values of small constants, attributes, and the
sizes of what comes out. Constants are unshared first: an exporter gives equal ones one name, and what is equal at some
sizes is not at others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

MAX_VALUES = 16
"""Numbers of a constant that may be blanks; a larger one is part of the form, but for its sizes if it is uniform."""

_EXACT = 1e-6
_ROUNDING: dict[int, float] = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1.6e-2}

Number = int | float


class UnfitError(Exception):
    """A graph has parts that a form cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant of a graph; `kind` says what is blank: its values, its sizes and its only value, or nothing."""

    kind: str
    data_type: int
    dims: tuple[int, ...]
    """For one with blank sizes only their number counts."""
    fixed: bytes = b""

    @property
    def num_blanks(self) -> int:
        """How many numbers fill it."""
        return {"values": prod(self.dims), "uniform": len(self.dims) + 1, "fixed": 0}[self.kind]

    def tensor(self, numbers: Sequence[Number], *, name: str) -> TensorProto:
        """The constant with its blanks filled."""
        dims, raw = self.dims, self.fixed
        if self.kind != "fixed":
            dtype = helper.tensor_dtype_to_np_dtype(self.data_type)
            if self.kind == "uniform":
                *sizes, value = numbers
                dims = tuple(int(size) for size in sizes)
                raw = np.full(dims, value).astype(dtype).tobytes()
            else:
                raw = np.array(numbers).astype(dtype).tobytes()
        return TensorProto(name=name, data_type=self.data_type, dims=dims, raw_data=raw)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A graph with its numbers, in the names of its form."""

    nodes: list[NodeProto]
    constants: list[TensorProto]
    output: str
    output_shape: tuple[int, ...]
    opset: int
    ir_version: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """A graph without its numbers.

    Nodes name a parameter by `p:` and its own name, the input `x`, constants `c0`, … and values `v0`, ….
    """

    nodes: tuple[NodeProto, ...]
    constants: tuple[Constant, ...]
    output: str
    output_rank: int
    opset: int
    ir_version: int

    def key(self) -> bytes:
        """Equal for graphs of equal form."""
        constants = [(part.kind, part.data_type, _blank_dims(part), part.fixed) for part in self.constants]
        graph: bytes = GraphProto(node=self.nodes).SerializeToString(deterministic=True)
        return repr((constants, self.output, self.output_rank, self.opset, self.ir_version)).encode() + graph

    def tolerances(self, numbers: Sequence[Number]) -> list[float]:
        """How closely each number can be known: constants of few bits are rounded."""
        parts = [_ROUNDING.get(part.data_type, _EXACT) for part in self.constants for _ in range(part.num_blanks)]
        return [*parts, *(_EXACT for _ in range(len(numbers) - len(parts)))]

    def fill(self, numbers: Sequence[Number]) -> Filled:
        """The graph with these numbers."""
        left = iter(numbers)
        constants = [
            part.tensor(_take(left, part.num_blanks), name=f"c{index}") for index, part in enumerate(self.constants)
        ]
        nodes = []
        for blank in self.nodes:
            node = NodeProto()
            node.CopyFrom(blank)
            for attribute in node.attribute:
                _fill(attribute, left)
            nodes.append(node)
        return Filled(
            nodes=nodes,
            constants=constants,
            output=self.output,
            output_shape=tuple(int(size) for size in left),
            opset=self.opset,
            ir_version=self.ir_version,
        )


def take_apart(model: ModelProto) -> tuple[Form, list[Number]]:
    """The form of a graph whose inputs are parameters and, last, the input itself; and its numbers in order."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    names = {value.name: f"p:{value.name}" for value in graph.input}
    names[graph.input[-1].name] = "x"
    reader = _Reader(names, {tensor.name: tensor for tensor in graph.initializer})
    nodes = tuple(reader.node(node) for node in graph.node if not reader.is_constant(node))
    sizes = [dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim]
    form = Form(
        nodes=nodes,
        constants=tuple(reader.constants),
        output=reader.names[graph.output[0].name],
        output_rank=len(sizes),
        opset=_opset(model),
        ir_version=model.ir_version,
    )
    return form, [*reader.values, *reader.attributes, *sizes]


class _Reader:
    """Renames nodes, and collects their constants and numbers."""

    def __init__(self, names: dict[str, str], tensors: dict[str, TensorProto]) -> None:
        self.names = names
        self.constants: list[Constant] = []
        self.values: list[Number] = []
        self.attributes: list[Number] = []
        self._tensors = tensors

    def is_constant(self, node: NodeProto) -> bool:
        """Whether a node only holds a constant, which is kept for those that use it."""
        if node.op_type != "Constant":
            return False
        (attribute,) = node.attribute
        tensor = attribute.t if attribute.HasField("t") else numpy_helper.from_array(_plain(attribute))
        self._tensors[node.output[0]] = tensor
        return True

    def node(self, node: NodeProto) -> NodeProto:
        """A node with canonical names and blank attributes."""
        inputs = [self._input(name) for name in node.input]
        outputs = [self._output(name) for name in node.output]
        attributes = [self._blank(attribute) for attribute in sorted(node.attribute, key=lambda one: one.name)]
        return NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=outputs, attribute=attributes)

    def _input(self, name: str) -> str:
        if name in self._tensors:
            return self._constant(self._tensors[name])
        return self.names[name] if name else ""

    def _output(self, name: str) -> str:
        if name:
            self.names[name] = f"v{len(self.names)}"
        return self.names[name] if name else ""

    def _constant(self, tensor: TensorProto) -> str:
        array = numpy_helper.to_array(tensor)
        dims = tuple(tensor.dims)
        flat = array.reshape(-1)
        if array.size <= MAX_VALUES:
            self.constants.append(Constant(kind="values", data_type=tensor.data_type, dims=dims))
            self.values.extend(flat.tolist())
        elif (flat == flat[0]).all():
            self.constants.append(Constant(kind="uniform", data_type=tensor.data_type, dims=dims))
            self.values.extend([*dims, flat[0].item()])
        else:
            self.constants.append(Constant(kind="fixed", data_type=tensor.data_type, dims=dims, fixed=array.tobytes()))
        return f"c{len(self.constants) - 1}"

    def _blank(self, attribute: AttributeProto) -> AttributeProto:
        blank = AttributeProto()
        blank.CopyFrom(attribute)
        blank.doc_string = ""
        self.attributes.extend(_erase(blank))
        return blank


def _erase(attribute: AttributeProto) -> Iterator[Number]:
    """The numbers of an attribute, which are 0 in it afterwards."""
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
            raise UnfitError(f"the attribute {attribute.name} holds a graph")


def _fill(attribute: AttributeProto, numbers: Iterator[Number]) -> None:
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = int(next(numbers))
        case AttributeProto.FLOAT:
            attribute.f = next(numbers)
        case AttributeProto.INTS:
            attribute.ints[:] = [int(number) for number in _take(numbers, len(attribute.ints))]
        case AttributeProto.FLOATS:
            attribute.floats[:] = _take(numbers, len(attribute.floats))


def _plain(attribute: AttributeProto) -> Any:
    """The array of a constant that is given as plain numbers."""
    value = helper.get_attribute_value(attribute)
    return np.array(value, dtype=np.int64 if attribute.name.startswith("value_int") else np.float32)


def _blank_dims(constant: Constant) -> Any:
    return len(constant.dims) if constant.kind == "uniform" else constant.dims


def _take(numbers: Iterator[Number], count: int) -> list[Number]:
    return [next(numbers) for _ in range(count)]


def _opset(model: ModelProto) -> int:
    found = {opset.domain: opset.version for opset in model.opset_import}
    if set(found) - {""}:
        raise UnfitError(f"the graph uses operators of {', '.join(sorted(found))}")
    version: int = found[""]
    return version
