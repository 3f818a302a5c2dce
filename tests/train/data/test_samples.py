"""Samples with boxes: clipping, letterboxing and subsets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from hwnas.errors import InputError
from hwnas.train.data.samples import (
    IGNORED,
    PADDING,
    AnnotatedDataset,
    Sample,
    SemanticImages,
    instances_target,
    letterbox,
    require_image_size,
)


def target(boxes: list[list[float]], *, size: tuple[int, int] = (40, 80), **options: Any) -> dict[str, Any]:
    labels = np.arange(1, len(boxes) + 1)
    return instances_target(np.asarray(boxes, dtype=np.float32), labels, size=size, image_id=7, **options)


def image(size: tuple[int, int] = (40, 80)) -> Any:
    return tv_tensors.Image(torch.full((3, *size), 9, dtype=torch.uint8))


class OneImage:
    """An image with a crowd that lies over a large and a small object."""

    keys: Sequence[str] = ("a", "b")

    def read(self, index: int) -> Sample:
        masks = np.zeros((3, 4, 4), dtype=np.uint8)
        masks[0, :3], masks[1, 0, 0], masks[2, 2:] = 1, 1, 1
        boxes = np.asarray([[0, 0, 4, 3], [0, 0, 1, 1], [0, 2, 4, 4]], dtype=np.float32)
        crowd = np.asarray([0, 0, 1])
        made = instances_target(boxes, np.asarray([3, 5, 4]), size=(4, 4), image_id=index, iscrowd=crowd, masks=masks)
        return image((4, 4)), made


def test_boxes_are_clipped_and_empty_ones_dropped() -> None:
    made = target([[-5, 10, 20, 99], [90, 0, 95, 10], [10, 10, 10.4, 20], [10, 20, 5, 30], [60, 30, 100, 40]])
    assert made["boxes"].tolist() == [[0, 10, 20, 40], [60, 30, 80, 40]]
    assert made["labels"].tolist() == [1, 5]
    assert made["iscrowd"].tolist() == [0, 0]
    assert int(made["image_id"]) == 7


def test_letterboxed_images_lie_at_the_top_left() -> None:
    masks = np.zeros((1, 40, 80), dtype=np.uint8)
    masks[0, 20:40, 40:80] = 1
    pixels, made = letterbox(image(), target([[40, 20, 80, 40]], masks=masks), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert (pixels[:, :16] == 9).all()
    assert (pixels[:, 16:] == torch.tensor(PADDING)[:, None, None]).all()
    assert made["boxes"].tolist() == [[16, 8, 32, 16]]
    expected = torch.zeros(32, 32, dtype=torch.uint8)
    expected[8:16, 16:] = 1
    assert torch.equal(made["masks"][0], expected)
    assert {type(value) for value in made.values()} == {torch.Tensor}


def test_boxes_that_shrink_to_nothing_are_dropped() -> None:
    _, made = letterbox(image((400, 800)), target([[40, 20, 80, 60], [10, 10, 15, 300]], size=(400, 800)), 32)
    assert made["boxes"].shape == (1, 4)
    assert made["labels"].tolist() == [1]


def test_an_image_without_boxes_has_an_empty_target() -> None:
    _, made = letterbox(image(), target([], masks=np.zeros((0, 40, 80), dtype=np.uint8)), 32)
    assert made["boxes"].shape == (0, 4)
    assert made["masks"].shape == (0, 32, 32)
    assert made["labels"].dtype == torch.int64


def test_padded_pixels_have_no_class() -> None:
    _, classes = letterbox(image(), tv_tensors.Mask(torch.ones(40, 80, dtype=torch.int64)), 32)
    assert classes.dtype == torch.int64
    assert (classes[:16] == 1).all()
    assert (classes[16:] == IGNORED).all()


def test_a_training_leaves_crowds_out() -> None:
    evaluated = AnnotatedDataset(images=OneImage(), indices=np.asarray([1]), image_size=16)
    trained = AnnotatedDataset(images=OneImage(), indices=np.asarray([1]), image_size=16, crowds=False)
    assert evaluated[0][1]["iscrowd"].tolist() == [0, 0, 1]
    assert trained[0][1]["labels"].tolist() == [3, 5]
    assert trained[0][1]["masks"].shape == (2, 16, 16)
    assert list(trained.keys) == ["b"]
    assert int(trained[0][1]["image_id"]) == 1


def test_small_objects_lie_over_large_ones_and_crowds_have_no_class() -> None:
    classes = SemanticImages(OneImage()).read(0)[1]
    assert classes.tolist() == [[5, 3, 3, 3], [3] * 4, [3] * 4, [IGNORED] * 4]


@pytest.mark.parametrize("size", [8, 5000])
def test_sizes_that_hold_no_boxes_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="16 to 4096"):
        require_image_size(size)
