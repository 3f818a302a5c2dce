"""Quantise the linear layers of an ONNX graph to int8 or fp8.

A linear layer is a product of activations and a weight matrix, which is where a vision transformer spends its time.
Weights are quantised per output channel, activations per tensor, both symmetrically:

    q = clip(round(x / s), -127, 127)    with the scale s = bound / 127

- `int8`: the scales of activations are constants of the graph, found on calibration images. The graph has float
  operators behind pairs of QuantizeLinear and DequantizeLinear (Q/DQ), the one form that all runtimes turn into int8
  kernels. TensorRT computes in the types of the graph, so for engines the rest of it is in float16.
- `int8-dynamic`: each run computes the scales of activations from the images at hand. No calibration is needed. Only
  ONNX Runtime runs these operators fast.
- `fp8`: Q/DQ pairs to floating-point numbers of 8 bits (E4M3, largest value 448) in a graph in float16, the form that
  TensorRT takes for GPUs with units for them. Weights have one scale each, like activations: a scale moves the exponent
  of such a number, not its precision. Layers that read the same activation share a pair, and matrices with fewer than
  16 rows or columns, which those units do not take, stay in float.

Convolutions, products of two activations in attention, the classifier and everything else stay in float: quantising
them gains no time on the CPUs that we measured, or costs some, and costs accuracy (docs/decisions.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.errors import CheckFailedError, InputError, unknown
from hwnas.export.calibration import CALIBRATION_METHODS, Array, Calibration, CalibrationMethod, CalibrationRecipe
from hwnas.export.onnxruntime_library import load_onnxruntime
from hwnas.export.scales import (
    FP8_LARGEST,
    FP8_SMALLEST_SIZE,
    LEVELS,
    SMALLEST_BOUND,
    fp8_scale,
    half_scale,
    int8_scale,
)

_BINS = 2048
_PERCENTILE = 99.99
_MSE_BOUNDS = np.linspace(0.2, 1.0, 81)
"""Bounds that are tried, as shares of the largest value."""


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """The range of an activation that a linear layer reads."""

    bound: float
    """Largest magnitude that is represented."""
    rank: int
    """Number of dimensions."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A product of activations and a weight matrix in a graph."""

    name: str
    """Name of its weight, without the suffixes of the exporter."""
    output: str
    activation: str
    weight: str
    """Name of the matrix, which has a row per input and a column per output."""
    shape: tuple[int, int]
    """Rows and columns of the matrix."""


def linear_layers(model: ModelProto, *, precision: str = "int8") -> list[LinearLayer]:
    """Return the layers that are quantised, in the order in which they run.

    Args:
        model: The graph, in float32 or float16.
        precision: The precision that they are quantised to.

    Raises:
        InputError: There are none.
    """
    smallest = FP8_SMALLEST_SIZE if precision == "fp8" else 1
    matrices = {
        tensor.name: (tensor.dims[0], tensor.dims[1])
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and min(tensor.dims) >= smallest
    }
    from_images = {value.name for value in model.graph.input}
    layers = []
    for node in model.graph.node:
        if from_images.isdisjoint(node.input):
            continue  # computed from parameters alone, which runtimes do once
        from_images.update(filter(None, node.output))
        if node.op_type == "MatMul" and node.input[1] in matrices:
            name = node.input[1].partition(".permuted")[0].removesuffix(".weight")
            layers.append(
                LinearLayer(
                    name=name,
                    output=node.output[0],
                    activation=node.input[0],
                    weight=node.input[1],
                    shape=matrices[node.input[1]],
                )
            )
    if not layers:
        size = f" of at least {smallest} inputs and outputs" if smallest > 1 else ""
        message = f"a network must have linear layers over tokens{size} to be quantised"
        raise InputError(message, got="none in the graph", hint="--precision fp32")
    return layers


def calibrate(model: ModelProto, images: Iterable[Array], *, method: CalibrationMethod) -> dict[str, ActivationRange]:
    """Find the ranges of the activations that linear layers read.

    Args:
        model: The graph in float32.
        images: Batches of the size that the graph accepts. They are iterated over twice, except for 'minmax'.
        method: How a range follows from the values.

    Returns:
        The range of each activation by its name.

    Raises:
        CheckFailedError: An activation is NaN or infinite.
        InputError: There are no images, or the graph has no linear layers.
    """
    if method not in CALIBRATION_METHODS:
        raise unknown("calibration method", method, CALIBRATION_METHODS)
    largest, ranks = _largest_values(model, images)
    if not largest:
        raise InputError("calibration needs at least one batch of images", got="none", hint="--data DIR")
    bounds = largest if method == "minmax" else _clipped_bounds(ActivationProbe(model), images, largest, method=method)
    return {name: ActivationRange(bound=bound, rank=ranks[name]) for name, bound in bounds.items()}


