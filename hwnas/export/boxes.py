"""Boxes in the ONNX graph of a detector: what follows the outputs of its anchors, with ONNX's `NonMaxSuppression`.

A detector of one stage predicts classes and a place for each anchor, and torchvision then chooses boxes: those with a
score above a threshold, at most 1,000 of each level of the pyramid, without those that overlap a better one of their
class. `with_boxes` appends that to a graph of one image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import CheckFailedError, InputError

if TYPE_CHECKING:
    import onnx

BOX_OUTPUTS = ("boxes", "scores", "labels")
"""Outputs of the graph: (N, 4) corners in pixels, (N,) and (N,), by descending scores."""

BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-3
"""Largest difference of a corner in pixels, and of a score, from those of torch."""

_THRESHOLD = "score_threshold"
_LARGEST_GROWTH = math.log(1000.0 / 16)
"""Logarithm of the factor by which a box may be larger than its anchor (torchvision)."""

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BoxRules:
    """Rules that turn the outputs of anchors into boxes.

    Attributes:
        kind: Whether places are offsets from anchors (RetinaNet), or distances from their centers (FCOS).
        anchors: (N, 4), corners in pixels.
        num_classes: Classes, with the background.
        image_size: Side of the images.
        score_threshold: Boxes with a lower score are left out.
        overlap_threshold: Boxes that overlap a better one of their class by more are left out.
        max_boxes: Most boxes of an image.
        levels: Anchors of each level of the pyramid.
        max_candidates: Scores of a level that boxes are chosen from, the best ones.
    """

    kind: Literal["retinanet", "fcos"]
    anchors: Array
    num_classes: int
    image_size: int
    score_threshold: float
    overlap_threshold: float
    max_boxes: int
    levels: tuple[int, ...]
    max_candidates: int = 1000


@dataclass(frozen=True, kw_only=True)
class BoxParity:
    """Differences between the boxes of a graph and torch's."""

    images: int
    boxes: int
    """Boxes that were compared."""
    max_pixels: float
    max_score: float
    score_threshold: float = 0.0
    """Threshold that they were compared with, low enough for some boxes in each image."""


def with_boxes(model: "onnx.ModelProto", rules: BoxRules) -> "onnx.ModelProto":
    """Return a graph that ends with boxes, scores and labels.

    Args:
        model: The graph of a detector for one image, whose only output is that of its anchors.
        rules: What boxes follow from it by.

    Raises:
        InputError: The graph has other outputs.
    """
    import onnx

    (output,) = model.graph.output
    sizes = [item.dim_value for item in output.type.tensor_type.shape.dim]
    width = rules.num_classes + 4 + (rules.kind == "fcos")
    if sizes != [1, len(rules.anchors), width]:
        raise InputError(f"outputs must have the shape (1, {len(rules.anchors)}, {width})", got=tuple(sizes))
    nodes = _Nodes()
    parts = nodes.split(output.name, [rules.num_classes, 4] + [1] * (rules.kind == "fcos"))
    boxes = nodes.add("Clip", _decoded(nodes, parts[1], rules), nodes.value(0.0), nodes.value(float(rules.image_size)))
    scores = nodes.add("Sigmoid", parts[0])
    if rules.kind == "fcos":
        scores = nodes.add("Sqrt", nodes.add("Mul", scores, nodes.add("Sigmoid", parts[2])))
    _choose(nodes, boxes, _best_of_levels(nodes, scores, rules), rules)
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.graph.node.extend(nodes.nodes)
    found.graph.initializer.extend(nodes.initializers)
    del found.graph.output[:]
    shapes: tuple[list[str | int | None], ...] = (["boxes_found", 4], ["boxes_found"], ["boxes_found"])
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
    for name, kind, shape in zip(BOX_OUTPUTS, types, shapes, strict=True):
        found.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    onnx.checker.check_model(found)
    return found


def set_score_threshold(model: "onnx.ModelProto", threshold: float) -> "onnx.ModelProto":
    """Return a graph of `with_boxes` with another threshold of the scores."""
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.name == _THRESHOLD:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([threshold], dtype=np.float32), _THRESHOLD))
    return found


