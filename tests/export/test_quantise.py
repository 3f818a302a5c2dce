"""Linear layers of a graph in int8."""

import copy
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from hwnas.errors import CheckFailedError, InputError, UnknownNameError
from hwnas.export.calibration import CALIBRATION_METHODS, CalibrationRecipe, random_calibration
from hwnas.export.onnx_graph import OnnxGraph, build_onnx
from hwnas.export.onnx_session import run_graph
from hwnas.export.quantise import (
    _BINS,
    ActivationRange,
    _mse_share,
    calibrate,
    linear_layers,
    quantise,
    quantise_dynamically,
    quantise_graph,
    rounded,
    rounded_weight,
    weight_scales,
)
from hwnas.export.scales import fp8_scale
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet

SHAPE = (3, 8, 8)
Array = NDArray[np.float32]


class Tokens(nn.Module):
    """A convolution, attention and an MLP on 4 tokens, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.projection = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        mixed = tokens + self.projection(((q @ k.transpose(1, 2)).softmax(-1)) @ v)
        logits: Tensor = self.head(mixed.mean(1))
        return logits


@pytest.fixture(scope="module")
def module() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tokens().eval()


@pytest.fixture(scope="module")
def graph(module: nn.Module) -> ModelProto:
    return build_onnx(module, input_shape=SHAPE, batch=2).model


@pytest.fixture(scope="module")
def composed() -> OnnxGraph:
    space = SPACES.get("autoformer-micro")
    network = make_supernet(space).subnet(space.smallest()).eval()
    return build_onnx(network, input_shape=space.config.input_shape, precision="int8")


def images(seed: int = 0, *, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng(seed).standard_normal((2, *SHAPE), dtype=np.float32)


def fused(model: ModelProto, tmp_path: Path) -> Counter[str]:
    """Return the operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)


def test_linear_layers_over_tokens_are_found_by_their_weights(graph: ModelProto) -> None:
    """Not the convolution, the products of two activations and the classifier."""
    tensors = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    assert [tensors[layer.weight] for layer in linear_layers(graph)] == [(16, 48), (16, 16)]