def require_shape(images: Array, model: ModelProto) -> None:
    """Require images of the size that a graph accepts."""
    expected = tuple(dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if images.shape[1:] != expected:
        message = "images must have the shape that the network was made for"
        raise InputError(message, got=images.shape[1:], known=[expected])


class ActivationProbe:
    """Runs a float32 graph and returns the activations that its linear layers read."""

    def __init__(self, model: ModelProto) -> None:
        """Open a session on the graph; the graph itself is not changed."""
        self._model = model
        self._input = model.graph.input[0].name
        self._names = [name for name in _read_activations(model) if name != self._input]
        self._session = _open_unfused(model, nodes=(), outputs=self._names)

    def run(self, images: Array) -> dict[str, Array]:
        """Return the activations of a batch by name."""
        require_shape(images, self._model)
        # Without names, a session would return all of its outputs.
        values: list[Array] = self._session.run(self._names, {self._input: images}) if self._names else []
        return {self._input: images, **dict(zip(self._names, values, strict=True))}


def _largest_values(model: ModelProto, images: Iterable[Array]) -> tuple[dict[str, float], dict[str, int]]:
    """Return the largest magnitude and the rank of each activation that a linear layer reads.

    The graph itself reduces them, so that the activations of a large batch are not all kept at once. NaN is looked for
    in the sum: ONNX Runtime's ReduceMax passes over it.
    """
    names, nodes = _read_activations(model), []
    for name in names:
        nodes.append(helper.make_node("Abs", [name], [f"{name}/hwnas.abs"]))
        nodes.append(helper.make_node("ReduceMax", [f"{name}/hwnas.abs"], [f"{name}/hwnas.max"], keepdims=0))
        nodes.append(helper.make_node("ReduceSum", [f"{name}/hwnas.abs"], [f"{name}/hwnas.sum"], keepdims=0))
        nodes.append(helper.make_node("Shape", [name], [f"{name}/hwnas.shape"]))
    outputs = [f"{name}/hwnas.{what}" for name in names for what in ("max", "sum", "shape")]
    session = _open_unfused(model, nodes=nodes, outputs=outputs)
    largest: dict[str, float] = {}
    ranks: dict[str, int] = {}
    for batch in images:
        require_shape(batch, model)
        found = session.run(outputs, {model.graph.input[0].name: batch})
        for name, bound, total, shape in zip(names, found[::3], found[1::3], found[2::3], strict=True):
            if not np.isfinite(total):
                message = "activations must be finite numbers to be quantised"
                raise CheckFailedError(message, got=f"NaN or infinity in {name}", hint="other weights")
            largest[name], ranks[name] = max(largest.get(name, 0.0), float(bound)), len(shape)
    return largest, ranks


def _read_activations(model: ModelProto) -> list[str]:
    """Return the names of the activations that linear layers read, each once."""
    return list(dict.fromkeys(layer.activation for layer in linear_layers(model)))


def _open_unfused(model: ModelProto, *, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> Any:
    """Open a session on a copy of a graph with further nodes and outputs.

    Without the optimiser, which would fuse operators and remove the values in between. It also takes longer than it
    saves.
    """
    library = load_onnxruntime()
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.node.extend(nodes)
    present = {value.name for value in probed.graph.output}
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name not in present)
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    return library.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """A quantised graph and what it was made of."""

    model: ModelProto
    float_model: ModelProto
    """The graph in float32."""
    precision: str
    ranges: Mapping[str, ActivationRange] | None
    """Ranges of the activations; None with dynamic scales, as is the recipe."""
    recipe: CalibrationRecipe | None


def quantise_graph(
    model: ModelProto, *, precision: str, calibration: Calibration, half: ModelProto | None = None
) -> Quantisation:
    """Quantise the linear layers of a graph to int8 or fp8.

    Args:
        model: The graph in float32, which is not changed.
        precision: 'int8', 'int8-dynamic' or 'fp8'.
        calibration: Images for the ranges of 'int8' and 'fp8'.
        half: The same graph in float16, which 'fp8' is made of, and 'int8' if it is given.

    Raises:
        CheckFailedError: An activation is NaN or infinite.
        InputError: The graph has no linear layers, or there are no images.
    """
    if precision == "int8-dynamic":
        dynamic = quantise_dynamically(model)
        return Quantisation(model=dynamic, float_model=model, precision=precision, ranges=None, recipe=None)
    ranges = calibrate(model, calibration.batches, method=calibration.recipe.method)
    if half is not None:
        quantised = quantise_in_half(half, _ranges_in_half(model, half, ranges), precision=precision)
    else:
        quantised = quantise(model, ranges)
    return Quantisation(
        model=quantised, float_model=model, precision=precision, ranges=ranges, recipe=calibration.recipe
    )


def _ranges_in_half(
    model: ModelProto, half: ModelProto, ranges: Mapping[str, ActivationRange]
) -> dict[str, ActivationRange]:
    """Return the ranges by the names of the graph in float16, whose layers are the same in the same order."""
    pairs = zip(linear_layers(model), linear_layers(half), strict=True)
    return {own.activation: ranges[layer.activation] for layer, own in pairs}


def quantise(model: ModelProto, ranges: Mapping[str, ActivationRange]) -> ModelProto:
    """Return a graph with Q/DQ pairs before its linear layers, and their weights in int8.

    Args:
        model: The graph in float32, which is not changed.
        ranges: The ranges that `calibrate` found.
    """
    layers = {layer.output: layer for layer in linear_layers(model)}
    rewriter = _GraphRewriter(model)
    for node in model.graph.node:
        if layer := layers.get(node.output[0]):
            inputs = [rewriter.quantised_activation(layer, ranges[layer.activation]), rewriter.quantised_weight(layer)]
            rewriter.add("MatMul", inputs, layer.output)
        elif bias_of := [layers[name] for name in node.input if node.op_type == "Add" and name in layers]:
            rewriter.add_bias(node, rank=ranges[bias_of[0].activation].rank)
        else:
            rewriter.nodes.append(node)
    return rewriter.finish()


def quantise_in_half(model: ModelProto, ranges: Mapping[str, ActivationRange], *, precision: str) -> ModelProto:
    """Return a graph with Q/DQ pairs before its linear layers, their weights in 8 bits, and the rest in float16.

    Args:
        model: The graph in float16, which is not changed.
        ranges: The ranges of its activations.
        precision: 'int8', or 'fp8' for E4M3.
    """
    layers = {layer.output: layer for layer in linear_layers(model, precision=precision)}
    rewriter = _GraphRewriter(model)
    for node in model.graph.node:
        if layer := layers.get(node.output[0]):
            activation = rewriter.half_activation(layer.activation, ranges[layer.activation].bound, precision=precision)
            weight = rewriter.fp8_weight(layer.weight) if precision == "fp8" else rewriter.quantised_weight(layer)
            rewriter.add("MatMul", [activation, weight], layer.output)
        else:
            rewriter.nodes.append(node)
    return rewriter.finish()


def quantise_dynamically(model: ModelProto) -> ModelProto:
    """Return a graph whose linear layers compute in int8 and scale their activations anew in each run.

    Args:
        model: The graph in float32, which is not changed.
    """
    layers = {layer.output: layer for layer in linear_layers(model)}
    rewriter = _GraphRewriter(model)
    for node in model.graph.node:
        if layer := layers.get(node.output[0]):
            rewriter.add_dynamic(layer)
        else:
            rewriter.nodes.append(node)
    return rewriter.finish()


def weight_scales(weight: Array) -> Array:
    """Return the scale of each column of a weight matrix."""
    bounds: Array = np.maximum(np.abs(weight).max(axis=0), SMALLEST_BOUND).astype(np.float32)
    return bounds / np.float32(LEVELS)


def to_int8(values: Array, scale: Array | np.float32) -> NDArray[np.int8]:
    """Return the quantised values of a tensor."""
    quantised: NDArray[np.int8] = np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8)
    return quantised