def compare_boxes(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> BoxParity:
    """Compare the boxes of a graph with torch's, image by image.

    Args:
        found: `boxes`, `scores` and `labels` of each image, as arrays.
        expected: The same of torch.

    Raises:
        CheckFailedError: An image has another number of boxes, or a box has no counterpart of its class.
    """
    pixels, scores, count = 0.0, 0.0, 0
    for image, (own, other) in enumerate(zip(found, expected, strict=True)):
        if len(own["labels"]) != len(other["labels"]):
            got = f"{len(own['labels'])} instead of {len(other['labels'])}"
            raise CheckFailedError(f"image {image} must have as many boxes as in torch", got=got)
        for box, score, label in zip(other["boxes"], other["scores"], other["labels"], strict=True):
            same = np.flatnonzero(np.asarray(own["labels"]) == label)
            distances = np.abs(np.asarray(own["boxes"])[same] - box).max(axis=1, initial=0.0)
            differences = np.abs(np.asarray(own["scores"])[same] - score)
            close = (distances <= BOX_TOLERANCE) & (differences <= SCORE_TOLERANCE)
            if not close.any():
                raise CheckFailedError(f"each box of image {image} must be that of torch", got=f"label {label}, {box}")
            pixels, scores = max(pixels, float(distances[close].min())), max(scores, float(differences[close].min()))
            count += 1
    return BoxParity(images=len(expected), boxes=count, max_pixels=pixels, max_score=scores)


class _Nodes:
    """Nodes and constants that are appended to a graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        import onnx

        names = list(outputs) or [f"boxes/{kind}_{len(self.nodes)}"]
        self.nodes.append(
            onnx.helper.make_node(kind, list(inputs), names, name=f"boxes/{len(self.nodes)}", **attributes)
        )
        return names[0]

    def value(self, value: Any, dtype: Any = np.float32, name: str = "") -> str:
        """Append a constant and return its name."""
        import onnx

        name = name or f"boxes/value_{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def split(self, tensor: str, sizes: Sequence[int], *, axis: int = -1) -> list[str]:
        """Split a tensor along an axis."""
        names = [f"boxes/part_{len(self.nodes)}_{index}" for index in range(len(sizes))]
        self.add("Split", tensor, self.value(sizes, np.int64), outputs=names, axis=axis)
        return names


def _decoded(nodes: _Nodes, places: str, rules: BoxRules) -> str:
    """Return the corners of the boxes of all anchors, (1, N, 4)."""
    anchors = rules.anchors
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sides / 2
    if rules.kind == "fcos":
        signs = np.array([-1, -1, 1, 1], dtype=np.float32)
        moved = nodes.add("Mul", places, nodes.value(np.concatenate([sides, sides], axis=1)[None] * signs))
        return nodes.add("Add", moved, nodes.value(np.concatenate([centres, centres], axis=1)[None]))
    offsets, growths = nodes.split(places, [2, 2])
    centre = nodes.add("Add", nodes.add("Mul", offsets, nodes.value(sides[None])), nodes.value(centres[None]))
    growth = nodes.add("Exp", nodes.add("Min", growths, nodes.value(_LARGEST_GROWTH)))
    half = nodes.add("Mul", growth, nodes.value(sides[None] / 2))
    return nodes.add("Concat", nodes.add("Sub", centre, half), nodes.add("Add", centre, half), axis=-1)


def _best_of_levels(nodes: _Nodes, scores: str, rules: BoxRules) -> str:
    """Return the scores with those of a level that are not among its best ones set to 0, (1, N, classes)."""
    if all(count * rules.num_classes <= rules.max_candidates for count in rules.levels):
        return scores
    parts = nodes.split(scores, list(rules.levels), axis=1)
    for level, count in enumerate(rules.levels):
        if count * rules.num_classes > rules.max_candidates:
            flat = nodes.add("Reshape", parts[level], nodes.value([-1], np.int64))
            values = f"boxes/values_{len(nodes.nodes)}"
            most = nodes.value([rules.max_candidates], np.int64)
            nodes.add("TopK", flat, most, outputs=[values, f"{values}/at"], axis=0)
            least = nodes.add("Gather", values, nodes.value(rules.max_candidates - 1, np.int64))
            is_best = nodes.add("GreaterOrEqual", parts[level], least)
            parts[level] = nodes.add("Where", is_best, parts[level], nodes.value(0.0))
    return nodes.add("Concat", *parts, axis=1)


def _choose(nodes: _Nodes, boxes: str, scores: str, rules: BoxRules) -> None:
    """Append the choice of boxes, whose results are the outputs of the graph."""
    chosen = nodes.add(
        "NonMaxSuppression",
        boxes,
        nodes.add("Transpose", scores, perm=[0, 2, 1]),
        nodes.value([rules.max_boxes], np.int64),
        nodes.value([rules.overlap_threshold]),
        nodes.value([rules.score_threshold], name=_THRESHOLD),
    )
    image, label, anchor = nodes.split(chosen, [1, 1, 1], axis=1)
    at = nodes.add("Concat", image, anchor, label, axis=1)
    found = nodes.add("GatherND", scores, at)
    most = nodes.add("Min", nodes.value([rules.max_boxes], np.int64), nodes.add("Shape", found))
    best = f"boxes/best_{len(nodes.nodes)}"
    nodes.add("TopK", found, most, outputs=["scores", best], axis=0)
    flat = nodes.value([-1], np.int64)
    rows = nodes.add("Gather", nodes.add("Reshape", anchor, flat), best)
    nodes.add("Gather", nodes.add("Squeeze", boxes, nodes.value([0], np.int64)), rows, outputs=["boxes"])
    nodes.add("Gather", nodes.add("Reshape", label, flat), best, outputs=["labels"])
