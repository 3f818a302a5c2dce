"""Augmentation of samples with boxes and masks."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from hwnas.errors import InputError
from hwnas.train.data.detection_augment import DetectionAugmentConfig, augment
from hwnas.train.data.digits_scene import DigitsScenes, box_of_mask
from hwnas.train.data.samples import IGNORED, Sample, SemanticImages

STILL = DetectionAugmentConfig(flip=0, scale=(1, 1), photometric=0)
SCENES = DigitsScenes(split="train", count=20, image_size=64)


def made(config: DetectionAugmentConfig, *, seed: int = 0, index: int = 3) -> Sample:
    return augment(SCENES.read(index), config, size=64, seed=seed)


def test_the_seed_decides_all_draws() -> None:
    torch.manual_seed(1)
    first = made(DetectionAugmentConfig())
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    again = made(DetectionAugmentConfig())
    assert torch.equal(torch.rand(1), expected)  # torch's own generator is left as it was
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])
    assert not torch.equal(first[0], made(DetectionAugmentConfig(), seed=1)[0])


def test_nothing_changes_without_augmentation() -> None:
    image, target = made(STILL)
    assert torch.equal(image, SCENES.read(3)[0])
    assert torch.equal(target["boxes"], SCENES.read(3)[1]["boxes"])


def test_a_flip_moves_boxes_and_masks() -> None:
    image, target = made(DetectionAugmentConfig(flip=1, scale=(1, 1), photometric=0))
    before = SCENES.read(3)
    assert torch.equal(image, before[0].flip(-1))
    assert torch.equal(target["masks"], before[1]["masks"].flip(-1))
    assert target["boxes"].tolist() == [list(box_of_mask(mask)) for mask in target["masks"].numpy().astype(bool)]


@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.8, 1.8)])
def test_scaled_boxes_enclose_their_masks(scale: tuple[float, float]) -> None:
    config = DetectionAugmentConfig(flip=0.5, scale=scale, photometric=1)
    seen = 0
    for index in range(20):
        image, target = made(config, seed=index, index=index)
        assert image.shape == (3, 64, 64)
        assert image.dtype == torch.uint8
        boxes, masks = target["boxes"], target["masks"]
        assert len(boxes) == len(masks) == len(target["labels"])
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()
        for box, mask in zip(boxes, masks.numpy().astype(bool), strict=True):
            if mask.any():
                # A mask is resized to whole pixels, and the digit itself may be cut within its box.
                left, top, right, bottom = np.asarray(box_of_mask(mask)) - box.numpy()
                assert min(left, top) >= -1.5
                assert max(right, bottom) <= 1.5
                seen += 1
    assert seen > 15


def test_what_lies_outside_has_no_class() -> None:
    config = DetectionAugmentConfig(flip=0, scale=(0.5, 0.5), photometric=0)
    _, classes = augment(SemanticImages(SCENES).read(0), config, size=64, seed=0)
    assert classes.shape == (64, 64)
    assert int((classes != IGNORED).sum()) == 32 * 32


def test_an_image_without_boxes_stays_one() -> None:
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(20, 30)),
        "labels": torch.zeros(0, dtype=torch.int64),
        "image_id": torch.tensor(4),
    }
    image = tv_tensors.Image(torch.zeros(3, 20, 30, dtype=torch.uint8))
    augmented, empty = augment((image, target), DetectionAugmentConfig(), size=32, seed=0)
    assert augmented.shape == (3, 32, 32)
    assert empty["boxes"].shape == (0, 4)
    assert int(empty["image_id"]) == 4


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="smallest <= largest"):
        DetectionAugmentConfig(scale=(2, 1))
    with pytest.raises(InputError, match="flip must be between"):
        DetectionAugmentConfig(flip=2)
