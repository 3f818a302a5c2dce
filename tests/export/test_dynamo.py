"""The reference path, and modules that it cannot export."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from hwnas.errors import InputError, UnknownNameError
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.onnx_session import run_graph
from hwnas.export.templates import TemplateStore
from hwnas.runs import package_versions
from tests.export.segmented import SHAPE, Network


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else x * 2


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        real: Tensor = torch.linalg.eigvals(x).real
        return real


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the grid does not fit")


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.GELU(), nn.Linear(7, 4))


def test_one_file_takes_any_batch(plain: nn.Module) -> None:
    graph = build_onnx(plain, input_shape=SHAPE, batch=None)
    assert (graph.exporter, graph.batch) == ("dynamo-dynamic", None)
    assert graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for batch in (1, 5):
        images = np.random.default_rng(0).standard_normal((batch, *SHAPE), dtype=np.float32)
        with torch.inference_mode():
            expected = plain(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(run_graph(graph.model, images), expected, atol=1e-6)


def test_a_graph_says_how_it_was_made(plain: nn.Module) -> None:
    graph = build_onnx(plain, input_shape=SHAPE, batch=2, precision="fp16", metadata={"network_id": "abc"})
    entries = {entry.key: entry.value for entry in graph.model.metadata_props}
    assert entries["exporter"] == graph.exporter == "dynamo"
    assert (entries["precision"], entries["batch"], entries["network_id"]) == ("fp16", "2", "abc")
    assert entries["torch"] == package_versions(("torch",))["torch"]
    assert graph.model.producer_name == "hwnas"
    kinds = {tensor.data_type for tensor in graph.model.graph.initializer}
    assert kinds - {TensorProto.INT64} == {TensorProto.FLOAT16}
    assert all(value.type.tensor_type.elem_type == 1 for value in (*graph.model.graph.input, *graph.model.graph.output))


def test_the_module_is_left_as_it_was(plain: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    build_onnx(plain.train(), input_shape=SHAPE, precision="bf16")
    assert plain.training
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("batch", [2, None])
def test_a_convolution_with_a_fused_norm_keeps_its_type(batch: int | None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    graph = build_onnx(network, input_shape=(3, 4, 4), batch=batch, precision="bf16").model.graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    (convolution,) = (node for node in graph.node if node.op_type == "Conv")
    assert {kinds[name] for name in convolution.input[1:]} == {TensorProto.BFLOAT16}
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_torch_builds_its_table_of_functions_once(monkeypatch: pytest.MonkeyPatch, plain: nn.Module) -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    build_onnx(plain, input_shape=SHAPE, exporter="dynamo")
    before = vars(ONNXRegistry)["from_torchlib"]
    monkeypatch.setattr("torch.onnx._internal.exporter._registration.onnxscript_apis.get_torchlib_ops", None)
    build_onnx(plain, input_shape=SHAPE, exporter="dynamo")
    assert vars(ONNXRegistry)["from_torchlib"] is before


def test_an_operator_that_onnx_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"ONNX has no operator for aten\.linalg_eig"):
        build_onnx(Eigenvalues(), input_shape=(4, 4))


@pytest.mark.parametrize(("module", "reason"), [(Decides(), "data-dependent"), (Raises(), "the grid does not fit")])
def test_what_cannot_be_traced_says_why(module: nn.Module, reason: str) -> None:
    with pytest.raises(InputError, match=r"torch\.export must be able to trace") as caught:
        build_onnx(module, input_shape=(4, 4))
    assert reason in str(caught.value)


def test_unknown_choices_are_refused_before_any_work(plain: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="precision 'fp31'") as caught:
        build_onnx(plain, input_shape=SHAPE, precision="fp31")
    assert caught.value.known == ("fp32", "fp16", "bf16")
    with pytest.raises(UnknownNameError, match="exporter 'dynamic'"):
        build_onnx(plain, input_shape=SHAPE, exporter="dynamic")
    with pytest.raises(InputError, match="batch must be at least 1"):
        build_onnx(plain, input_shape=SHAPE, batch=0)
    with pytest.raises(InputError, match="must have a fixed batch"):
        build_onnx(Network(8, (2,)), input_shape=SHAPE, batch=None, exporter="composed", store=TemplateStore(None))
