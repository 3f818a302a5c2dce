"""The accuracy of quantised graphs against that of the same in float32."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from hwnas.errors import CheckFailedError, InputError
from hwnas.export.accuracy import (
    LayerNoise,
    QuantisedAccuracy,
    classify,
    layer_noise,
    require_accuracy,
    require_unsaturated,
)
from hwnas.export.calibration import Calibration, CalibrationRecipe, LabeledImages
from hwnas.export.export import AccuracyCheck, ExportedModule, export_module
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.quantise import ActivationRange, calibrate, linear_layers, quantise
from tests.export.test_quantise import SHAPE, Tokens

Array = NDArray[np.float32]

ACCURACY = QuantisedAccuracy(
    data="digits",
    images=1000,
    top1=0.64,
    float_top1=0.648,
    max_drop=0.01,
    calibration=CalibrationRecipe(data="digits", num_images=256),
    noisiest_layers=(LayerNoise(layer="blocks.2.mlp.fc2", signal_to_noise_db=12.4, clipped=0.0),),
)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tokens().eval()


@pytest.fixture(scope="module")
def graph(module: nn.Module) -> ModelProto:
    return build_onnx(module, input_shape=SHAPE, batch=2).model


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


def labeled(module: nn.Module, sizes: Sequence[int] = (5, 4)) -> LabeledImages:
    """Images with the classes that the network itself gives them, so that float32 is right about all."""
    parts = []
    for seed, size in enumerate(sizes, start=10):
        with torch.inference_mode():
            parts.append((images(size, seed), module(torch.from_numpy(images(size, seed))).argmax(-1).numpy()))
    return LabeledImages(name="made", batches=parts)


def quantised(graph: ModelProto, *, bound: float | None = None) -> ModelProto:
    ranges = calibrate(graph, [images(2)], method="minmax")
    if bound is not None:
        ranges = {name: replace(found, bound=bound) for name, found in ranges.items()}
    return quantise(graph, ranges)


def filled(model: ModelProto, name: str, value: float) -> ModelProto:
    """Return a graph with one value in all tensors whose name begins with `name`."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name.startswith(name):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, value), name=tensor.name))
    return changed


def test_each_image_is_classified_once_whatever_the_batch(graph: ModelProto, module: nn.Module) -> None:
    found = classify(graph, quantised(graph), labeled(module, (5, 4)), batch=2)
    assert found.labels.shape == (9,)
    assert (found.expected.argmax(-1) == found.labels).all()
    assert 0 < np.abs(found.found - found.expected).max() < 0.05 * np.abs(found.expected).max()
    assert found.top1_agreement == (found.found.argmax(-1) == found.labels).mean()


@pytest.mark.parametrize(("value", "got"), [(0.0, "0 for all"), (3.0, "the same for all")])
def test_logits_that_are_all_equal_are_an_error(graph: ModelProto, module: nn.Module, value: float, got: str) -> None:
    constant = filled(filled(quantised(graph), "head.weight", 0.0), "head.bias", value)
    with pytest.raises(CheckFailedError, match="must differ from class to class") as caught:
        classify(graph, constant, labeled(module), batch=2)
    assert caught.value.got == got
    assert "int8-dynamic" in str(caught.value.hint)


def test_logits_that_do_not_depend_on_the_image_are_an_error(graph: ModelProto, module: nn.Module) -> None:
    constant = filled(quantised(graph), "head.weight", 0.0)
    with pytest.raises(CheckFailedError, match="must differ from image to image"):
        classify(graph, constant, labeled(module), batch=2)


def test_logits_that_are_no_numbers_are_an_error(graph: ModelProto, module: nn.Module) -> None:
    with pytest.raises(CheckFailedError, match="must be finite numbers") as caught:
        classify(graph, filled(quantised(graph), "head.bias", np.nan), labeled(module), batch=2)
    assert caught.value.got == "45 of 45 are NaN or infinite"


