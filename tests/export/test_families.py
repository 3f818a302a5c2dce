"""Composed networks of all families, compared with torch and with torch's own export in one piece."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from hwnas.export.export import export_module
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.onnx_session import Array, run_graph
from hwnas.export.quantise import linear_layers
from hwnas.export.templates import TemplateStore
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_network

MICRO = (
    "autoformer-micro",
    "resnas-micro",
    "vitas-micro",
    "vitas-twins-micro",
    "glit-micro",
    "elastic:timm:test_vit",
    "elastic:timm:test_vit3",
)
NUM_NETWORKS = 6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TemplateStore:
    """One for all families: many have the same blocks."""
    return TemplateStore(tmp_path_factory.mktemp("cache"))


def network(space: AnySpace, arch: Any) -> nn.Module:
    torch.manual_seed(0)
    module = make_network(space, arch).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.add_(0.5 * torch.rand_like(buffer))
    return module


def images(space: AnySpace, count: int = 1) -> Array:
    return np.random.default_rng(0).standard_normal((count, *space.config.input_shape), dtype=np.float32)


def archs(space: AnySpace) -> list[Any]:
    random = space.decode(space.sample(np.random.default_rng(0), NUM_NETWORKS - 2))
    return [space.smallest(), space.largest(), *random]


def logits(module: nn.Module, x: Array) -> Array:
    with torch.inference_mode():
        found: Array = module(torch.from_numpy(x)).numpy()
    return found


def operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What onnxruntime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", MICRO)
def test_composed_networks_give_what_torch_gives(name: str, store: TemplateStore) -> None:
    space = SPACES.get(name)
    for arch in archs(space):
        module = network(space, arch)
        graph = build_onnx(module, input_shape=space.config.input_shape, store=store)
        assert graph.exporter == "composed"
        assert graph.composition is not None
        assert graph.composition.opaque == {}
        np.testing.assert_allclose(run_graph(graph.model, images(space)), logits(module, images(space)), atol=1e-5)


@pytest.mark.parametrize("name", MICRO)
def test_composed_graphs_are_those_of_the_reference_path(name: str, store: TemplateStore, tmp_path: Path) -> None:
    space = SPACES.get(name)
    module = network(space, space.decode(space.sample(np.random.default_rng(7), 1))[0])
    composed = build_onnx(module, input_shape=space.config.input_shape, store=store)
    reference = build_onnx(module, input_shape=space.config.input_shape, exporter="dynamo")
    found, expected = (run_graph(graph.model, images(space)) for graph in (composed, reference))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert operators(composed.model, tmp_path) == operators(reference.model, tmp_path)


@pytest.mark.parametrize("name", MICRO)
def test_half_precision_is_near(name: str, store: TemplateStore, tmp_path: Path) -> None:
    space = SPACES.get(name)
    exported = export_module(
        network(space, space.smallest()),
        format="onnx",
        path=tmp_path / "net.onnx",
        input_shape=space.config.input_shape,
        precision="fp16",
        store=store,
    )
    assert 1e-6 < exported.parity.max_relative < 2e-2


@pytest.mark.parametrize("batch", [1, None])
def test_a_model_of_timm_goes_the_reference_path(tmp_path: Path, batch: int | None) -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    exported = export_module(module, format="onnx", path=tmp_path / "net.onnx", input_shape=(3, 32, 32), batch=batch)
    assert exported.exporter == ("dynamo" if batch else "dynamo-dynamic")
    assert exported.parity.max_relative < 1e-5


@pytest.mark.parametrize("name", MICRO)
def test_networks_in_int8_run_on_int8_kernels_and_agree(name: str, store: TemplateStore, tmp_path: Path) -> None:
    space = SPACES.get(name)
    for arch in archs(space):
        module = network(space, arch)
        graph = build_onnx(module, input_shape=space.config.input_shape, precision="int8", store=store)
        assert graph.quantisation is not None
        layers = linear_layers(graph.quantisation.float_model)
        kernels = operators(graph.model, tmp_path)
        assert kernels["MatMulIntegerToFloat"] == len(layers)
        assert kernels["DequantizeLinear"] == 0
        outputs, expected = run_graph(graph.model, images(space)), logits(module, images(space))
        assert np.corrcoef(outputs.ravel(), expected.ravel())[0, 1] > 0.95