def test_layers_of_a_composed_network_have_the_names_of_its_modules(composed: OnnxGraph) -> None:
    assert composed.exporter == "composed"
    assert composed.quantisation is not None
    names = [layer.name for layer in linear_layers(composed.quantisation.float_model)]
    assert names[:4] == [f"blocks.0.{name}" for name in ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")]


def test_the_residual_stream_stays_in_float(composed: OnnxGraph) -> None:
    """Rounded per tensor, a class token that is small next to the patch tokens would become zero, and so the logits."""
    nodes = composed.model.graph.node
    producers = {name: node.op_type for node in nodes for name in node.output}
    read = {producers[node.input[0]] for node in nodes if node.op_type == "QuantizeLinear"}
    assert read == {"LayerNormalization", "Reshape", "Gelu"}


def test_outputs_are_those_of_rounded_weights_and_activations(graph: ModelProto, module: nn.Module) -> None:
    """The same network in torch, with the two linear layers in fake quantisation."""
    ranges = calibrate(graph, [images()], method="minmax")
    outputs = run_graph(quantise(graph, ranges), images(1))
    expected = _fake_quantised(module, [ranges[layer.activation] for layer in linear_layers(graph)], images(1))
    np.testing.assert_allclose(outputs, expected, atol=2e-6)
    assert np.abs(outputs - run_graph(graph, images(1))).max() > 1e-5


def _fake_quantised(module: nn.Module, ranges: list[ActivationRange], x: Array) -> Array:
    own = copy.deepcopy(module)
    for linear, found in zip((own.qkv, own.projection), ranges, strict=True):
        assert isinstance(linear, nn.Linear)
        scales = torch.from_numpy(weight_scales(linear.weight.detach().numpy().T))[:, None]
        linear.weight.data = torch.round(linear.weight.data / scales) * scales
        scale = found.bound / 127
        linear.register_forward_pre_hook(
            lambda _, inputs, scale=scale: (torch.clamp(torch.round(inputs[0] / scale), -127, 127) * scale,)
        )
    with torch.inference_mode():
        logits: Array = own(torch.from_numpy(x)).numpy()
    return logits


def test_each_layer_runs_on_an_int8_kernel(graph: ModelProto, tmp_path: Path) -> None:
    """With its bias in one dimension, ONNX Runtime would dequantise a layer in each run."""
    ranges = calibrate(graph, [images()], method="minmax")
    kernels = fused(quantise(graph, ranges), tmp_path)
    assert kernels["MatMulIntegerToFloat"] == 2
    assert kernels["DequantizeLinear"] == 0
    assert fused(quantise_dynamically(graph), tmp_path)["DynamicQuantizeMatMul"] == 2


class TwoReaders(nn.Module):
    """Two linear layers that read the same tokens, and one that reads a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.latent = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(4, 16)
        self.query = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        logits: Tensor = (self.q(tokens) * self.kv(tokens) + self.latent(self.query)).mean(1)
        return logits


def test_layers_that_read_the_same_activation_both_run_on_int8_kernels(tmp_path: Path) -> None:
    """With a pair of nodes that they share, ONNX Runtime would compute both in float."""
    module = TwoReaders().eval()
    graph = build_onnx(module, input_shape=SHAPE, batch=2, precision="int8")
    kernels = fused(graph.model, tmp_path)
    assert (kernels["MatMulIntegerToFloat"], kernels["DequantizeLinear"]) == (2, 0)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images())).numpy()
    assert np.abs(run_graph(graph.model, images()) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_names_of_exporters_are_not_taken(graph: ModelProto, precision: str) -> None:
    """torch's exporter calls shapes `view_3/shape`, for example."""
    named = ModelProto()
    named.CopyFrom(graph)
    (layer, _) = linear_layers(graph)
    for suffix in ("shape", "max", "sum", "abs", "scale", "zero", "int8", "uint8", "dequantised"):
        constant = numpy_helper.from_array(np.float32(1.0).reshape(1), name=f"{layer.activation}/{suffix}")
        named.graph.initializer.append(constant)
        named.graph.node.append(helper.make_node("Abs", [constant.name], [f"{layer.weight}/{suffix}"]))
    quantised = quantise_graph(named, precision=precision, calibration=random_calibration(SHAPE, batch=2)).model
    assert np.isfinite(run_graph(quantised, images())).all()


def test_dynamic_scales_need_no_calibration_and_are_near_float(graph: ModelProto) -> None:
    outputs, expected = run_graph(quantise_dynamically(graph), images(1)), run_graph(graph, images(1))
    assert 1e-6 < np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    large = run_graph(quantise_dynamically(graph), images(1, scale=100.0))
    assert np.abs(large - run_graph(graph, images(1, scale=100.0))).max() < 0.05 * np.abs(large).max()


def test_the_graph_itself_is_not_changed(graph: ModelProto) -> None:
    before = graph.SerializeToString(deterministic=True)
    quantise(graph, calibrate(graph, [images()], method="mse"))
    quantise_dynamically(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_weights_are_stored_once_and_as_int8(graph: ModelProto) -> None:
    quantised = quantise(graph, calibrate(graph, [images()], method="minmax"))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    for layer in linear_layers(graph):
        assert layer.weight not in tensors
        assert tensors[f"{layer.weight}/hwnas.int8"].dtype == np.int8
        assert np.abs(tensors[f"{layer.weight}/hwnas.int8"].astype(int)).max() == 127
    onnx.checker.check_model(quantised)


def test_ranges_of_outliers_are_clipped_by_percentile_and_error(graph: ModelProto) -> None:
    batches = [images(seed) for seed in range(4)]
    largest, percentile, mse = (
        {name: found.bound for name, found in calibrate(graph, batches, method=method).items()}
        for method in ("minmax", "percentile", "mse")
    )
    assert all(percentile[name] <= largest[name] * 1.001 for name in largest)
    assert all(0.2 * largest[name] <= mse[name] <= largest[name] for name in largest)


def test_the_bound_with_the_smallest_error_is_found() -> None:
    """Against a search over all bounds with the true rounding of the values."""
    values = np.abs(np.random.default_rng(0).standard_t(3, 200_000)).astype(np.float32)
    largest = float(values.max())
    share = _mse_share(np.histogram(values, bins=_BINS, range=(0.0, largest))[0])

    def error(bound: float) -> float:
        return float(((rounded(values, bound) - values) ** 2).mean())

    best = min(error(largest * part) for part in np.linspace(0.05, 1, 200))
    assert error(share * largest) < 1.1 * best
    assert error(share * largest) < 0.8 * error(largest)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_is_an_error(graph: ModelProto, value: float) -> None:
    """One pixel is enough; ONNX Runtime's ReduceMax would not see it."""
    x = images()
    x[1, 2, 5, 5] = value
    with pytest.raises(CheckFailedError, match="activations must be finite"):
        calibrate(graph, [x], method="minmax")


def test_a_layer_that_reads_the_images_themselves_is_quantised() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.Flatten(), nn.Linear(384, 5)).eval()
    for method in CALIBRATION_METHODS:
        graph = build_onnx(module, input_shape=SHAPE, batch=2).model
        ranges = calibrate(graph, [images()], method=method)
        (found,) = ranges.values()
        assert found.rank == 4
        assert found.bound == pytest.approx(float(np.abs(images()).max()), rel=0.5)
        with torch.inference_mode():
            expected = module(torch.from_numpy(images(1))).numpy()
        assert np.abs(run_graph(quantise(graph, ranges), images(1)) - expected).max() < 0.05 * np.abs(expected).max()


def test_no_images_are_an_error(graph: ModelProto) -> None:
    with pytest.raises(InputError, match="at least one batch of images"):
        calibrate(graph, [], method="minmax")


def test_an_unknown_method_lists_the_others(graph: ModelProto) -> None:
    with pytest.raises(UnknownNameError, match="calibration method 'entropy'") as caught:
        calibrate(graph, [images()], method="entropy")  # type: ignore[arg-type]
    assert caught.value.known == ("minmax", "percentile", "mse")


def test_a_network_without_linear_layers_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 4), nn.Flatten(), nn.Linear(100, 5))
    with pytest.raises(InputError, match="must have linear layers over tokens"):
        build_onnx(module.eval(), input_shape=SHAPE, precision="int8")


