"""A graph that grows by one segment after another, each with its weights."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.export.dynamo import INPUT, OUTPUT
from hwnas.export.graph_template import Filled
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


class Assembly:
    """From float32 images to float32 logits; between them segments that compute in one precision."""

    def __init__(self, *, precision: str, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        """Of what the last segment gives."""
        self._dtype = precision_type(precision)
        self._model = ModelProto()
        self._graph = self._model.graph
        self._graph.name = "network"
        self._graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, self.shape))
        self._shared: dict[tuple[object, ...], str] = {}
        self._versions: set[tuple[int, int]] = set()
        self._last = INPUT
        if self._dtype != torch.float32:
            self._cast("hwnas/images", _TYPES[self._dtype])

    def append(self, name: str, filled: Filled, segment: nn.Module) -> None:
        """Let a segment follow the last one."""
        weights = _Weights(self, name, segment)
        names = {"": "", "x": self._last, **{tensor.name: self.share(tensor) for tensor in filled.constants}}
        for index, node in enumerate(self._unfolded(filled.nodes, names, weights)):
            names |= {made: f"{name}/{made}" for made in node.output if made}
            self._graph.node.append(node)
            own = self._graph.node[-1]
            own.name = f"{name}/{node.op_type}.{index}"
            own.input[:] = [weights.named(used[2:]) if used.startswith("p:") else names[used] for used in node.input]
            own.output[:] = [names[made] for made in node.output]
        self._last = names[filled.output]
        self.shape = filled.output_shape
        self._versions.add((filled.opset, filled.ir_version))

    def finish(self) -> ModelProto:
        """The whole graph."""
        if self._dtype != torch.float32:
            self._cast(OUTPUT, TensorProto.FLOAT)
        for node in self._graph.node:
            for names in (node.input, node.output):
                names[:] = [OUTPUT if name == self._last else name for name in names]
        self._graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, self.shape))
        ((opset, ir_version),) = self._versions
        self._model.ir_version = ir_version
        self._model.opset_import.append(helper.make_opsetid("", opset))
        return self._model

    def add(self, name: str, tensor: Tensor) -> str:
        """Put a weight into the graph, in the graph's precision."""
        data_type, raw = self._encoded(tensor)
        self._graph.initializer.add(name=name, data_type=data_type, dims=tensor.shape, raw_data=raw)
        return name

    def share(self, tensor: TensorProto) -> str:
        """Put a constant into the graph, or find the equal one that is there."""
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if key not in self._shared:
            self._shared[key] = f"constant.{len(self._shared)}"
            self._graph.initializer.add().CopyFrom(tensor)
            self._graph.initializer[-1].name = self._shared[key]
        return self._shared[key]

    def share_tensor(self, tensor: Tensor) -> str:
        """The same for a tensor that torch holds."""
        data_type, raw = self._encoded(tensor)
        return self.share(TensorProto(data_type=data_type, dims=tensor.shape, raw_data=raw))

    def _encoded(self, tensor: Tensor) -> tuple[int, bytes]:
        own = tensor.to("cpu", self._dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if own.dtype not in _TYPES:
            raise InputError("the tensors of a network must be of a type that ONNX has", got=own.dtype)
        plain = own.view(torch.int16) if own.dtype == torch.bfloat16 else own
        return _TYPES[own.dtype], plain.numpy().tobytes()

    def _unfolded(self, nodes: Sequence[NodeProto], names: dict[str, str], weights: "_Weights") -> Iterator[NodeProto]:
        """The nodes but for those that only transpose a weight, which goes in transposed."""
        for node in nodes:
            if node.op_type == "Transpose" and node.input[0].startswith("p:"):
                (order,) = (list(attribute.ints) for attribute in node.attribute)
                names[node.output[0]] = weights.permuted(node.input[0][2:], order)
            else:
                yield node

    def _cast(self, name: str, data_type: int) -> None:
        self._graph.node.append(helper.make_node("Cast", [self._last], [name], name=f"hwnas/{name}", to=data_type))
        self._last = name


class _Weights:
    """The tensors of a segment, put into the graph when they are first used."""

    def __init__(self, assembly: Assembly, segment: str, module: nn.Module) -> None:
        self._assembly = assembly
        self._segment = segment
        self._parameters: Mapping[str, Tensor] = dict(module.named_parameters())
        self._buffers: Mapping[str, Tensor] = dict(module.named_buffers())
        self._names: dict[tuple[object, ...], str] = {}

    def named(self, name: str) -> str:
        """A tensor as it is."""
        return self.permuted(name, None)

    def permuted(self, name: str, order: Sequence[int] | None) -> str:
        """A tensor with its dimensions in another order."""
        key = (name, *(order or ()))
        if key not in self._names:
            self._names[key] = self._put(name, order)
        return self._names[key]

    def _put(self, name: str, order: Sequence[int] | None) -> str:
        suffix = "" if order is None else ".permuted." + "".join(map(str, order))
        tensor = self._parameters.get(name, self._buffers.get(name))
        assert tensor is not None, name
        tensor = tensor.detach()
        if order is not None:
            tensor = tensor.permute(*order)
        if name in self._buffers:
            return self._assembly.share_tensor(tensor)
        return self._assembly.add(f"{self._segment}.{name}{suffix}", tensor)
