"""Graphs of networks, with and without segments."""

from collections.abc import Iterator
from dataclasses import replace

import onnx
import pytest
import torch

from hwnas.devices import DEVICES, detect
from hwnas.errors import InputError
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.runners import preparation
from hwnas.profile.runners.preparation import DTYPES, configure_torch, onnx_graph
from hwnas.profile.runners.this_machine import emulation_note
from hwnas.profile.subjects import space_subject
from hwnas.space import SPACES
from tests.records.rows import make_setting

DEVICE = detect().cpu.slug


def test_an_exporter_that_makes_no_graph() -> None:
    setting = make_setting(device=DEVICE, runtime="onnxruntime", exporter="module")
    with pytest.raises(InputError, match="the exporter must produce one") as caught:
        onnx_graph(torch.nn.Identity(), torch.zeros(1, 3, 8, 8), setting)
    assert caught.value.known == ("composed", "dynamo", "dynamo-dynamic")


def test_a_cpu_that_emulates_bfloat16_is_named() -> None:
    old = replace(detect().cpu, instruction_sets=("avx2",))
    new = replace(old, instruction_sets=("avx512_bf16",))
    bf16, fp32 = (make_setting(device=DEVICE, runtime="torch", precision=name) for name in ("bf16", "fp32"))
    assert emulation_note(bf16, old) == f"{DEVICE} has no bf16 instructions: torch emulates bf16, which is slow"
    assert emulation_note(bf16, new) == emulation_note(fp32, old) == ""


def test_a_module_without_segments_takes_the_reference_path() -> None:
    setting = make_setting(device=DEVICE, runtime="onnxruntime", batch=3)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    graph = onnx.load_from_string(onnx_graph(module, torch.zeros(3, 3, 2, 2), setting)).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [3, 3, 2, 2]


def test_a_composed_network_has_its_segments_in_the_names_of_its_nodes() -> None:
    space = SPACES.get("autoformer-micro")
    subject = space_subject(space, space.candidate(space.smallest()))
    module = build_subject(subject, seed=0)
    setting = make_setting(device=DEVICE, runtime="onnxruntime")
    graph = onnx.load_from_string(onnx_graph(module, seeded_images(subject, batch=1, seed=0), setting)).graph
    assert {name.split("/")[0] for name in (node.name for node in graph.node)} >= {"stem", "head"}


@pytest.fixture
def restored_switches() -> Iterator[None]:
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


@pytest.mark.usefixtures("restored_switches")
@pytest.mark.parametrize("precision", DTYPES)
def test_torch_exports_after_it_was_configured_for_a_gpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "device_of", lambda setting: DEVICES.get("h100"))
    configure_torch(make_setting(device="h100", runtime="torch", precision=precision))
    allowed = precision == "tf32"
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"  # type: ignore[attr-defined]
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    setting = make_setting(device="h100", runtime="onnxruntime", precision=precision)
    assert onnx_graph(module, torch.zeros(1, 3, 2, 2), setting)