def test_activations_of_zeros_have_a_scale(graph: ModelProto) -> None:
    ranges = {name: ActivationRange(bound=0.0, rank=3) for name in calibrate(graph, [images()], method="minmax")}
    assert np.isfinite(run_graph(quantise(graph, ranges), images())).all()


@pytest.mark.parametrize(("precision", "batch"), [("int8", None), ("int8-dynamic", 1)])
def test_graphs_are_built_for_any_batch_and_say_how(module: nn.Module, precision: str, batch: int | None) -> None:
    graph = build_onnx(module, input_shape=SHAPE, batch=batch, precision=precision)
    entries = {entry.key: entry.value for entry in graph.model.metadata_props}
    assert entries["precision"] == precision
    if precision == "int8":
        recipe = CalibrationRecipe(**json.loads(entries["calibration"]))
        assert recipe == CalibrationRecipe(data="random", num_images=1, seed=0, method="minmax")
    else:
        assert "calibration" not in entries
    x = images()[: batch or 2]
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    assert np.abs(run_graph(graph.model, x) - expected).max() < 0.05 * np.abs(expected).max()


def test_a_network_with_fresh_weights_is_not_quantised_to_zeros() -> None:
    """A class token of zeros next to large patch tokens: with the residual stream in int8, all logits were 0."""
    space = SPACES.get("vitas-micro")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_supernet(space).subnet(space.smallest()).eval()
    shape = space.config.input_shape
    x = 10 * np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    graph = build_onnx(network, input_shape=shape, precision="int8")
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.corrcoef(run_graph(graph.model, x).ravel(), expected.ravel())[0, 1] > 0.99


def test_a_token_below_half_a_step_would_be_zero_after_its_norm() -> None:
    """The cause of such zeros: one scale for a stream of patch tokens and a small class token."""
    stream = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    stream[0] *= 3e-3
    quantised = rounded(stream, float(np.abs(stream).max()))
    assert np.abs(torch.layer_norm(torch.from_numpy(stream[0]), (16,)).numpy()).max() > 0.5
    assert not quantised[0].any()
    assert not torch.layer_norm(torch.from_numpy(quantised[0]), (16,)).any()


