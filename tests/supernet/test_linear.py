"""The choice of a linear's backend."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.supernet import linear as backend


@pytest.fixture(autouse=True)
def _fresh_choice() -> Iterator[None]:
    backend.convolution_is_faster.cache_clear()
    yield
    backend.convolution_is_faster.cache_clear()


def test_both_backends_give_the_same_values_and_gradients() -> None:
    x = torch.randn(8, 197, 48, requires_grad=True)
    weight = torch.randn(80, 64, requires_grad=True)
    bias = torch.randn(80, requires_grad=True)
    outputs = [function(x, weight[:72, :48], bias[:72]) for function in (F.linear, backend.as_convolution)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(output.square().sum(), (x, weight, bias)) for output in outputs]
    for ours, plain in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("choice", ["plain", "convolution"])
def test_the_environment_can_choose(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setenv(backend.VARIABLE, choice)
    assert backend.convolution_is_faster() is (choice == "convolution")
    x, weight, bias = torch.randn(8, 197, 48), torch.randn(80, 48), torch.randn(80)
    torch.testing.assert_close(backend.linear(x, weight, bias), F.linear(x, weight, bias), rtol=0, atol=1e-5)


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "fast")
    with pytest.raises(InputError, match=backend.VARIABLE):
        backend.convolution_is_faster()


def test_without_a_choice_it_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    assert backend.convolution_is_faster() in (True, False)
    with torch.inference_mode():
        backend.convolution_is_faster.cache_clear()
        assert backend.convolution_is_faster() in (True, False)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 17, 48), torch.zeros(1576, 48), torch.zeros(8, 197, 48, dtype=torch.float64)]
)
def test_few_rows_and_other_types_are_plain(monkeypatch: pytest.MonkeyPatch, x: torch.Tensor) -> None:
    monkeypatch.setattr(backend, "as_convolution", None)
    monkeypatch.setenv(backend.VARIABLE, "convolution")
    weight = torch.zeros(80, 48, dtype=x.dtype)
    assert backend.linear(x, weight, None).shape == (*x.shape[:-1], 80)
