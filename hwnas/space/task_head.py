"""Heads for detection and segmentation, which take the place of a classifier: their config and their operations.

A head reads the feature maps of a network through a pyramid of levels whose strides are powers of two. Networks with
stages have a map for each level (Lin et al. 2017); a network with one grid of tokens makes all levels of its last map,
as ViTDet does (Li et al. 2022). The modules are in `hwnas.supernet.task_head`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from typing import Literal, get_args

from hwnas.errors import InputError
from hwnas.workload import (
    Convolution,
    Elementwise,
    Move,
    Norm,
    Operation,
    Pool,
    Segment,
    Size,
    TransposedConvolution,
)

Task = Literal["classification", "detection", "segmentation"]
TASKS: tuple[Task, ...] = get_args(Task)

HeadKind = Literal["retinanet", "fcos", "maskrcnn", "semantic-fpn"]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
"""RetinaNet (Lin et al. 2017), FCOS (Tian et al. 2019) and Mask R-CNN (He et al. 2017) of torchvision; a semantic FPN
(Kirillov et al. 2019)."""

DEFAULT_HEADS: dict[str, HeadKind] = {"detection": "retinanet", "segmentation": "semantic-fpn"}
"""The head of a task where none is named."""

MICRO_PIXELS = 64
"""Least side of images for detection and segmentation. Up to it, heads are small, with levels from a stride of 4 on."""


@dataclass(frozen=True, kw_only=True)
class TaskHead:
    """A head for detection or segmentation.

    Attributes:
        kind: Which head.
        strides: Pixels from one cell to the next in each level: powers of two, each twice the one before.
        base_stride: Level that the one map of networks without stages is resized to; None: networks have stages.
        channels: Channels of the pyramid and of the head.
        convolutions: Convolutions before each output; of Mask R-CNN those of a mask.
        ratios: Aspect ratios of the anchors of RetinaNet and Mask R-CNN.
    """

    kind: HeadKind
    strides: tuple[int, ...]
    base_stride: int | None = None
    channels: int = 256
    convolutions: int = 4
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if self.kind not in HEAD_KINDS:
            raise InputError("a head must be one that is known", got=self.kind, known=HEAD_KINDS)
        doubled = all(after == 2 * before for before, after in pairwise(self.strides))
        if not self.strides or not all(power_of_two(stride) == stride > 1 for stride in self.strides) or not doubled:
            raise InputError("strides of a head must be powers of two, each twice the one before", got=self.strides)
        if self.base_stride is not None and self.base_stride not in self.strides:
            raise InputError("base_stride must be one of the strides", got=self.base_stride, known=self.strides)
        if self.channels < 4 or self.channels % 4 or not 1 <= self.convolutions <= 16:
            got = f"{self.channels} channels, {self.convolutions} convolutions"
            raise InputError("a head must have a multiple of 4 channels and 1 to 16 convolutions", got=got)
        if not self.ratios or not all(0 < ratio < 100 for ratio in self.ratios):
            raise InputError("aspect ratios of anchors must lie between 0 and 100", got=self.ratios)

    @property
    def task(self) -> Task:
        """The task that networks with this head do."""
        return task_of(self.kind)

    @property
    def anchors(self) -> int:
        """Boxes that are predicted in each cell."""
        sizes = {"retinanet": 3, "maskrcnn": 2}
        return sizes[self.kind] * len(self.ratios) if self.kind in sizes else 1

    @property
    def has_masks(self) -> bool:
        """True if networks with this head predict a mask for each box."""
        return self.kind == "maskrcnn"

    @property
    def groups(self) -> int:
        """Groups of channels that are normalised together."""
        return 32 if self.channels % 32 == 0 and self.channels >= 128 else self.channels // 4

    def grids(self, image_size: int) -> tuple[int, ...]:
        """Return the cells along one side of the image, in each level."""
        return tuple(image_size // stride for stride in self.strides)

    def level_of(self, stride: float) -> int | None:
        """Return the level of a feature map with a stride; None: the head has no level so fine or so coarse."""
        nearest = power_of_two(stride)
        return self.strides.index(nearest) if nearest in self.strides else None


def task_of(kind: HeadKind | None) -> Task:
    """Return the task of a kind of head; classification for none."""
    return "classification" if kind is None else "segmentation" if kind == "semantic-fpn" else "detection"


def power_of_two(stride: float) -> int:
    """Return the power of two that is nearest to a stride, by their ratio."""
    return int(2 ** round(log2(stride)))


def default_head(kind: HeadKind, strides: Sequence[float], *, image_size: int) -> TaskHead:
    """Return the head of a kind for networks with feature maps of some strides; small images have a small one.

    Args:
        kind: Which head.
        strides: Strides of the feature maps, one for a network with one grid of tokens.
        image_size: Side of the images that the networks are made for.
    """
    is_small = image_size <= MICRO_PIXELS
    finest = 4 if is_small or kind in ("maskrcnn", "semantic-fpn") else 8
    if len(strides) == 1:
        base: int | None = max(power_of_two(strides[0]), finest)
        assert base is not None
        first = max(finest, base // (4 if kind == "semantic-fpn" else 2))
        levels = tuple(first * 2**level for level in range(3))
    else:
        base = None
        levels = tuple(stride for stride in map(power_of_two, strides) if stride >= finest)
    if is_small:
        return TaskHead(kind=kind, strides=levels, base_stride=base, channels=16, convolutions=2, ratios=(1.0,))
    return TaskHead(kind=kind, strides=levels, base_stride=base)


@dataclass(frozen=True, kw_only=True)
class MapSizes:
    """The feature map at the end of a stage, for a population with arrays as sizes."""

    side: Size
    channels: Size


def head_segment(head: TaskHead, maps: Sequence[MapSizes], *, image_size: int, num_classes: int) -> Segment:
    """Return the operations of a pyramid and its head, up to the outputs of all cells.

    Args:
        head: The head.
        maps: The feature maps of the networks, one for each stage.
        image_size: Side of the images.
        num_classes: Classes, with the background, which is class 0.
    """
    pyramid = _many_maps if head.base_stride is None else _one_map
    makers = {"semantic-fpn": _segmentation, "maskrcnn": _proposals}
    outputs = makers.get(head.kind, _detection)
    return Segment("head", (*pyramid(head, maps, image_size), *outputs(head, image_size, num_classes)))


def _one_map(head: TaskHead, maps: Sequence[MapSizes], image_size: int) -> Iterator[Operation]:
    source, grids, width = maps[-1], head.grids(image_size), head.channels
    assert head.base_stride is not None
    base = head.strides.index(head.base_stride)
    yield Norm(name="norm", tokens=source.side**2, channels=source.channels)
    yield _convolution("lateral", source.side**2, source.channels, width)
    if _differs(source.side, grids[base]):
        yield Elementwise(name="resize", variant="upsample_bilinear2d", elements=width * grids[base] ** 2)
    for level in range(base - 1, -1, -1):
        yield TransposedConvolution(
            name=f"upsamplings.{level}",
            positions_in=grids[level + 1] ** 2,
            positions_out=grids[level] ** 2,
            inputs=width,
            outputs=width,
            kernel=4,
        )
        yield Elementwise(name=f"gelu.{level}", variant="gelu", elements=width * grids[level] ** 2)
    yield from _coarser(head, grids, base)
    for level, grid in enumerate(grids):
        yield _convolution(f"outputs.{level}", grid**2, width, width, kernel=9)


def _many_maps(head: TaskHead, maps: Sequence[MapSizes], image_size: int) -> Iterator[Operation]:
    grids, width = head.grids(image_size), head.channels
    taken = [(head.level_of(image_size / item.side), item) for item in maps]
    chosen = [(level, item) for level, item in taken if level is not None]
    for level, item in chosen:
        yield Norm(name=f"norms.{level}", tokens=item.side**2, channels=item.channels)
        if _differs(item.side, grids[level]):
            elements = item.channels * grids[level] ** 2
            yield Elementwise(name=f"resize.{level}", variant="upsample_bilinear2d", elements=elements)
    for index, (level, item) in enumerate(chosen):
        yield _convolution(f"lateral.{level}", grids[level] ** 2, item.channels, width)
        if index < len(chosen) - 1:
            yield Elementwise(
                name=f"top_down.{level}", variant="upsample_nearest2d", elements=width * grids[level] ** 2
            )
            yield Elementwise(name=f"add.{level}", variant="add", elements=width * grids[level] ** 2, operands=2)
        yield _convolution(f"outputs.{level}", grids[level] ** 2, width, width, kernel=9)
    yield from _coarser(head, grids, chosen[-1][0])


def _coarser(head: TaskHead, grids: Sequence[int], last: int) -> Iterator[Operation]:
    for level in range(last + 1, len(grids)):
        yield Pool(
            name=f"pool.{level}",
            variant="max_pool",
            positions_in=grids[level - 1] ** 2,
            positions_out=grids[level] ** 2,
            channels=head.channels,
        )


def _detection(head: TaskHead, image_size: int, num_classes: int) -> Iterator[Operation]:
    width, centerness = head.channels, [("centerness", 1)] if head.kind == "fcos" else []
    branches = {"classes": [("logits", num_classes)], "boxes": [("regression", 4), *centerness]}
    for branch, outputs in branches.items():
        for level, grid in enumerate(head.grids(image_size)):
            for number in range(head.convolutions):
                for row in _block(f"{branch}.{level}.{number}", grid, width, bias=int(head.kind == "fcos")):
                    yield _reused(row, level)
            for name, count in outputs:
                row = _convolution(f"{branch}.{level}.{name}", grid**2, width, head.anchors * count, kernel=9)
                yield _reused(row, level)
                if name == "regression" and head.kind == "fcos":
                    yield Elementwise(name=f"{branch}.{level}.positive", variant="relu", elements=4 * grid**2)
    cells = head.anchors * sum(grid**2 for grid in head.grids(image_size))
    yield Move(name="cat", variant="cat", elements=2 * cells * (num_classes + 4 + len(centerness)))


def _proposals(head: TaskHead, image_size: int, num_classes: int) -> Iterator[Operation]:
    """Yield what Mask R-CNN computes of each cell: whether there is an object, and where."""
    width, grids = head.channels, head.grids(image_size)
    for level, grid in enumerate(grids):
        yield _reused(_convolution(f"proposals.{level}.conv", grid**2, width, width, kernel=9), level)
        yield Elementwise(name=f"proposals.{level}.relu", variant="relu", elements=width * grid**2)
        for name, count in (("objects", 1), ("places", 4)):
            yield _reused(_convolution(f"proposals.{level}.{name}", grid**2, width, head.anchors * count), level)
    cells = sum(grid**2 for grid in grids)
    yield Move(name="cat", variant="cat", elements=2 * cells * (width + 5 * head.anchors))


def _segmentation(head: TaskHead, image_size: int, num_classes: int) -> Iterator[Operation]:
    width, (finest, *others) = head.channels, head.grids(image_size)
    for level, _ in enumerate(others, start=1):
        yield Elementwise(name=f"resize.{level}", variant="upsample_bilinear2d", elements=width * finest**2)
        yield Elementwise(name=f"sum.{level}", variant="add", elements=width * finest**2, operands=2)
    for number in range(head.convolutions):
        yield from _block(f"convolutions.{number}", finest, width, bias=0)
    yield _convolution("logits", finest**2, width, num_classes)
    yield Elementwise(name="resize", variant="upsample_bilinear2d", elements=num_classes * image_size**2)


def _block(name: str, grid: int, width: int, *, bias: int) -> Iterator[Operation]:
    yield _convolution(f"{name}.conv", grid**2, width, width, kernel=9, bias=bias)
    yield Norm(name=f"{name}.norm", variant="group_norm", tokens=grid**2, channels=width)
    yield Elementwise(name=f"{name}.relu", variant="relu", elements=width * grid**2)


def _convolution(
    name: str, positions: Size, inputs: Size, outputs: int, *, kernel: int = 1, bias: int = 1
) -> Convolution:
    return Convolution(
        name=name,
        positions_in=positions,
        positions_out=positions,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        bias=bias,
    )


def _reused(operation: Operation, level: int) -> Operation:
    """Return an operation whose weights are those of the first level, which counts them."""
    return operation if level == 0 else replace(operation, shared=operation.params)


def _differs(side: Size, grid: int) -> bool:
    return side != grid if isinstance(side, int) else bool((side != grid).any())