def test_images_of_another_size_are_refused(graph: ModelProto, module: nn.Module) -> None:
    other = LabeledImages(name="large", batches=[(np.zeros((2, 3, 16, 16), np.float32), np.zeros(2, np.int64))])
    with pytest.raises(InputError, match="must have the shape that the network was made for") as caught:
        classify(graph, quantised(graph), other, batch=2)
    assert (str(caught.value.got), caught.value.known) == ("(3, 16, 16)", ("(3, 8, 8)",))
    with pytest.raises(InputError, match="must have the shape that the network was made for"):
        calibrate(graph, [np.zeros((2, 3, 16, 16), np.float32)], method="minmax")


def test_no_held_out_images_are_an_error(graph: ModelProto) -> None:
    with pytest.raises(InputError, match="needs held-out images"):
        classify(graph, quantised(graph), LabeledImages(name="none", batches=[]), batch=2)


def test_noise_is_that_of_a_layer_with_an_exact_input(graph: ModelProto, module: nn.Module) -> None:
    """8 bits of a uniform distribution have about 50 dB; weights and activations together a little less."""
    ranges = calibrate(graph, [images(2)], method="minmax")
    layers = layer_noise(graph, ranges, labeled(module), batch=2)
    assert len(layers) == len(linear_layers(graph))
    assert [layer.signal_to_noise_db for layer in layers] == sorted(layer.signal_to_noise_db for layer in layers)
    assert all(30 < layer.signal_to_noise_db < 55 for layer in layers)
    coarse = {name: ActivationRange(bound=16 * found.bound, rank=found.rank) for name, found in ranges.items()}
    noisier = layer_noise(graph, coarse, labeled(module), batch=2)
    assert max(layer.signal_to_noise_db for layer in noisier) < layers[0].signal_to_noise_db - 8
    dynamic = layer_noise(graph, None, labeled(module), batch=2)
    assert all(layer.clipped == 0 and layer.signal_to_noise_db > 30 for layer in dynamic)


def test_values_beyond_their_range_are_an_error(graph: ModelProto, module: nn.Module) -> None:
    ranges = calibrate(graph, [images(2)], method="minmax")
    require_unsaturated(layer_noise(graph, ranges, labeled(module), batch=2))
    narrow = {name: ActivationRange(bound=0.2 * found.bound, rank=found.rank) for name, found in ranges.items()}
    with pytest.raises(CheckFailedError, match="at most 5% of the values that a layer reads"):
        require_unsaturated(layer_noise(graph, narrow, labeled(module), batch=2))


def test_a_loss_beyond_the_limit_is_an_error_that_says_what_to_try() -> None:
    require_accuracy(ACCURACY, precision="int8")
    assert ACCURACY.drop == pytest.approx(0.008)
    with pytest.raises(CheckFailedError, match="at most 1 points below that of fp32") as caught:
        require_accuracy(replace(ACCURACY, top1=0.634), precision="int8")
    assert str(caught.value.got) == (
        "63.40% instead of 64.80% on 1,000 images, 1.4 points; most noise in blocks.2.mlp.fc2 (12 dB)"
    )
    assert caught.value.hint == (
        "--calibration-method mse, --calibration-method percentile, --calibration-images 1024, "
        "--precision bf16, or --max-drop"
    )


def test_a_loss_of_exactly_the_limit_passes() -> None:
    assert replace(ACCURACY, float_top1=0.65, top1=0.64).passed
    assert not replace(ACCURACY, float_top1=0.651, top1=0.64).passed
    assert replace(ACCURACY, top1=0.7).passed


