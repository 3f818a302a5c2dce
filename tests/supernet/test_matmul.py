import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.supernet import matmul


@pytest.fixture(autouse=True)
def _fresh_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    matmul.matmul_backend.cache_clear()
    yield
    matmul.matmul_backend.cache_clear()


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def test_a_process_that_a_test_starts_multiplies_as_the_test_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: True)
    for faster in (False, True):  # as two processes may find it, one after the other
        monkeypatch.setattr(matmul, "_onednn_is_faster", lambda faster=faster: faster)
        matmul.matmul_backend.cache_clear()
        assert matmul.matmul_backend() == os.environ[matmul.VARIABLE]


def test_the_environment_can_choose_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(matmul.VARIABLE, "default")
    before = setting()
    with matmul.fast_matmul() as chosen:
        assert (chosen, setting()) == ("default", before)


def test_onednn_is_set_inside_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(matmul.VARIABLE, "onednn")
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: True)
    before = setting()
    with matmul.fast_matmul() as chosen:
        assert (chosen, setting()) == ("onednn", "bf16")
    assert setting() == before
    with pytest.raises(ZeroDivisionError), matmul.fast_matmul():
        raise ZeroDivisionError
    assert setting() == before


def test_products_and_gradients_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(400, 192, generator=generator), torch.randn(576, 192, generator=generator)
    exact = [part.double().requires_grad_() for part in (x, weight)]
    ours = [part.clone().requires_grad_() for part in (x, weight)]
    expected = torch.autograd.grad(F.linear(*exact).square().sum(), exact)
    with matmul.fast_matmul():
        found = torch.autograd.grad(F.linear(*ours).square().sum(), ours)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))


def test_rounding_is_detected() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not any(matmul._keeps_all_bits(*shape) for shape in matmul._EXACTNESS_SHAPES)
    assert all(matmul._keeps_all_bits(*shape) for shape in matmul._EXACTNESS_SHAPES)


def test_a_backend_that_rounds_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: False)
    monkeypatch.setattr(matmul, "_onednn_is_faster", lambda: True)
    assert matmul.matmul_backend() == "default"
    matmul.matmul_backend.cache_clear()
    monkeypatch.setenv(matmul.VARIABLE, "onednn")
    with pytest.raises(InputError, match="rounds float32 products"):
        matmul.matmul_backend()


@pytest.mark.parametrize("faster", [True, False])
def test_onednn_is_chosen_where_it_is_exact_and_faster(monkeypatch: pytest.MonkeyPatch, *, faster: bool) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: True)
    monkeypatch.setattr(matmul, "_onednn_is_faster", lambda: faster)
    assert matmul.matmul_backend() == ("onednn" if faster else "default")


def test_the_backend_is_chosen_in_inference_mode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    with torch.inference_mode():
        assert matmul.matmul_backend() in matmul.BACKENDS


def test_another_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(matmul.VARIABLE, "fast")
    with pytest.raises(InputError, match=matmul.VARIABLE):
        matmul.matmul_backend()


def test_processes_that_time_differently_take_the_same_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: True)
    found = set()
    for faster in (True, False):
        monkeypatch.setattr(matmul, "_onednn_is_faster", lambda faster=faster: faster)
        matmul.matmul_backend.cache_clear()
        found.add(matmul.matmul_backend())
    assert found == {"onednn"}


@pytest.mark.parametrize("content", [b"", b"fast", b"\xff", None])
def test_a_damaged_choice_is_made_anew(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(matmul.VARIABLE, raising=False)
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: True)
    monkeypatch.setattr(matmul, "_onednn_is_faster", lambda: True)
    if content is None:  # a cache that cannot be made
        (tmp_path / "cache").touch()
    else:
        assert matmul.matmul_backend() == "onednn"
        (file,) = (tmp_path / "cache" / "matmul").iterdir()
        file.write_bytes(content)
        matmul.matmul_backend.cache_clear()
    assert matmul.matmul_backend() == "onednn"