def test_fp8_keeps_three_bits_of_each_number_and_clips_at_the_bound() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    near = np.abs(values) > 2.0**-6 * fp8_scale(4.0)
    assert (np.abs(rounded(values, 4.0, precision="fp8") / values - 1)[near] <= 2.0**-4).all()
    np.testing.assert_allclose(rounded(values * 1e3, 4.0, precision="fp8").max(), 448 * fp8_scale(4.0))
    assert fp8_scale(0.0) == 2.0**-14  # what float16 holds without loss
    weight = values.reshape(100, 100)
    assert np.abs(rounded_weight(weight, precision="fp8") - weight).max() < 0.07 * np.abs(weight).max()


def test_a_graph_in_fp8_rounds_weights_and_activations_and_is_in_float16_elsewhere(
    graph: ModelProto, module: nn.Module
) -> None:
    calibration = random_calibration(SHAPE, batch=2)
    built = build_onnx(module, input_shape=SHAPE, batch=2, precision="fp8", calibration=calibration)
    kinds = {tensor.name: tensor.data_type for tensor in built.model.graph.initializer}
    layers = linear_layers(graph)
    assert [kinds[f"{layer.weight}/hwnas.fp8"] for layer in layers] == [TensorProto.FLOAT8E4M3FN] * 2
    assert not {layer.weight for layer in layers} & kinds.keys()
    assert TensorProto.FLOAT not in kinds.values()
    onnx.checker.check_model(built.model)
    assert built.quantisation is not None
    ranges = built.quantisation.ranges
    assert ranges is not None
    own = copy.deepcopy(module)
    for linear, layer in zip((own.qkv, own.projection), layers, strict=True):
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.detach().numpy().T
        linear.weight.data = torch.from_numpy(rounded_weight(weight.astype(np.float16), precision="fp8").T)
        bound = ranges[layer.activation].bound
        linear.register_forward_pre_hook(
            lambda _, inputs, bound=bound: torch.from_numpy(rounded(inputs[0].numpy(), bound, precision="fp8"))
        )
    x = images(1)
    with torch.inference_mode():
        expected = own(torch.from_numpy(x)).numpy()
    difference = np.abs(run_graph(built.model, x) - expected).max()
    assert difference < 0.01 * np.abs(expected).max() < np.abs(run_graph(graph, x) - expected).max() * 10


def test_a_graph_in_int8_may_be_in_float16_elsewhere(module: nn.Module) -> None:
    calibration = random_calibration(SHAPE, batch=2)
    build = partial(build_onnx, module, input_shape=SHAPE, batch=2, precision="int8", calibration=calibration)
    in_float32, in_half = build().model, build(int8_rest="fp16").model
    onnx.checker.check_model(in_half)
    kinds = Counter(tensor.data_type for tensor in in_half.graph.initializer)
    assert TensorProto.FLOAT not in kinds
    assert kinds[TensorProto.INT8] == 5  # two weights with their zero points, and that of activations
    x = images(1)
    expected = run_graph(in_float32, x)
    assert np.abs(run_graph(in_half, x) - expected).max() < 0.01 * np.abs(expected).max()


def test_a_pair_in_float16_serves_all_layers_that_read_an_activation() -> None:
    graph = build_onnx(TwoReaders().eval(), input_shape=SHAPE, batch=2, precision="int8", int8_rest="fp16").model
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 3)


def test_layers_in_fp8_share_a_pair_and_small_ones_stay_in_float() -> None:
    module = TwoReaders().eval()
    with pytest.raises(InputError, match="linear layers over tokens of at least 16 inputs and outputs"):
        build_onnx(module, input_shape=SHAPE, batch=2, precision="fp8")  # they read 8 values
    module.q, module.kv = nn.Linear(16, 16), nn.Linear(16, 8)
    module.latent = nn.Linear(4, 8)
    module.add_module("up", up := nn.Linear(16, 16))

    def forward(x: Tensor) -> Tensor:
        tokens = x.flatten(2).reshape(2, 12, 16)
        logits: Tensor = (module.q(tokens)[..., :8] * up(tokens)[..., :8] * module.kv(tokens)).mean(1)
        return logits

    module.forward = forward  # type: ignore[method-assign]
    graph = build_onnx(module.eval(), input_shape=SHAPE, batch=2, precision="fp8").model
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 3)
    assert np.isfinite(run_graph(graph, images())).all()
