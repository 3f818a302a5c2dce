"""The choice of the library that multiplies."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.supernet import products as backend


@pytest.fixture(autouse=True)
def _fresh_choice() -> Iterator[None]:
    backend.products.cache_clear()
    yield
    backend.products.cache_clear()


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def test_the_environment_can_choose_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "plain")
    before = setting()
    with backend.fast_products() as chosen:
        assert (chosen, setting()) == ("plain", before)


def test_onednn_is_set_inside_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "onednn")
    monkeypatch.setattr(backend, "_exact", lambda: True)
    before = setting()
    with backend.fast_products() as chosen:
        assert (chosen, setting()) == ("onednn", "bf16")
    assert setting() == before
    with pytest.raises(ZeroDivisionError), backend.fast_products():
        raise ZeroDivisionError
    assert setting() == before


def test_products_and_gradients_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(400, 192, generator=generator), torch.randn(576, 192, generator=generator)
    exact = [part.double().requires_grad_() for part in (x, weight)]
    ours = [part.clone().requires_grad_() for part in (x, weight)]
    expected = torch.autograd.grad(F.linear(*exact).square().sum(), exact)
    with backend.fast_products():
        found = torch.autograd.grad(F.linear(*ours).square().sum(), ours)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))


def test_what_rounds_is_found_out() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not any(backend._keeps_all_bits(*probe) for probe in backend._PROBES)
    assert all(backend._keeps_all_bits(*probe) for probe in backend._PROBES)


def test_what_rounds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "_exact", lambda: False)
    monkeypatch.setattr(backend, "_faster", lambda: True)
    assert backend.products() == "plain"
    backend.products.cache_clear()
    monkeypatch.setenv(backend.VARIABLE, "onednn")
    with pytest.raises(InputError, match="rounds float32 products"):
        backend.products()


@pytest.mark.parametrize("faster", [True, False])
def test_it_is_taken_where_it_is_exact_and_faster(monkeypatch: pytest.MonkeyPatch, *, faster: bool) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "_exact", lambda: True)
    monkeypatch.setattr(backend, "_faster", lambda: faster)
    assert backend.products() == ("onednn" if faster else "plain")


def test_the_trial_runs_in_inference_mode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    with torch.inference_mode():
        assert backend.products() in backend.CHOICES


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "fast")
    with pytest.raises(InputError, match=backend.VARIABLE):
        backend.products()
