"""Comparisons of exported networks with torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import CheckFailedError, InputError
from hwnas.export.parity import (
    Array,
    ExactCheck,
    check_parity,
    parity_path,
    remove_parity,
    require_parity,
    write_checked,
)
from hwnas.export.rounding import with_rounded_weights

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
    found = check(module, lambda out: out, batches=(3,))
    assert (found.max_absolute, found.max_relative, found.top1_agreement, found.images) == (0, 0, 1, 18)
    assert found.batches == (3,)
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


def test_several_batches_take_turns(module: nn.Module) -> None:
    sizes: list[int] = []

    def run(images: Array) -> Array:
        sizes.append(len(images))
        return logits(module, images)

    found = check_parity(module, run, input_shape=SHAPE, batches=(1, 3), images=9)
    assert sizes == [1, 3, 1, 3, 1]
    assert (found.batches, found.images) == ((1, 3), 9)
    assert check_parity(module, run, input_shape=SHAPE, batches=(1, 3), images=1).batches == (1, 3)


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.001), ("fp16", 1.01), ("bf16", 1.05)])
def test_a_difference_beyond_the_tolerance_fails_the_gate(
    module: nn.Module, precision: str, factor: float, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    found = check(module, lambda out: out * np.float32(factor), precision=precision)
    with pytest.raises(CheckFailedError, match="of the largest logit of torch's") as caught:
        write_checked(found, path, content=b"refused")
    assert caught.value.exit_code == 4
    assert not path.exists()
    stored = json.loads(parity_path(path).read_text())
    assert stored["passed"] is False
    assert stored["sha256"] == hashlib.sha256(b"refused").hexdigest()
    assert stored["max_relative"] == pytest.approx(factor - 1, rel=0.05)
    assert stored["precision"] == precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_without_rounding_a_lower_precision_is_checked_like_float32(module: nn.Module, precision: str) -> None:
    same = with_rounded_weights(module, precision=precision)
    for factor, passes in ((1.0, True), (1.001, False)):
        exact = ExactCheck(run=lambda images, by=factor: logits(same, images) * np.float32(by), module=same)  # type: ignore[misc]
        found = check(same, lambda out: out, precision=precision, exact=exact)
        assert found.exact_relative == pytest.approx(factor - 1, rel=0.05, abs=1e-7)
        assert found.passed is passes
        if not passes:
            with pytest.raises(CheckFailedError, match=r"without rounding, its outputs must be within 0\.0001"):
                require_parity(found)


def test_a_record_names_the_file_that_it_is_of_and_is_gone_before_the_next(module: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    found = check(module, lambda out: out)
    assert write_checked(found, path, content=b"network").sha256 == hashlib.sha256(b"network").hexdigest()
    assert json.loads(parity_path(path).read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    remove_parity(path)
    remove_parity(path)
    assert sorted(tmp_path.iterdir()) == [path]

    def full() -> None:
        raise InputError("no room")

    with pytest.raises(InputError, match="no room"):
        write_checked(found, path, content=b"another", write=full)
    assert sorted(tmp_path.iterdir()) == [path]


def test_outputs_that_are_no_numbers_fail(module: nn.Module) -> None:
    with pytest.raises(CheckFailedError, match="exported network's outputs in fp16 must be finite") as caught:
        check(module, lambda out: np.where(out == out.max(), np.nan, out), precision="fp16")
    assert "16 of 80" in str(caught.value)


def test_weights_that_give_no_numbers_fail(module: nn.Module) -> None:
    with torch.no_grad():
        module[1].bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(CheckFailedError, match="torch's outputs in fp32 must be finite"):
        check(module, lambda out: out)


def test_outputs_of_another_shape_fail(module: nn.Module) -> None:
    with pytest.raises(CheckFailedError, match=r"torch's shape, \(16, 5\)"):
        check(module, lambda out: out[:, :4])
