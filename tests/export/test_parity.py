"""When the outputs of an exported network count as torch's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import GateError
from hwnas.export.parity import Array, check_parity, parity_path

SHAPE = (3, 2, 2)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()


def logits(module: nn.Module, images: Array) -> Array:
    with torch.inference_mode():
        found: Array = module(torch.from_numpy(images)).numpy()
    return found


def check(module: nn.Module, change: Any, **options: Any) -> Any:
    return check_parity(module, lambda images: change(logits(module, images)), input_shape=SHAPE, **options)


def test_equal_outputs_agree_fully(module: nn.Module) -> None:
    found = check(module, lambda out: out, batch=3)
    assert (found.max_absolute, found.max_relative, found.top1_agreement, found.images) == (0, 0, 1, 18)
    assert found.passed


def test_figures_are_those_of_numpy(module: nn.Module) -> None:
    seen: list[tuple[Array, Array]] = []

    def run(images: Array) -> Array:
        expected = logits(module, images)
        outputs = expected * np.linspace(0.999, 1.001, 5, dtype=np.float32)
        seen.append((outputs, expected))
        return outputs

    found = check_parity(module, run, input_shape=SHAPE, precision="bf16", images=7)
    outputs, expected = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert found.images == 7
    assert found.max_absolute == np.abs(outputs - expected).max()
    assert found.max_relative == pytest.approx(np.abs(outputs - expected).max() / np.abs(expected).max())
    assert found.top1_agreement == np.mean(outputs.argmax(1) == expected.argmax(1))


def test_images_come_from_the_seed(module: nn.Module) -> None:
    fed: list[Array] = []

    def run(images: Array) -> Array:
        fed.append(images)
        return logits(module, images)

    for seed in (0, 0, 1):
        check_parity(module, run, input_shape=SHAPE, images=1, seed=seed)
    np.testing.assert_array_equal(fed[0], fed[1])
    assert not np.array_equal(fed[0], fed[2])


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.001), ("fp16", 1.1), ("bf16", 1.5)])
def test_a_difference_beyond_the_tolerance_fails_the_gate(
    module: nn.Module, precision: str, factor: float, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match="of the largest logit of torch's") as caught:
        check(module, lambda out: out * np.float32(factor), precision=precision, path=tmp_path / "net.onnx")
    assert caught.value.exit_code == 4
    stored = json.loads(parity_path(tmp_path / "net.onnx").read_text())
    assert stored["passed"] is False
    assert stored["max_relative"] == pytest.approx(factor - 1, rel=0.05)
    assert stored["precision"] == precision


def test_outputs_that_are_no_numbers_fail(module: nn.Module) -> None:
    with pytest.raises(GateError, match="exported network's outputs in fp16 must be finite") as caught:
        check(module, lambda out: np.where(out == out.max(), np.nan, out), precision="fp16")
    assert "16 of 80" in str(caught.value)


def test_weights_that_give_no_numbers_fail(module: nn.Module) -> None:
    with torch.no_grad():
        module[1].bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(GateError, match="torch's outputs in fp32 must be finite"):
        check(module, lambda out: out)


def test_outputs_of_another_shape_fail(module: nn.Module) -> None:
    with pytest.raises(GateError, match=r"torch's shape, \(16, 5\)"):
        check(module, lambda out: out[:, :4])
