"""Boxes in the graphs of detectors: those that torchvision chooses from the same outputs."""

import numpy as np
import onnx
import pytest
import torch

from hwnas.errors import CheckFailedError, InputError
from hwnas.export.boxes import BOX_OUTPUTS, compare_boxes, set_score_threshold, with_boxes
from hwnas.export.onnx_session import open_session
from hwnas.pipeline.export_boxes import box_rules
from hwnas.space import SPACES
from hwnas.train.tasks import DetectionOutputs, make_outputs


def outputs_of_kind(kind: str) -> DetectionOutputs:
    config = SPACES.get(f"{kind}-vitas-twins-micro").config
    found = make_outputs(config.task_head, image_size=config.image_size, num_classes=4)
    assert isinstance(found, DetectionOutputs)
    return found


def passing(shape: tuple[int, ...]) -> onnx.ModelProto:
    """A graph that returns its input, in place of a detector."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "detector", ends[:1], ends[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("kind", "rarity"), [("retinanet", 3.0), ("fcos", 3.0), ("retinanet", 0.0)])
def test_the_boxes_of_a_graph_are_those_of_torchvision(kind: str, rarity: float) -> None:
    """Also with 3,000 candidates in a level, of which torchvision takes 1,000."""
    task = outputs_of_kind(kind)
    width = 4 + 4 + (kind == "fcos")
    raw = torch.randn(3, len(task.anchors), width, generator=torch.Generator().manual_seed(0))
    raw[..., :4] -= rarity
    if not rarity:  # large boxes overlap, so that the worst candidates are chosen as well
        raw[..., 6:8] += 3.0
    if kind == "fcos":
        raw[..., 4:8] = raw[..., 4:8].abs()
    session = open_session(with_boxes(passing((1, len(task.anchors), width)), box_rules(task)))
    found = [dict(zip(BOX_OUTPUTS, session.run(None, {"x": image[None].numpy()}), strict=True)) for image in raw]
    expected = [{name: part.numpy() for name, part in image.items()} for image in task.predict(raw)]
    parity = compare_boxes(found, expected)
    assert parity.boxes == sum(len(image["labels"]) for image in expected) > 30
    assert parity.max_pixels < 1e-2
    assert all((np.diff(image["scores"]) <= 0).all() for image in found)


def test_a_graph_without_boxes_has_none_and_another_threshold_finds_some() -> None:
    task = outputs_of_kind("retinanet")
    shape = (1, len(task.anchors), 8)
    model, raw = with_boxes(passing(shape), box_rules(task)), np.full(shape, -6.0, dtype=np.float32)
    boxes, scores, labels = open_session(model).run(None, {"x": raw})
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert len(open_session(set_score_threshold(model, 1e-4)).run(None, {"x": raw})[0]) > 0


def test_other_boxes_and_other_outputs_are_refused() -> None:
    task = outputs_of_kind("retinanet")
    with pytest.raises(InputError, match="outputs must have the shape"):
        with_boxes(passing((1, 5, 8)), box_rules(task))
    box = {"boxes": np.array([[1.0, 1.0, 5.0, 5.0]]), "scores": np.array([0.9]), "labels": np.array([1])}
    with pytest.raises(CheckFailedError, match="as many boxes as in torch"):
        compare_boxes([{name: part[:0] for name, part in box.items()}], [box])
    with pytest.raises(CheckFailedError, match="must be that of torch"):
        compare_boxes([{**box, "boxes": box["boxes"] + 1}], [box])