def rounded(values: Array, bound: float, *, precision: str = "int8") -> Array:
    """Return the values of an activation as int8 or fp8 represents them, in float32."""
    if precision == "fp8":
        return _as_fp8(values, fp8_scale(bound)).float().numpy() * fp8_scale(bound)
    scale = int8_scale(bound)
    return to_int8(values, scale) * scale


def rounded_weight(weight: Array, *, precision: str = "int8") -> Array:
    """Return a weight matrix as int8 or fp8 represents it, in float32."""
    if precision == "fp8":
        return rounded(weight, float(np.abs(weight).max()), precision=precision)
    scales = weight_scales(weight)
    return to_int8(weight, scales) * scales


def _as_fp8(values: Array, scale: np.float32) -> torch.Tensor:
    """Return the quantised values of a tensor. torch makes NaN of what lies beyond the largest value; runtimes clip."""
    scaled = np.clip(np.asarray(values, np.float32) / scale, -FP8_LARGEST, FP8_LARGEST)
    return torch.from_numpy(np.ascontiguousarray(scaled)).to(torch.float8_e4m3fn)


class _GraphRewriter:
    """The quantised copy of a graph under construction: nodes in the order in which they run, and new constants.

    New names contain `hwnas.`: exporters use plain suffixes such as `/shape` themselves.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs: set[str] = set()
        self._readers: dict[str, int] = {}
        """The index of the last layer that reads an activation."""
        self.nodes: list[NodeProto] = []

    def add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node unless its output exists, and return the output."""
        if output not in self._outputs:
            self._outputs.add(output)
            self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}", **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        """Add a constant, and return its name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(values), name=name)
        return name

    def quantised_weight(self, layer: LinearLayer) -> str:
        """Add the int8 values of a weight and the node that scales them."""
        inputs = [*self._int8_weight(layer), f"{layer.weight}/hwnas.zero"]
        return self.add("DequantizeLinear", inputs, f"{layer.weight}/hwnas.dequantised", axis=1)

    def quantised_activation(self, layer: LinearLayer, found: ActivationRange) -> str:
        """Add the pair of nodes that rounds an activation to int8, for one layer.

        Layers that read the same activation do not share a pair: ONNX Runtime turns int8 into the uint8 of its kernels
        on x86 only where one layer reads it. It would merge equal pairs, so their scales differ by the last bit.
        """
        name = layer.activation
        index = self._readers[name] = self._readers.get(name, -1) + 1
        pair = name if index == 0 else f"{name}/{index}"
        value = int8_scale(found.bound)
        for _ in range(index):
            value = np.nextafter(value, np.float32(np.inf))
        scale = self.constant(f"{pair}/hwnas.scale", value)
        zero = self.constant("hwnas.int8/zero", np.int8(0))
        self.add("QuantizeLinear", [name, scale, zero], f"{pair}/hwnas.int8")
        return self.add("DequantizeLinear", [f"{pair}/hwnas.int8", scale, zero], f"{pair}/hwnas.dequantised")

    def half_activation(self, name: str, bound: float, *, precision: str) -> str:
        """Add the pair of nodes that rounds an activation in float16 to 8 bits, which all layers that read it share."""
        largest = FP8_LARGEST if precision == "fp8" else LEVELS
        scale = self.constant(f"{name}/hwnas.scale", half_scale(bound / largest))
        if precision == "fp8":
            zero = self.fp8_constant("hwnas.fp8/zero", np.zeros((), np.float32), scale=np.float32(1.0))
        else:
            zero = self.constant("hwnas.int8/zero", np.int8(0))
        quantised = self.add("QuantizeLinear", [name, scale, zero], f"{name}/hwnas.{precision}")
        return self.add("DequantizeLinear", [quantised, scale, zero], f"{name}/hwnas.dequantised")

    def fp8_weight(self, name: str) -> str:
        """Add the fp8 values of a weight and the node that scales them."""
        weight = numpy_helper.to_array(self._constants[name]).astype(np.float32)
        value = fp8_scale(float(np.abs(weight).max()))
        scale = self.constant(f"{name}/hwnas.scale", np.float16(value))
        zero = self.fp8_constant("hwnas.fp8/zero", np.zeros((), np.float32), scale=np.float32(1.0))
        values = self.fp8_constant(f"{name}/hwnas.fp8", weight, scale=value)
        return self.add("DequantizeLinear", [values, scale, zero], f"{name}/hwnas.dequantised")

    def fp8_constant(self, name: str, values: Array, *, scale: np.float32) -> str:
        """Add a constant in fp8, and return its name."""
        if name not in self._constants:
            content = _as_fp8(values, scale).view(torch.uint8).numpy().tobytes()
            kind = TensorProto.FLOAT8E4M3FN
            self._constants[name] = helper.make_tensor(name, kind, values.shape, content, raw=True)
        return name

    def add_bias(self, node: NodeProto, *, rank: int) -> None:
        """Add the sum of a layer and its bias, with leading dimensions of size 1 in the shape of the bias.

        ONNX Runtime would turn a product and a bias of one dimension into a Gemm before it looks for Q/DQ pairs, and
        has no int8 kernel for a Gemm with a float bias: it would dequantise everything in each run and be slower than
        in float.
        """
        own = NodeProto()
        own.CopyFrom(node)
        for index, name in enumerate(node.input):
            tensor = self._constants.get(name)
            if tensor is not None and len(tensor.dims) == 1:
                values = numpy_helper.to_array(tensor)
                own.input[index] = self.constant(f"{name}/hwnas.rank{rank}", values.reshape(*[1] * (rank - 1), -1))
        self.nodes.append(own)

    def add_dynamic(self, layer: LinearLayer) -> None:
        """Add a layer that scales its activations itself, in the form that ONNX Runtime fuses to one kernel."""
        name, out = layer.activation, layer.output
        weight, scales = self._int8_weight(layer)
        if f"{name}/hwnas.uint8" not in self._outputs:
            self._outputs.add(f"{name}/hwnas.uint8")
            outputs = [f"{name}/hwnas.uint8", f"{name}/hwnas.scale", f"{name}/hwnas.zero"]
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}/hwnas.DynamicQuantizeLinear")
            )
        self.add(
            "MatMulInteger",
            [f"{name}/hwnas.uint8", weight, f"{name}/hwnas.zero", f"{layer.weight}/hwnas.zero"],
            f"{out}/hwnas.int32",
        )
        self.add("Cast", [f"{out}/hwnas.int32"], f"{out}/hwnas.float", to=TensorProto.FLOAT)
        self.add("Mul", [f"{name}/hwnas.scale", scales], f"{out}/hwnas.scale")
        self.add("Mul", [f"{out}/hwnas.float", f"{out}/hwnas.scale"], out)

    def finish(self) -> ModelProto:
        """Return the graph, with the constants that its nodes read."""
        old = self._model
        model = ModelProto(ir_version=old.ir_version, opset_import=old.opset_import, functions=old.functions)
        graph = model.graph
        graph.name = old.graph.name
        graph.input.extend(old.graph.input)
        graph.output.extend(old.graph.output)
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        return model

    def _int8_weight(self, layer: LinearLayer) -> tuple[str, str]:
        """Add a weight in int8 with its scales and zero points, and return the names of the first two."""
        name = layer.weight
        if f"{name}/hwnas.int8" not in self._constants:
            weight = numpy_helper.to_array(self._constants[name])
            scales: NDArray[Any] = weight_scales(weight)
            if weight.dtype == np.float16:
                scales = half_scale(scales)
            self.constant(f"{name}/hwnas.int8", to_int8(weight.astype(np.float32), scales.astype(np.float32)))
            self.constant(f"{name}/hwnas.scale", scales)
            self.constant(f"{name}/hwnas.zero", np.zeros(len(scales), np.int8))
        return f"{name}/hwnas.int8", f"{name}/hwnas.scale"


