import pytest
import torch

from hwnas.profile.parity import (
    MAX_IMAGES,
    compare_outputs,
    expected_logits,
    parity_tolerance,
    require_agreement,
    require_parity,
)
from hwnas.profile.runners.runner import MeasurementError
from hwnas.records import OutputParity

EXPECTED = torch.tensor([[1.0, 2.0, -4.0], [0.5, 0.0, 0.25]])


def test_differences_are_relative_to_the_largest_logit() -> None:
    outputs = EXPECTED.clone()
    outputs[1, 0] = 0.2
    found = compare_outputs(outputs, EXPECTED)
    assert found.max_absolute == pytest.approx(0.3)
    assert found.max_relative == pytest.approx(0.075)
    assert found.top1_agreement == 0.5


def test_equal_outputs_agree() -> None:
    assert compare_outputs(EXPECTED, EXPECTED) == OutputParity(max_absolute=0, max_relative=0, top1_agreement=1)
    zeros = torch.zeros(1, 3)
    assert compare_outputs(zeros, zeros).max_relative == 0


def test_only_the_first_images_of_a_large_batch_are_compared() -> None:
    images = torch.arange(float(MAX_IMAGES + 3))[:, None]
    expected = expected_logits(torch.nn.Identity(), images)
    assert len(expected) == MAX_IMAGES
    assert compare_outputs(images, expected).max_absolute == 0


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 4e-3), ("bf16", 3e-2)])
def test_a_difference_beyond_the_tolerance_is_a_mismatch(precision: str, tolerance: float) -> None:
    with pytest.raises(MeasurementError, match=f"differ from torch's by .* in {precision}") as caught:
        require_parity(EXPECTED + 6 * tolerance, EXPECTED, precision=precision, tolerance=tolerance)
    assert caught.value.reason == "mismatch"
    found = require_parity(EXPECTED + 2 * tolerance, EXPECTED, precision=precision, tolerance=tolerance)
    assert found.top1_agreement == 1


def test_what_is_allowed_follows_from_rounding() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)).eval()
    images = torch.randn(5, 64)
    precisions = ("fp32", "tf32", "fp16", "bf16")
    found = [parity_tolerance(module, images, precision=name, runtime="onnxruntime") for name in precisions]
    assert found[0] == 1e-4
    assert 1e-3 < found[1] <= 1e-2
    assert 1e-3 < found[2] < 1e-2
    assert 1e-2 < found[3] < 5e-2
    assert parity_tolerance(module, images, precision="fp32", runtime="openvino") == 1e-3
    assert parity_tolerance(module, images, precision="bf16", runtime="openvino") == found[3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_counted(value: float) -> None:
    outputs = EXPECTED.clone()
    outputs[0, :2] = value
    with pytest.raises(MeasurementError, match="2 of 6 outputs are NaN or infinite in fp32") as caught:
        require_parity(outputs, EXPECTED, precision="fp32", tolerance=1e-4)
    assert caught.value.reason == "nan"


def test_outputs_of_another_shape_are_a_mismatch() -> None:
    with pytest.raises(MeasurementError, match=r"have \(2, 2\) instead of \(2, 3\)") as caught:
        compare_outputs(EXPECTED[:, :2], EXPECTED)
    assert caught.value.reason == "mismatch"


def test_nan_of_torch_itself_is_no_agreement() -> None:
    with pytest.raises(MeasurementError, match="torch's own outputs"):
        require_parity(EXPECTED, EXPECTED * float("nan"), precision="fp32", tolerance=1e-4)


def test_quantised_outputs_must_correlate_with_those_of_torch() -> None:
    rough = EXPECTED + torch.tensor([[0.8, -0.8, 0.8], [0.1, 0.1, -0.1]])
    found = require_agreement(rough, EXPECTED, precision="int8")
    assert found.max_relative == pytest.approx(0.2)
    with pytest.raises(MeasurementError, match=r"rise and fall with torch's.*0\.9; it is -1\.00") as caught:
        require_agreement(-EXPECTED, EXPECTED, precision="int8")
    assert caught.value.reason == "mismatch"


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_outputs_of_a_quantised_network_are_a_mismatch(value: float) -> None:
    with pytest.raises(MeasurementError, match="all outputs in int8 are equal") as caught:
        require_agreement(torch.full_like(EXPECTED, value), EXPECTED, precision="int8")
    assert caught.value.reason == "mismatch"
    constant = torch.full_like(EXPECTED, value)  # a network whose head is still zero
    assert require_agreement(constant, constant, precision="int8").max_absolute == 0


def test_quantised_outputs_that_are_no_numbers_are_counted() -> None:
    outputs = EXPECTED.clone()
    outputs[1, 2] = float("nan")
    with pytest.raises(MeasurementError, match="1 of 6 outputs are NaN or infinite in int8"):
        require_agreement(outputs, EXPECTED, precision="int8")
