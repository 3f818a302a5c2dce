"""Slightly wrong graphs: they must be refused even in a precision whose rounding is as large as their error."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hwnas.errors import CheckFailedError
from hwnas.export import export as exporting
from hwnas.export.export import export_module
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.templates import TemplateStore
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from tests.marks import slow_but

SPACE = SPACES.get("autoformer-micro")
ARCH = SPACE.largest()
HEAD_DIM = 16


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network with random biases and norms: if they were 0 and 1, as initialised, dropping one would not show."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    made = make_supernet(SPACE).subnet(ARCH).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def store() -> TemplateStore:
    return TemplateStore(None)


def flipped(network: nn.Module) -> None:
    """One weight of some thousands has the wrong sign."""
    weight = network.get_parameter("blocks.0.mlp.fc1.weight").view(-1)
    weight[weight.abs().argmax()] *= -1


def dropped(network: nn.Module) -> None:
    """One layer has lost its bias."""
    network.get_parameter("blocks.0.mlp.fc2.bias").zero_()


def swapped(network: nn.Module) -> None:
    """The outputs of the first two heads are exchanged."""
    weight = network.get_parameter("blocks.0.attention.proj.weight")
    first, second, *others = torch.split(weight.clone(), HEAD_DIM, dim=1)
    weight.copy_(torch.cat([second, first, *others], dim=1))


def exported(wrong: nn.Module, network: nn.Module, path: Path, **options: Any) -> Any:
    """Export a network with the graph of another one."""

    def build(module: nn.Module, **request: Any) -> Any:
        return build_onnx(wrong, **request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "build_onnx", build)
        return export_module(network, path=path, format="onnx", input_shape=SPACE.config.input_shape, **options)


@pytest.mark.parametrize("precision", slow_but(["fp16", "bf16"], "fp16"))
def test_a_graph_that_is_nearly_the_networks_is_refused(
    network: nn.Module, store: TemplateStore, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "net.onnx"
    options = {"precision": precision, "store": store}
    right = exported(network, network, path, **options)
    assert right.parity.exact_relative < 1e-5
    assert right.parity.max_relative <= right.parity.tolerance < {"fp16": 1e-2, "bf16": 6e-2}[precision]
    mutations: tuple[Callable[[nn.Module], None], ...] = (flipped, dropped, swapped)
    for mutate in mutations:
        wrong = copy.deepcopy(network)
        with torch.no_grad():
            mutate(wrong)
        with pytest.raises(CheckFailedError, match="without rounding"):
            exported(wrong, network, path, **options)
