"""Losses and predictions of networks for detection and segmentation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_supernet
from hwnas.supernet.task_head import anchors_of
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


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "semantic-fpn"])
def test_a_few_steps_lower_the_loss(kind: str) -> None:
    torch.manual_seed(0)
    space = space_of(kind)
    supernet = make_supernet(space)
    data = open_task_data(DATA, space.config.task, image_size=space.config.image_size, num_classes=11)
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
