import pytest
import torch

from hwnas.profile.parity import MAX_IMAGES, compare, expected_logits, require_parity
from hwnas.profile.runners.runner import MeasurementError
from hwnas.records import Parity

EXPECTED = torch.tensor([[1.0, 2.0, -4.0], [0.5, 0.0, 0.25]])


def test_differences_are_relative_to_the_largest_logit() -> None:
    outputs = EXPECTED.clone()
    outputs[1, 0] = 0.2
    found = compare(outputs, EXPECTED)
    assert found.max_absolute == pytest.approx(0.3)
    assert found.max_relative == pytest.approx(0.075)
    assert found.top1_agreement == 0.5


def test_equal_outputs_agree() -> None:
    assert compare(EXPECTED, EXPECTED) == Parity(max_absolute=0, max_relative=0, top1_agreement=1)
    zeros = torch.zeros(1, 3)
    assert compare(zeros, zeros).max_relative == 0


def test_only_the_first_images_of_a_large_batch_are_compared() -> None:
    images = torch.arange(float(MAX_IMAGES + 3))[:, None]
    expected = expected_logits(torch.nn.Identity(), images)
    assert len(expected) == MAX_IMAGES
    assert compare(images, expected).max_absolute == 0


@pytest.mark.parametrize(("precision", "difference"), [("fp32", 3e-4), ("fp16", 7e-2), ("bf16", 0.3)])
def test_a_difference_beyond_the_precisions_tolerance_is_a_mismatch(precision: str, difference: float) -> None:
    with pytest.raises(MeasurementError, match=f"differ from torch's by .* in {precision}") as caught:
        require_parity(EXPECTED + 1.5 * difference, EXPECTED, precision=precision)
    assert caught.value.reason == "mismatch"
    assert require_parity(EXPECTED + 0.5 * difference, EXPECTED, precision=precision).top1_agreement == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_counted(value: float) -> None:
    outputs = EXPECTED.clone()
    outputs[0, :2] = value
    with pytest.raises(MeasurementError, match="2 of 6 outputs are NaN or infinite in fp32") as caught:
        require_parity(outputs, EXPECTED, precision="fp32")
    assert caught.value.reason == "nan"


def test_outputs_of_another_shape_are_a_mismatch() -> None:
    with pytest.raises(MeasurementError, match=r"have \(2, 2\), and torch's \(2, 3\)") as caught:
        compare(EXPECTED[:, :2], EXPECTED)
    assert caught.value.reason == "mismatch"


def test_nan_of_torch_itself_is_no_agreement() -> None:
    with pytest.raises(MeasurementError, match="torch's own outputs"):
        require_parity(EXPECTED, EXPECTED * float("nan"), precision="fp32")
