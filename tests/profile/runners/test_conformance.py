"""The demands on every runner, tested with those that work on this machine's CPU, and on its GPU with `-m gpu`."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hwnas.devices import DEVICES, Device, detect
from hwnas.metrics import QUANTISED, RUNTIMES, Precision
from hwnas.profile.parity import expected_logits, parity_tolerance, require_agreement, require_parity
from hwnas.profile.runners.runner import Runner, RuntimeSession, load_runner
from hwnas.profile.runners.this_machine import device_of
from hwnas.records import Setting
from tests.records.rows import make_setting

CPU = detect().cpu.device
SLOW = ("torch-compile",)
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RUNTIMES]
PLACES = ["host", pytest.param("gpu", marks=pytest.mark.gpu)]


class Tiny(nn.Module):
    """A convolution, attention's operations and norms with weights that all differ."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        logits: Tensor = self.head((tokens + mixed).mean(1))
        return logits


def seeded(classes: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny(classes).eval()


def here(place: str) -> list[Device]:
    """NVIDIA's GPUs of this machine, or everything else."""
    return [device for device in detect().devices if (device.vendor == "nvidia") == (place == "gpu")]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=NAMES)
def runner(request: pytest.FixtureRequest) -> Runner:
    name: str = request.param
    if name.startswith("tensorrt"):
        pytest.importorskip(name.replace("-", "_"))
    return load_runner(name)


@pytest.fixture(scope="module", params=PLACES)
def setting(runner: Runner, request: pytest.FixtureRequest) -> Setting:
    devices = here(request.param)
    for device in devices:
        if runner.available(device).available:
            return make_setting(device=device.name, runtime=runner.name, batch=2)
    pytest.skip(runner.available(devices[0]).reason if devices else "there is no GPU of NVIDIA")


@pytest.fixture(scope="module")
def session(runner: Runner, setting: Setting, images: Tensor) -> Iterator[RuntimeSession]:
    prepared = runner.prepare(seeded(), images, setting)
    yield prepared
    prepared.close()


def test_it_is_registered_under_its_own_name(runner: Runner) -> None:
    assert isinstance(runner, Runner)
    assert RUNTIMES.get(runner.name)


def test_what_is_missing_has_a_reason(runner: Runner) -> None:
    for device in (CPU, DEVICES.get("h100")):
        found = runner.available(device)
        assert found.available == (found.reason == "")


def test_a_precision_that_nothing_has_is_refused_with_a_reason(runner: Runner, setting: Setting) -> None:
    found = runner.supports(make_setting(device=setting.device, runtime=runner.name, precision="int3"))
    assert not found.available
    assert "int3" in found.reason
    assert runner.supports(setting).available


def test_outputs_are_those_of_torch(session: RuntimeSession, images: Tensor) -> None:
    with torch.inference_mode():
        expected = seeded()(images)
    found = torch.as_tensor(session.outputs())
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_run_is_timed_by_the_clocks_of_its_device(session: RuntimeSession, setting: Setting) -> None:
    samples = [session.run_once() for _ in range(3)]
    assert all(sample.wall_ns > 0 for sample in samples)
    if device_of(setting).kind == "gpu":
        assert all(sample.device_ns and sample.cpu_ns is None for sample in samples)
    else:
        assert all(sample.cpu_ns and sample.device_ns is None and sample.switches >= 0 for sample in samples)


def test_memory_is_told_in_megabytes_or_not_at_all(session: RuntimeSession) -> None:
    found = session.memory_mb()
    assert found is None or -5 < found < 2000


def test_sessions_live_side_by_side_and_the_module_stays_as_it_was(
    runner: Runner, setting: Setting, session: RuntimeSession, images: Tensor
) -> None:
    module = seeded(classes=3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = runner.prepare(module, images, setting)
    assert other.outputs().shape == (2, 3)
    assert session.outputs().shape == (2, 5)
    other.close()
    assert session.outputs().shape == (2, 5)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_near_float32(runner: Runner, setting: Setting, images: Tensor, precision: str) -> None:
    half = make_setting(device=setting.device, runtime=runner.name, batch=2, precision=precision)
    if not runner.supports(half).available:
        pytest.skip(runner.supports(half).reason)
    module = seeded()
    prepared = runner.prepare(module, images, half)
    outputs, expected = torch.as_tensor(prepared.outputs()), expected_logits(module, images)
    prepared.close()
    assert not torch.equal(outputs, expected), "computed in float32"
    require_parity(
        outputs,
        expected,
        precision=precision,
        tolerance=parity_tolerance(module, images, precision=precision, runtime=runner.name),
    )


@pytest.mark.parametrize("precision", QUANTISED)
def test_quantised_outputs_agree_with_float32(
    runner: Runner, setting: Setting, images: Tensor, precision: Precision
) -> None:
    quantised = make_setting(device=setting.device, runtime=runner.name, batch=2, precision=precision)
    if not runner.supports(quantised).available:
        pytest.skip(runner.supports(quantised).reason)
    prepared = runner.prepare(seeded(), images, quantised)
    with torch.inference_mode():
        expected = seeded()(images)
    assert require_agreement(prepared.outputs(), expected, precision=precision).max_absolute > 1e-4
    assert "activation_scales" in runner.facts(quantised)
    assert "activation_scales" not in runner.facts(setting)
    prepared.close()


def test_facts_are_texts_with_a_version(runner: Runner, setting: Setting) -> None:
    facts = runner.facts(setting)
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts == runner.facts(setting)
    assert any(name in facts for name in ("torch", "onnxruntime", "openvino", "tensorrt"))
