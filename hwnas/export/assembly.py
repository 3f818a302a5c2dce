"""Assemble an ONNX graph from the graphs of its segments, which run one after another, and their weights."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.export.dynamo import INPUT, OUTPUT
from hwnas.export.graph_template import GraphInstance
from hwnas.export.precision import precision_type

_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


class GraphAssembly:
    """An ONNX graph under construction, from float32 images to float32 logits.

    The segments compute in one precision; a cast at either end converts from and to float32.
    """

    def __init__(self, *, precision: str, shape: Sequence[int]) -> None:
        """Begin a graph.

        Args:
            precision: Precision of the weights and of the computation.
            shape: Shape of the input, with the batch.
        """
        self.shape = tuple(shape)
        """Shape of the output of the last segment."""
        self._dtype = precision_type(precision)
        self._model = ModelProto()
        self._graph = self._model.graph
        self._graph.name = "network"
        self._graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, self.shape))
        self._shared: dict[tuple[object, ...], str] = {}
        self._versions: set[tuple[int, int]] = set()
        self.last = INPUT
        """Name of the output of the last segment; with `shape` it may be set to that of an earlier one, to branch."""
        if self._dtype != torch.float32:
            self._cast("hwnas/images", _TYPES[self._dtype])

    def append(self, name: str, instance: GraphInstance, segment: nn.Module, *, inputs: Sequence[str] = ()) -> None:
        """Append a segment.

        Args:
            name: A prefix for its nodes, unique in the graph.
            instance: Its graph.
            segment: The module with its weights.
            inputs: Names of its inputs, if it has several; else it reads the last segment.
        """
        weights = _SegmentWeights(self, name, segment)
        names = {f"x{number}": source for number, source in enumerate(inputs)}
        names |= {"": "", "x": self.last, **{tensor.name: self.add_constant(tensor) for tensor in instance.constants}}
        for index, node in enumerate(self._without_weight_transposes(instance.nodes, names, weights)):
            names |= {output: f"{name}/{output}" for output in node.output if output}
            self._graph.node.append(node)
            own = self._graph.node[-1]
            own.name = f"{name}/{node.op_type}.{index}"
            own.input[:] = [
                weights.add(source.removeprefix("p:")) if source.startswith("p:") else names[source]
                for source in node.input
            ]
            own.output[:] = [names[output] for output in node.output]
        self.last = names[instance.output]
        self.shape = instance.output_shape
        self._versions.add((instance.opset, instance.ir_version))

    def finish(self) -> ModelProto:
        """Name the output and return the complete graph."""
        if self._dtype != torch.float32:
            self._cast(OUTPUT, TensorProto.FLOAT)
        for node in self._graph.node:
            for names in (node.input, node.output):
                names[:] = [OUTPUT if name == self.last else name for name in names]
        self._graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, self.shape))
        ((opset, ir_version),) = self._versions
        self._model.ir_version = ir_version
        self._model.opset_import.append(helper.make_opsetid("", opset))
        return self._model

    def add_weight(self, name: str, tensor: Tensor) -> str:
        """Add a weight in the precision of the graph; equal weights stay apart."""
        data_type, content = self._encode(tensor)
        self._graph.initializer.add(name=name, data_type=data_type, dims=tensor.shape, raw_data=content)
        return name

    def add_buffer(self, tensor: Tensor) -> str:
        """Add a buffer in the precision of the graph; equal buffers, index tables mostly, are stored once."""
        data_type, content = self._encode(tensor)
        return self.add_constant(TensorProto(data_type=data_type, dims=tensor.shape, raw_data=content))

    def add_constant(self, tensor: TensorProto) -> str:
        """Add a constant, or find an equal one, and return its name."""
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if key not in self._shared:
            self._shared[key] = f"constant.{len(self._shared)}"
            self._graph.initializer.add().CopyFrom(tensor)
            self._graph.initializer[-1].name = self._shared[key]
        return self._shared[key]

    def _encode(self, tensor: Tensor) -> tuple[int, bytes]:
        own = tensor.to("cpu", self._dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if own.dtype not in _TYPES:
            raise InputError("the tensors of a network must be of a type that ONNX has", got=own.dtype)
        bits = own.view(torch.int16) if own.dtype == torch.bfloat16 else own  # numpy has no bfloat16
        return _TYPES[own.dtype], bits.numpy().tobytes()

    def _without_weight_transposes(
        self, nodes: Sequence[NodeProto], names: dict[str, str], weights: "_SegmentWeights"
    ) -> Iterator[NodeProto]:
        """Yield the nodes except those that transpose a weight, which is added transposed instead.

        Torch's exporter folds such nodes if weights are constants. Here they are inputs, so we do it ourselves.
        """
        for node in nodes:
            if node.op_type == "Transpose" and node.input[0].startswith("p:"):
                (order,) = (list(attribute.ints) for attribute in node.attribute)
                names[node.output[0]] = weights.add(node.input[0].removeprefix("p:"), order)
            else:
                yield node

    def _cast(self, name: str, data_type: int) -> None:
        self._graph.node.append(helper.make_node("Cast", [self.last], [name], name=f"hwnas/{name}", to=data_type))
        self.last = name


class _SegmentWeights:
    """The tensors of a segment, added to the graph when they are first used."""

    def __init__(self, assembly: GraphAssembly, segment: str, module: nn.Module) -> None:
        self._assembly = assembly
        self._segment = segment
        self._parameters: Mapping[str, Tensor] = dict(module.named_parameters())
        self._buffers: Mapping[str, Tensor] = dict(module.named_buffers())
        self._names: dict[tuple[object, ...], str] = {}

    def add(self, name: str, order: Sequence[int] | None = None) -> str:
        """Add a tensor, with its dimensions in another order if one is given, and return its name in the graph."""
        key = (name, *(order or ()))
        if key not in self._names:
            tensor = self._parameters[name] if name in self._parameters else self._buffers[name]
            tensor = tensor.detach() if order is None else tensor.detach().permute(*order)
            suffix = "" if order is None else ".permuted." + "".join(map(str, order))
            self._names[key] = (
                self._assembly.add_buffer(tensor)
                if name in self._buffers
                else self._assembly.add_weight(f"{self._segment}.{name}{suffix}", tensor)
            )
        return self._names[key]