def _clipped_bounds(
    probe: ActivationProbe, images: Iterable[Array], largest: Mapping[str, float], *, method: CalibrationMethod
) -> dict[str, float]:
    """Return bounds that leave out the largest values of some activations, from histograms of magnitudes."""
    counts = {name: np.zeros(_BINS, np.int64) for name in largest}
    for values in map(probe.run, images):
        for name in largest:
            array = values[name]
            bound = max(largest[name], SMALLEST_BOUND)
            counts[name] += np.histogram(np.abs(array), bins=_BINS, range=(0.0, bound))[0]
    choose = _percentile_share if method == "percentile" else _mse_share
    return {name: choose(counts[name]) * bound for name, bound in largest.items()}


def _percentile_share(counts: NDArray[np.int64]) -> float:
    """Return the bound below which nearly all values are, as a share of the largest value."""
    cumulated = np.cumsum(counts)
    return float(np.searchsorted(cumulated, _PERCENTILE / 100 * cumulated[-1]) + 1) / _BINS


def _mse_share(counts: NDArray[np.int64]) -> float:
    """Return the bound with the smallest mean squared error, as a share of the largest value.

    Values below the bound are rounded, with the error s^2 / 12 of a uniform distribution within a step s; those above
    it are clipped.
    """
    centres = (np.arange(_BINS) + 0.5) / _BINS
    rounding = (_MSE_BOUNDS / LEVELS) ** 2 / 12
    is_clipped = centres > _MSE_BOUNDS[:, None]
    clipping = np.where(is_clipped, (centres - _MSE_BOUNDS[:, None]) ** 2, 0.0) @ counts
    errors = rounding * np.where(is_clipped, 0, counts).sum(axis=1) + clipping
    return float(_MSE_BOUNDS[errors.argmin()])
