"""The ONNX graph of a detector that returns boxes, checked against torch on seeded images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.boxes import BOX_OUTPUTS, BoxParity, BoxRules, compare_boxes, set_score_threshold, with_boxes
from hwnas.export.onnx_session import open_session
from hwnas.files import write_atomic
from hwnas.train.tasks import DetectionOutputs, outputs_of

_IMAGES = 4
_CANDIDATES = 40
"""Boxes above the threshold that an image is compared with, before those that overlap are left out."""


def export_boxes(module: nn.Module, graph: Path, path: Path, *, image_size: int, seed: int = 0) -> BoxParity:
    """Append the choice of boxes to the graph of a detector, if its boxes are torch's on seeded images.

    Args:
        module: The detector.
        graph: Its ONNX file for one image.
        path: The file to write.
        image_size: Side of the images.
        seed: Seed of the images.

    Raises:
        CheckFailedError: The boxes differ; the file is not written.
        InputError: The module is no detector.
    """
    outputs = outputs_of(module)
    if not isinstance(outputs, DetectionOutputs):
        raise InputError("boxes are those of a detector", got=type(module).__name__)
    model = with_boxes(onnx.load(str(graph)), box_rules(outputs))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(_IMAGES, 3, image_size, image_size, generator=generator)
    with torch.inference_mode():
        raw = module.eval()(images)
    threshold = _low_threshold(outputs, raw)
    parity = compare_boxes(_run(set_score_threshold(model, threshold), images), _expected(outputs, raw, threshold))
    write_atomic(path, model.SerializeToString())
    return replace(parity, score_threshold=threshold)


def box_rules(outputs: DetectionOutputs) -> BoxRules:
    """Return what boxes follow from the outputs of a detector by: torchvision's thresholds, and its anchors."""
    head, detector = outputs.head, outputs.detector
    return BoxRules(
        kind="fcos" if head.kind == "fcos" else "retinanet",
        anchors=outputs.anchors.numpy(),
        num_classes=outputs.num_classes,
        image_size=outputs.image_size,
        score_threshold=detector.score_thresh,
        overlap_threshold=detector.nms_thresh,
        max_boxes=detector.detections_per_img,
        levels=tuple(outputs.per_level),
        max_candidates=detector.topk_candidates,
    )


def _low_threshold(outputs: DetectionOutputs, raw: torch.Tensor) -> float:
    """Return a threshold with some boxes in each image: one between two scores, as networks may be sure of none."""
    scores = outputs.scores(raw).flatten(1).sort(dim=1, descending=True).values
    count = min(_CANDIDATES, scores.shape[1] - 1)
    return float((scores[:, count - 1] + scores[:, count]).min()) / 2


def _expected(outputs: DetectionOutputs, raw: torch.Tensor, threshold: float) -> list[dict[str, Any]]:
    own = outputs.detector.score_thresh
    outputs.detector.score_thresh = threshold
    try:
        return [{name: part.numpy() for name, part in image.items()} for image in outputs.predict(raw)]
    finally:
        outputs.detector.score_thresh = own


def _run(model: onnx.ModelProto, images: torch.Tensor) -> list[dict[str, Any]]:
    session, name = open_session(model), model.graph.input[0].name
    rows = [session.run(list(BOX_OUTPUTS), {name: image[None].numpy()}) for image in images]
    return [dict(zip(BOX_OUTPUTS, map(np.asarray, row), strict=True)) for row in rows]
