"""Modules that have equal structures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwnas.export import structure as under_test
from hwnas.export import tracer
from hwnas.export.structure import OpaqueError, Structure, code_digest, read_structure
from tests.export.mirrors import SelfAttention


def structure(module: nn.Module, *, tokens: int = 5, embed: int = 8) -> Structure:
    return read_structure(module, input_shape=(1, tokens, embed), dtype=torch.float32)


def test_widths_are_numbers_and_no_text() -> None:
    one, other = (structure(SelfAttention(8, heads=heads, head_dim=4)) for heads in (2, 3))
    assert one.text == other.text
    changed = {name for name in one.sizes if one.sizes[name] != other.sizes[name]}
    assert changed == {".heads", "qkv.weight.0", "qkv.bias.0", "proj.weight.1"}
    assert one.sizes["input.1"] == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Linear(4, 4), nn.Linear(4, 4, bias=False)),
        (nn.GELU(), nn.GELU(approximate="tanh")),
        (nn.GELU(), nn.SiLU()),
        (nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 2)),
        (nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3, padding=1)),
        (nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3, groups=4)),
        (SelfAttention(8, heads=2, head_dim=4), SelfAttention(8, heads=1, head_dim=4)),
    ],
)
def test_what_decides_the_code_is_text(one: nn.Module, other: nn.Module) -> None:
    assert structure(one).text != structure(other).text


def test_real_numbers_and_odd_kernels_share_a_text() -> None:
    assert structure(nn.LayerNorm(8, eps=1e-5)).text == structure(nn.LayerNorm(12, eps=1e-6)).text
    assert structure(nn.Conv1d(4, 4, 5)).text == structure(nn.Conv1d(4, 4, 9)).text
    assert structure(nn.Dropout(0.1)).sizes[".p"] == 0.1


class Holding(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    "value", [slice(1, None), (2, (3, None)), {"a": 1.5, "b": "x"}, torch.relu, nn.Linear, None, "x"]
)
def test_attributes_are_read_down_to_numbers_and_text(value: Any) -> None:
    assert structure(Holding(value)).text == structure(Holding(value)).text


def test_a_slice_gives_its_numbers() -> None:
    assert structure(Holding(slice(2, None))).sizes[".value.start"] == 2


def _closure() -> Callable[[], int]:
    number = 3
    return lambda: number


@pytest.mark.parametrize("value", [torch.ones(2), object(), _closure(), {1, 2}])
def test_what_cannot_be_read_is_opaque(value: Any) -> None:
    with pytest.raises(OpaqueError):
        structure(Holding(value))


def test_hooks_make_a_module_opaque() -> None:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None)
    with pytest.raises(OpaqueError, match="hooks"):
        structure(module)


def test_the_digest_of_code_covers_what_a_module_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    name = tracer.__name__
    used = under_test._used_modules(name, "hwnas")
    assert {name, "hwnas.export.aten", "hwnas.workload", "hwnas.errors"} <= used
    assert code_digest("torch.nn.modules.linear") == code_digest("builtins") == ""
    before = code_digest(name)
    original = under_test._source
    monkeypatch.setattr(
        under_test, "_source", lambda module: original(module) + (b"#" if module == "hwnas.errors" else b"")
    )
    code_digest.cache_clear()
    try:
        assert code_digest(name) != before
    finally:
        code_digest.cache_clear()


def test_tied_weights_are_another_structure() -> None:
    class Two(nn.Module):
        def __init__(self, *, tied: bool) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
            if tied:
                self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(x))  # type: ignore[no-any-return]

    assert structure(Two(tied=True)).text != structure(Two(tied=False)).text
