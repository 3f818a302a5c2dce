"""Networks that are rounded in torch against their graphs in int8, and their accuracy in a supernet's evaluator."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.calibration import Calibration, CalibrationRecipe
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.onnx_session import run_graph
from hwnas.export.quantise import rounded as rounded_values
from hwnas.space import SPACES
from hwnas.supernet.families import make_network, make_supernet
from hwnas.supernet.network import Network
from hwnas.train.data.loader import EvalLoader
from hwnas.train.evaluator import CalibrationImages, SupernetEvaluator
from hwnas.train.fake_quantisation import FakeQuantiser, QuantisedPrecision, rounded_to_fp8, rounded_weight
from tests.marks import slow_but
from tests.train.data.image_files import array_images

MICROS = [name for name in SPACES.names() if name.endswith("-micro")]


def network_of(name: str) -> Network:
    """A network whose values are as spread out as those of a trained one."""
    space = SPACES.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network(space, space.decode(space.sample(np.random.default_rng(2), 1))[0])
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def images_of(name: str, count: int, *, seed: int) -> Any:
    shape = SPACES.get(name).config.input_shape
    return np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)


def rounded(network: Network, precision: QuantisedPrecision, calibration: Any) -> Network:
    found = copy.deepcopy(network)
    segments = list(found.segments().values())
    FakeQuantiser(precision, [torch.from_numpy(calibration)]).quantise(segments, tuple(range(len(segments))))
    return found


def logits_of(name: str, precision: QuantisedPrecision) -> tuple[Any, Any, Any]:
    """The logits of a network in float, of the same rounded in torch, and of its graph."""
    network, calibration, images = network_of(name), images_of(name, 8, seed=0), images_of(name, 12, seed=1)
    recipe = CalibrationRecipe(method="minmax", num_images=len(calibration))
    batches = Calibration(recipe=recipe, batches=[image[None] for image in calibration])
    graph = build_onnx(network, input_shape=images.shape[1:], batch=1, calibration=batches, precision=precision)
    with torch.inference_mode():
        exact = network(torch.from_numpy(images)).numpy()
        found = rounded(network, precision, calibration)(torch.from_numpy(images)).numpy()
    return exact, found, np.concatenate([run_graph(graph.model, image[None]) for image in images])


@pytest.mark.parametrize("name", slow_but(MICROS, "autoformer-micro", "resnas-micro"))
@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_a_rounded_network_computes_as_its_graph(name: str, precision: QuantisedPrecision) -> None:
    exact, found, expected = logits_of(name, precision)
    # A value in the middle between two steps may be rounded either way, which changes a whole image: the two are not
    # equal to the last bit, and only several images show that they agree.
    assert np.abs(found - expected).mean() < 0.5 * np.abs(exact - expected).mean()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_values_in_fp8_are_those_of_the_graph() -> None:
    values = np.random.default_rng(0).standard_normal((3, 400), dtype=np.float32)
    for bound in (4.0, 1.0, 0.0):
        expected = rounded_values(values, bound, precision="fp8")
        assert rounded_to_fp8(torch.from_numpy(values), bound).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("name", slow_but(["autoformer-micro", "resnas-micro"], "resnas-micro"))
def test_a_network_in_fp8_is_as_far_from_float_as_its_graph(name: str) -> None:
    """The graph is in float16, so a few values of each layer round the other way, by a sixteenth of their size."""
    exact, found, expected = logits_of(name, "fp8")
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert 0.5 < np.abs(found - exact).mean() / np.abs(expected - exact).mean() < 2


def test_weights_have_255_values_and_keep_their_largest() -> None:
    weight = torch.randn(4, 400, generator=torch.Generator().manual_seed(0))
    found = rounded_weight(weight)
    assert torch.allclose(found.abs().amax(dim=1), weight.abs().amax(dim=1))
    assert all(len(row.unique()) <= 255 for row in found)
    assert (found - weight).abs().max() <= weight.abs().amax() / 254 + 1e-6
    assert rounded_weight(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_networks_that_begin_alike_have_the_ranges_of_one_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "autoformer-micro"
    network, calibration = network_of(name), images_of(name, 4, seed=0)
    quantiser = FakeQuantiser("int8", [torch.from_numpy(calibration)])
    alone = rounded(network, "int8", calibration)
    first, second = copy.deepcopy(network), copy.deepcopy(network)
    last = len(network.segments()) - 1
    lineage = tuple(range(last + 1))
    quantiser.quantise(list(first.segments().values()), lineage)
    runs: list[str] = []
    for part, module in second.segments().items():
        module.register_forward_pre_hook(lambda *_, part=part: runs.append(part))
    quantiser.quantise(list(second.segments().values()), (*lineage[:last], "another head"))
    assert runs == [list(network.segments())[-1]]
    images = torch.from_numpy(images_of(name, 2, seed=1))
    with torch.inference_mode():
        assert torch.equal(first(images), alone(images))
        assert torch.equal(second(images), alone(images))


def evaluator(supernet: Any, count: int = 40, **options: Any) -> SupernetEvaluator:
    loader = EvalLoader(array_images(count, size=32, classes=10), image_shape=(3, 32, 32), batch_size=16)
    return SupernetEvaluator(supernet, loader, checkpoint_id="c", split_id="s", **options)


def calibration_images() -> CalibrationImages:
    loader = EvalLoader(array_images(12, size=32, classes=10), image_shape=(3, 32, 32), batch_size=8)
    return CalibrationImages(name="12 images, minmax", batches=loader)


@pytest.mark.parametrize("name", ["autoformer-micro", "resnas-micro"])
def test_the_evaluator_rounds_each_network(name: str) -> None:
    """With a supernet whose networks begin alike, and with one that estimates batch norms anew."""
    space = SPACES.get(name)
    torch.manual_seed(0)
    supernet = make_supernet(space)
    archs = space.decode(space.sample(np.random.default_rng(0), 4))
    options: dict[str, Any] = {"recalibration": list(calibration_images().batches)}
    together = evaluator(supernet, precision="int8", calibration=calibration_images(), **options)
    found = together.evaluate(archs)
    for arch, accuracy in zip(archs, found, strict=True):
        alone = evaluator(supernet, precision="int8", calibration=calibration_images(), **options)
        assert alone.evaluate([arch])[0] == accuracy
    exact = evaluator(supernet, **options).evaluate(archs)
    assert [accuracy.loss for accuracy in found] != [accuracy.loss for accuracy in exact]
    assert [accuracy.loss for accuracy in found] == pytest.approx([accuracy.loss for accuracy in exact], rel=0.05)
    # The supernet itself is not rounded.
    assert evaluator(supernet, **options).evaluate(archs) == exact


def test_the_cache_tells_precisions_and_calibrations_apart(tmp_path: Path) -> None:
    space = SPACES.get("autoformer-micro")
    supernet, cache = make_supernet(space), tmp_path / "accuracies.jsonl"
    arch = space.smallest()
    exact = evaluator(supernet, cache=cache).evaluate([arch])
    rounded_once = evaluator(supernet, cache=cache, precision="int8", calibration=calibration_images()).evaluate([arch])
    assert len(cache.read_text().splitlines()) == 2
    assert '"precision": "int8, 12 images, minmax"' in cache.read_text()
    assert evaluator(supernet, cache=cache).evaluate([arch]) == exact
    again = evaluator(supernet, cache=cache, precision="int8", calibration=calibration_images())
    assert again.evaluate([arch]) == rounded_once
    assert len(cache.read_text().splitlines()) == 2


def test_int8_needs_calibration_images() -> None:
    supernet = make_supernet(SPACES.get("autoformer-micro"))
    with pytest.raises(InputError, match="needs images to find the ranges"):
        evaluator(supernet, precision="int8")


def test_layers_over_tokens_alone_are_rounded() -> None:
    network = rounded(network_of("autoformer-micro"), "int8", images_of("autoformer-micro", 2, seed=0))
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    hooked = [name for name in names if network.get_submodule(name)._forward_pre_hooks]
    assert set(names) - set(hooked) == {"head.classifier"}
