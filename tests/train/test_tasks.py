"""Losses and predictions of networks for detection and segmentation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.space.task_head import HEAD_KINDS
from hwnas.supernet.families import make_supernet
from hwnas.supernet.task_head import MaskHead, SecondStage, TaskHeadConfig, anchors_of
from hwnas.train.data.detection_loader import DetectionTrainLoader
from hwnas.train.data.images import BadImageError
from hwnas.train.data.sources import DataConfig
from hwnas.train.tasks import (
    evaluation_batches,
    make_outputs,
    make_task_evaluator,
    normalized,
    open_task_data,
    outputs_of,
    training_batches,
)

DATA = DataConfig(name="digits-scene", max_images=8, heldout=4)
BOX = torch.tensor([[16.0, 24.0, 40.0, 48.0]])


def space_of(kind: str) -> AnySpace:
    return SPACES.get(f"{kind}-vitas-twins-micro").adapted(num_classes=11)


def perfect_outputs(kind: str, label: int) -> tuple[Any, Tensor]:
    """Outputs in which the anchor that overlaps a box most has its class and its place, and all others nothing."""
    space = space_of(kind)
    head, size = space.config.task_head, space.config.image_size
    anchors = anchors_of(head, image_size=size)
    outputs = torch.full((1, len(anchors), 11 + 4 + (kind == "fcos")), -8.0)
    centre = (BOX[0, :2] + BOX[0, 2:]) / 2
    sides = anchors[:, 2:] - anchors[:, :2]
    best = int(((anchors[:, :2] + anchors[:, 2:]) / 2 - centre).norm(dim=1).add(0.01 * sides[:, 0]).argmin())
    outputs[0, best, label] = 8.0
    coder = make_outputs(head, image_size=size, num_classes=11).detector.box_coder  # type: ignore[attr-defined]
    encoded = (
        coder.encode(anchors[best : best + 1], BOX)
        if kind == "fcos"
        else coder.encode_single(BOX, anchors[best : best + 1])
    )
    outputs[0, best, 11:15] = encoded[0]
    if kind == "fcos":
        outputs[0, best, 15] = 8.0
    return make_outputs(head, image_size=size, num_classes=11), outputs


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_the_box_of_an_anchor_is_predicted_where_it_is(kind: str) -> None:
    task, outputs = perfect_outputs(kind, label=7)
    (found,) = task.predict(outputs)
    torch.testing.assert_close(found["boxes"], BOX)
    assert found["labels"].tolist() == [7]
    assert float(found["scores"][0]) > 0.99
    target = {"boxes": BOX, "labels": torch.tensor([7])}
    assert task.quality([found], [target]) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_few_steps_lower_the_loss(kind: str) -> None:
    torch.manual_seed(0)
    space = space_of(kind)
    supernet = make_supernet(space)
    masks = space.config.task_head.has_masks
    data = open_task_data(DATA, space.config.task, image_size=space.config.image_size, num_classes=11, masks=masks)
    (batch,) = DetectionTrainLoader(data.train, augment=None, batch_size=8, seed=0).epoch(0)
    task, optimizer, losses = outputs_of(supernet), torch.optim.AdamW(supernet.parameters(), lr=3e-3), []
    assert task is not None
    images = normalized(batch.images)
    for _ in range(6):
        loss = task.loss(supernet(images, space.smallest()), batch.targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_images_without_boxes_have_a_loss() -> None:
    for kind in ("retinanet", "fcos"):
        task, outputs = perfect_outputs(kind, label=3)
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        assert torch.isfinite(task.loss(outputs, [empty]))


def test_networks_are_evaluated_by_the_metric_of_their_task() -> None:
    space = space_of("semantic-fpn")
    data = open_task_data(DATA, "segmentation", image_size=space.config.image_size)
    evaluator = make_task_evaluator(make_supernet(space).eval(), data)
    archs = [space.smallest(), *space.decode(space.sample(np.random.default_rng(0), 1))]
    values = evaluator.evaluate(archs)
    assert evaluator.measure.name == "mIoU"
    assert all(0 <= value < 1 for value in values)
    assert evaluator.evaluate(archs) == values


def test_data_of_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match="must have the classes of the networks, 4 with the background"):
        open_task_data(DATA, "detection", image_size=64, num_classes=4)


def test_so_many_bad_images_are_skipped_as_the_data_allow() -> None:
    data = open_task_data(replace(DATA, max_bad=1), "detection", image_size=64)
    assert "masks" not in data.heldout[0][1]
    for batches in (evaluation_batches(data, split="heldout"), training_batches(data)):
        assert next(iter(batches)).images.shape[1:] == (3, 64, 64)

    class Broken:
        keys = data.heldout.images.keys

        def read(self, index: int) -> Any:
            raise BadImageError(self.keys[index], "made so")

    broken = replace(data, heldout=replace(data.heldout, images=Broken()))
    with pytest.raises(InputError, match="more than 1 images cannot be read"):
        list(evaluation_batches(broken, split="heldout"))


def test_masks_are_found_where_they_are_on_the_levels_of_their_boxes() -> None:
    """Mask R-CNN's second stage with a mask branch that copies the first channel of the pyramid, which is the mask."""
    space = space_of("maskrcnn")
    head, size = space.config.task_head, space.config.image_size
    module = TaskHeadConfig(head=head, image_size=size, num_classes=11, channels=(8, 8, 8), levels=(0, 1, 2)).build()
    assert isinstance(module, MaskHead)
    task = make_outputs(head, image_size=size, num_classes=11, module=module)
    left, top, right, bottom = map(int, BOX[0])
    wanted = torch.zeros(size, size)
    wanted[top + 8 : bottom, left:right] = 1  # the upper third of the box is no part of the object
    pooled = [F.adaptive_avg_pool2d(wanted[None, None], grid) for grid in head.grids(size)]
    levels = [level.expand(1, head.channels, -1, -1) for level in pooled]
    logits = [torch.full((1, head.anchors, grid, grid), -9.0) for grid in head.grids(size)]
    places = [torch.zeros(1, 4 * head.anchors, grid, grid) for grid in head.grids(size)]
    # The first anchor of a side of 32 pixels around the point (28, 36), as the box of 24 pixels.
    logits[1][0, 0, 4, 3] = 9.0
    anchor = torch.tensor([8.0, 16.0, 40.0, 48.0])
    places[1][0, :4, 4, 3] = task.stage._rpn.box_coder.encode_single(BOX, anchor[None])[0]  # type: ignore[attr-defined]
    outputs = torch.cat([part.flatten(1) for part in (*levels, *logits, *places)], dim=1)

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.box_predictor.cls_score.bias[7] = 9.0
    module.mask_head, module.mask_predictor = nn.Identity(), nn.Identity()
    stage = SecondStage(module, image_size=size)
    stage._rois.mask_predictor = _FirstChannel()
    stage._rpn._post_nms_top_n["testing"] = 1
    task.stage = stage  # type: ignore[attr-defined]
    (found,) = task.predict(outputs)

    assert found["labels"].tolist() == [7]
    torch.testing.assert_close(found["boxes"], BOX, atol=1e-3, rtol=0)
    target = {"boxes": BOX, "labels": torch.tensor([7]), "masks": wanted[None].byte()}
    assert task.quality([found], [target]) > 0.35  # an overlap of 0.7: torchvision draws masks a pixel larger
    shifted = {**target, "masks": wanted.roll(-8, 0)[None].byte()}
    assert task.quality([found], [shifted]) == 0


class _FirstChannel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Logits of all classes: the first channel above a half, on twice the grid."""
        return F.interpolate(x[:, :1], scale_factor=2).sub(0.5).mul(40).expand(-1, 11, -1, -1)


def test_boxes_without_masks_are_refused_by_networks_that_predict_masks(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(1, 9)]
    table = {"images": images, "annotations": [row], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="must have masks for networks that predict them"):
        open_task_data(DataConfig(name=str(tmp_path), heldout=1), "detection", image_size=64, masks=True)
