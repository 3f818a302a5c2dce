"""Metrics of detection and segmentation: COCO's average precision, by pycocotools, and mean intersection over union.

Predictions and targets are those of torchvision's detectors; labels begin at 1.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.data.masks import load_coco
from hwnas.train.data.samples import IGNORED

Overlap = Literal["boxes", "masks"]
"""Overlap of predicted and annotated objects that decides which of them are the same."""

MASK_THRESHOLD = 0.5
"""Probability from which a pixel belongs to a predicted mask."""

_IOU_TYPES = {"boxes": "bbox", "masks": "segm"}


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """COCO's average precision, from 0 to 1, of up to 100 predictions per image and of objects of all sizes."""

    mean: float
    """Over classes and over ten thresholds of the overlap, 0.5 to 0.95: the mAP."""
    at_50: float
    """At an overlap of 0.5."""
    at_75: float
    """At an overlap of 0.75."""
    of_class: Mapping[int, float]
    """Mean over the thresholds, by label; without classes that no image has."""


def average_precision(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]], *, overlap: Overlap = "boxes"
) -> AveragePrecision:
    """Compute COCO's average precision.

    Args:
        predictions: For each image `boxes`, `scores` and `labels`; `masks`, probabilities of (N, 1, H, W) or (N, H, W)
            or a list in COCO's run-length code, where they are compared.
        targets: For each image `boxes` and `labels`; `masks` where they are compared; `iscrowd` where it has crowds,
            whose predictions count neither as right nor as wrong.
        overlap: Compare boxes or masks.

    Raises:
        InputError: The numbers of images differ, or no image has an object that can be found.
        MissingError: pycocotools is not installed.
    """
    if len(predictions) != len(targets):
        got = f"{len(predictions)} predictions, {len(targets)} targets"
        raise InputError("there must be one prediction for each target", got=got)
    if not any(len(target["labels"]) > int(_crowds(target).sum()) for target in targets):
        raise InputError("the images to evaluate on must have objects", got=f"none in {len(targets)} images")
    library = load_coco("cocoeval")
    with redirect_stdout(io.StringIO()):  # it reports its progress
        evaluation = library.COCOeval(_as_coco(targets, overlap), _as_coco(predictions, overlap), _IOU_TYPES[overlap])
        # Objects of all sizes alone: by sizes as well, the same takes four times as long.
        parameters = evaluation.params
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
        parameters.maxDets = parameters.maxDets[-1:]
        evaluation.evaluate()
        evaluation.accumulate()
    return _summary(evaluation)


def mean_average_precision(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]], *, overlap: Overlap = "boxes"
) -> float:
    """Compute COCO's mAP, from 0 to 1; arguments as for `average_precision`."""
    return average_precision(predictions, targets, overlap=overlap).mean


def mean_iou(predictions: Iterable[Tensor], targets: Iterable[Tensor], *, num_classes: int) -> float:
    """Compute the mean over classes of the intersection over union, from 0 to 1.

    Pixels are counted over all images; a class that is neither annotated nor predicted has no part in the mean.

    Args:
        predictions: Class of each pixel, (H, W) for each image.
        targets: The same; pixels of the class `IGNORED` are left out.
        num_classes: Number of classes with the background.

    Raises:
        InputError: The numbers or sizes of images differ, a class is out of range, or no pixel can be evaluated.
    """
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    try:
        for prediction, target in zip(predictions, targets, strict=True):
            counts += _confusion(prediction, target, num_classes)
    except ValueError as error:
        raise InputError("there must be one prediction for each target", got=error) from error
    if not counts.sum():
        raise InputError("the images to evaluate on must have classified pixels", got="none")
    right = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((right[union > 0] / union[union > 0]).mean())


def _confusion(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each annotated class, in rows, by the predicted one."""
    if prediction.shape != target.shape:
        got = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise InputError("a prediction must have the size of its target", got=got)
    is_counted = target != IGNORED
    annotated, predicted = (part[is_counted].long().cpu() for part in (target, prediction))
    for part in (annotated, predicted):
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < num_classes:
            raise InputError(f"classes must be 0 to {num_classes - 1}", got=f"{part.min()} to {part.max()}")
    return torch.bincount(annotated * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1)


def _crowds(target: Mapping[str, Tensor]) -> Tensor:
    return target["iscrowd"] if "iscrowd" in target else torch.zeros(len(target["labels"]), dtype=torch.int64)


def _as_coco(images: Sequence[Mapping[str, Tensor]], overlap: Overlap) -> Any:
    """Return predictions or targets as an object of pycocotools; images are numbered in order, annotations from 1."""
    rows: list[dict[str, Any]] = []
    labels: set[int] = set()
    for number, image in enumerate(images):
        for row in _annotations(image, overlap):
            rows.append(row | {"id": len(rows) + 1, "image_id": number})
            labels.add(row["category_id"])
    coco = load_coco("coco").COCO()
    coco.dataset = {
        "images": [{"id": number, "height": 0, "width": 0} for number in range(len(images))],  # masks have their size
        "annotations": rows,
        "categories": [{"id": label} for label in sorted(labels)],
    }
    coco.createIndex()
    return coco


def _annotations(image: Mapping[str, Tensor], overlap: Overlap) -> list[dict[str, Any]]:
    boxes = image["boxes"].detach().cpu().double().numpy().reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    columns: dict[str, list[Any]] = {
        "bbox": np.concatenate([boxes[:, :2], sides], axis=1).tolist(),
        "area": sides.prod(axis=1).tolist(),
        "category_id": image["labels"].tolist(),
        "iscrowd": _crowds(image).tolist(),
    }
    if "scores" in image:
        columns["score"] = image["scores"].detach().cpu().double().tolist()
    if overlap == "masks":
        masks = image["masks"]
        columns["segmentation"] = encoded_masks(masks) if isinstance(masks, Tensor) else masks
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def encoded_masks(masks: Tensor) -> list[Any]:
    """Return masks in COCO's run-length code; probabilities count from a half on."""
    if not len(masks):
        return []
    flat = masks.detach().reshape(len(masks), *masks.shape[-2:])
    chosen = flat >= MASK_THRESHOLD if flat.is_floating_point() else flat > 0
    encoded: list[Any] = load_coco("mask").encode(np.asfortranarray(chosen.permute(1, 2, 0).byte().cpu().numpy()))
    return encoded


def _summary(evaluation: Any) -> AveragePrecision:
    """Average the precisions, whose dimensions are threshold, recall, class, size of objects, number of predictions."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    labels = evaluation.params.catIds
    # A class of which there is no object has a precision of -1 everywhere.
    present = [column for column in range(len(labels)) if (precision[:, :, column] > -1).any()]
    found = precision[:, :, present]
    return AveragePrecision(
        mean=float(found.mean()),
        at_50=float(found[0].mean()),
        at_75=float(found[5].mean()),
        of_class={int(labels[column]): float(precision[:, :, column].mean()) for column in present},
    )
