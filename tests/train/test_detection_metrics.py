"""Metrics of detection and segmentation, against values that follow by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.data.samples import IGNORED
from hwnas.train.detection_metrics import average_precision, mean_average_precision, mean_iou

SQUARE = [10.0, 10.0, 20.0, 20.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def target(*boxes: list[float], labels: list[int] | None = None, crowd: list[int] | None = None) -> dict[str, Tensor]:
    made = {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * len(boxes), dtype=torch.int64),
    }
    return made if crowd is None else made | {"iscrowd": torch.tensor(crowd)}


def found(*boxes: list[float], scores: list[float] | None = None, labels: list[int] | None = None) -> dict[str, Tensor]:
    return target(*boxes, labels=labels) | {"scores": torch.tensor(scores or [0.9] * len(boxes))}


def masks_of(*boxes: list[float], size: int = 64) -> Tensor:
    masks = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    return masks


def test_what_is_found_is_precise() -> None:
    assert mean_average_precision([found(SQUARE)], [target(SQUARE)]) == pytest.approx(1)
    assert mean_average_precision([found(FAR)], [target(SQUARE)]) == 0
    assert mean_average_precision([found()], [target(SQUARE)]) == 0


def test_thresholds_decide_what_is_found() -> None:
    """An overlap of 8 x 10 with 10 x 10 pixels is 0.8: found at 0.5 to 0.8, which are 7 of 10 thresholds."""
    scores = average_precision([found([10, 10, 18, 20])], [target(SQUARE)])
    assert scores.mean == pytest.approx(0.7)
    assert scores.at_50 == pytest.approx(1)
    assert scores.at_75 == pytest.approx(1)
    assert average_precision([found([10, 10, 17, 20])], [target(SQUARE)]).at_75 == 0


def test_a_better_scored_mistake_halves_the_precision() -> None:
    predictions = [found(FAR, SQUARE, scores=[0.9, 0.5])]
    assert mean_average_precision(predictions, [target(SQUARE)]) == pytest.approx(0.5)


def test_classes_are_averaged_and_those_of_no_object_left_out() -> None:
    predictions = [found(SQUARE, FAR, labels=[1, 3]), found()]
    scores = average_precision(predictions, [target(SQUARE, labels=[1]), target(FAR, labels=[2])])
    assert scores.mean == pytest.approx(0.5)
    assert scores.of_class == {1: pytest.approx(1), 2: 0}


def test_images_do_not_mix() -> None:
    assert mean_average_precision([found(), found(SQUARE)], [target(SQUARE), target()]) == 0


def test_what_lies_in_a_crowd_is_no_mistake() -> None:
    predictions = [found([52, 52, 55, 55], SQUARE, scores=[0.9, 0.5])]
    crowd = target(SQUARE, FAR, crowd=[0, 1])
    assert mean_average_precision(predictions, [crowd]) == pytest.approx(1)
    assert mean_average_precision(predictions, [target(SQUARE, FAR)]) < 0.5


def test_masks_are_compared_by_their_pixels() -> None:
    """Both objects have the same box; the mask is a quarter of it."""
    truth = target(SQUARE) | {"masks": masks_of([10, 10, 15, 15])}
    full = found(SQUARE) | {"masks": masks_of(SQUARE)[:, None].float()}
    exact = found(SQUARE) | {"masks": 0.6 * masks_of([10, 10, 15, 15])[:, None].float()}
    assert mean_average_precision([full], [truth]) == pytest.approx(1)
    assert mean_average_precision([full], [truth], overlap="masks") == 0
    assert mean_average_precision([exact], [truth], overlap="masks") == pytest.approx(1)
    nothing = found() | {"masks": torch.zeros(0, 1, 64, 64)}
    assert mean_average_precision([nothing], [truth], overlap="masks") == 0


def test_there_must_be_something_to_find() -> None:
    with pytest.raises(InputError, match="must have objects"):
        mean_average_precision([found(SQUARE)], [target()])
    with pytest.raises(InputError, match="must have objects"):
        mean_average_precision([found(SQUARE)], [target(SQUARE, crowd=[1])])
    with pytest.raises(InputError, match="one prediction for each target"):
        mean_average_precision([], [target(SQUARE)])


def test_iou_is_averaged_over_classes() -> None:
    predicted, annotated = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
    # Class 0: 1 of 2 pixels; class 1: 2 of 3; class 2 is nowhere.
    assert mean_iou([predicted], [annotated], num_classes=3) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_ignored_pixels_do_not_count_and_images_are_added_up() -> None:
    predicted = [torch.tensor([[0, 1]]), torch.tensor([[1, 1]])]
    annotated = [torch.tensor([[0, IGNORED]]), torch.tensor([[1, 0]])]
    assert mean_iou(iter(predicted), iter(annotated), num_classes=2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("predicted", "annotated", "match"),
    [
        ([torch.zeros(2, 2)], [], "one prediction"),
        ([torch.zeros(2, 2)], [torch.zeros(2, 3)], "the size of its target"),
        ([torch.full((2, 2), 7)], [torch.zeros(2, 2)], "classes must be 0 to 1"),
        ([torch.zeros(2, 2)], [torch.full((2, 2), IGNORED)], "classified pixels"),
    ],
)
def test_predictions_must_fit_targets(predicted: Any, annotated: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        mean_iou(predicted, annotated, num_classes=2)
