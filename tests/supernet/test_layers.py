"""Layers that several families share."""

import subprocess
import sys

import pytest
import torch
from timm.layers.drop import DropPath as TimmDropPath

from hwnas.supernet.layers import DropPath


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_stochastic_depth_draws_as_timms(rate: float, *, training: bool) -> None:
    x = torch.randn(64, 5, 3)
    outputs = []
    for kind in (DropPath, TimmDropPath):
        torch.manual_seed(0)
        outputs.append(kind(rate).train(training)(x))
    assert torch.equal(*outputs)
    assert torch.equal(outputs[0], x) is not (training and rate > 0)


@pytest.mark.slow
def test_networks_are_built_without_timm() -> None:
    code = "import hwnas.supernet.families, sys; print('timm' in sys.modules, 'torchvision' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