def exported(module: nn.Module, path: Path, *, precision: str = "int8", max_drop: float = 0.2) -> ExportedModule:
    recipe = CalibrationRecipe(data="made", num_images=4)
    return export_module(
        module,
        format="onnx",
        path=path,
        input_shape=SHAPE,
        precision=precision,
        batch=2,
        calibration=Calibration(recipe=recipe, batches=[images(2), images(2, 1)]),
        accuracy=AccuracyCheck(images=labeled(module, (20,)), max_drop=max_drop),
    )


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "fp8"])
def test_a_file_is_kept_with_its_accuracy(module: nn.Module, tmp_path: Path, precision: str) -> None:
    found = exported(module, tmp_path / "net.onnx", precision=precision)
    accuracy = found.parity.accuracy
    assert accuracy is not None
    assert (accuracy.float_top1, accuracy.images, accuracy.data) == (1.0, 20, "made")
    assert found.parity.top1_agreement == accuracy.top1 >= 0.8
    assert found.parity.exact_relative is not None
    assert found.parity.exact_relative < 1e-5 < found.parity.max_relative
    record = json.loads((tmp_path / "net.onnx.parity.json").read_text())
    assert record["passed"]
    assert record["accuracy"]["top1"] == accuracy.top1
    is_static = precision != "int8-dynamic"
    assert (record["accuracy"]["calibration"] is not None) == is_static
    if is_static:
        assert record["accuracy"]["calibration"]["num_images"] == 4


def test_a_file_that_loses_too_much_is_not_written(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two levels in place of 255, as if int8 had one bit."""
    for module_name in ("scales", "quantise"):
        monkeypatch.setattr(f"hwnas.export.{module_name}.LEVELS", 1)
    with pytest.raises(CheckFailedError, match="top-1 accuracy in int8 may be at most 0 points below"):
        exported(module, tmp_path / "net.onnx", max_drop=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx.parity.json"]
    assert not json.loads((tmp_path / "net.onnx.parity.json").read_text())["passed"]


def test_without_images_nothing_is_written(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 needs images"):
        export_module(module, format="onnx", path=tmp_path / "net.onnx", input_shape=SHAPE, precision="int8")
    with pytest.raises(InputError, match="networks in int8 are ONNX graphs"):
        export_module(module, format="pt2", path=tmp_path / "net.pt2", input_shape=SHAPE, precision="int8")
    assert list(tmp_path.iterdir()) == []


class Mlp(nn.Module):
    """Norm and MLP on 4 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.fc2(nn.functional.gelu(self.fc1(tokens))).mean(1))
        return logits


@pytest.fixture
def mlp() -> Mlp:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mlp().eval()


def test_smoothing_that_went_wrong_fails_the_gate(mlp: Mlp, tmp_path: Path) -> None:
    """SmoothQuant moves a factor for each channel from activations to weights.

    In float32 it changes nothing. With factors from misread statistics, quantised networks lost half of their accuracy.
    """
    assert exported(mlp, tmp_path / "plain.onnx", max_drop=0.2).parity.passed
    factors = torch.tensor([1e-4, 1e4]).repeat(8)
    with torch.no_grad():
        mlp.norm.weight.mul_(factors)
        mlp.fc1.weight.div_(factors)
    with pytest.raises(CheckFailedError, match="logits of the quantised network must differ") as caught:
        exported(mlp, tmp_path / "smooth.onnx", max_drop=1.0)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "smooth.onnx").exists()


def test_scales_of_other_images_are_saturated_and_fail_the_gate(mlp: Mlp, tmp_path: Path) -> None:
    mlp.norm = nn.Identity()  # type: ignore[assignment]
    recipe = CalibrationRecipe(data="dark", num_images=2)
    with pytest.raises(CheckFailedError, match="may lie beyond its calibrated range") as caught:
        export_module(
            mlp,
            format="onnx",
            path=tmp_path / "net.onnx",
            input_shape=SHAPE,
            precision="int8",
            batch=2,
            calibration=Calibration(recipe=recipe, batches=[0.01 * images(2)]),
            accuracy=AccuracyCheck(images=labeled(mlp), max_drop=1.0),
        )
    assert int(str(caught.value.got).partition("%")[0]) > 50
    assert list(tmp_path.iterdir()) == []
