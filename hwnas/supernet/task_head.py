"""Heads for detection and segmentation on the feature maps of a network: a pyramid, and the head of torchvision on it.

Sub-networks of a supernet share pyramid and head. Only what reads a feature map depends on its channels, which differ
from network to network: its norm and its 1x1 convolution, sliced by the channels of the map as the layers of the
backbone are.

The levels of a pyramid have strides that are powers of two, and maps of other strides are resized to the nearest one.
Anchors and pooled regions then lie where their boxes do: torchvision's `MultiScaleRoIAlign` rounds the scale of a map
to a power of two, and would misplace boxes on maps of a stride such as 14 without a word.

torchvision is imported when a head is built, as that takes seconds.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.task_head import TaskHead
from hwnas.supernet.features import FeatureMap, TokenGrid
from hwnas.supernet.sharing import Axes, Index

if TYPE_CHECKING:
    from torchvision.models.detection import FCOS, RetinaNet

_BOX_CELLS = 7
"""Cells along the side of a region that Mask R-CNN's second stage reads; those of a mask are twice as many."""

PRIOR = 0.01
"""Probability of an object in any cell with fresh weights (Lin et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class TaskHeadConfig:
    """Config of a pyramid and its head.

    Attributes:
        head: The head.
        image_size: Side of the images.
        num_classes: Classes, with the background, which is class 0.
        channels: Channels of the feature maps that it reads; those of a network without stages are one.
        levels: Level of each of these maps.
    """

    head: TaskHead
    image_size: int
    num_classes: int
    channels: tuple[int, ...]
    levels: tuple[int, ...]

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        kinds: dict[str, type[PyramidHead]] = {"semantic-fpn": SegmentationHead, "maskrcnn": MaskHead}
        return kinds.get(self.head.kind, DetectionHead)(self)


def read_maps(head: TaskHead, maps: Sequence[FeatureMap]) -> dict[int, FeatureMap]:
    """Return the feature maps of a network that a head reads, by their level in the pyramid.

    Args:
        head: The head.
        maps: All feature maps of the network, the finest first.
    """
    if head.base_stride is not None:
        return {head.strides.index(head.base_stride): maps[-1]}
    levels = {head.level_of(entry.stride): entry for entry in maps}
    found = {level: entry for level, entry in levels.items() if level is not None}
    if sorted(found) != list(range(len(found))):
        strides = [entry.stride for entry in maps]
        raise InputError(f"feature maps must have the strides of the head, {head.strides}", got=strides)
    return found


def map_axes(head: TaskHead, channels: Mapping[int, Index | None]) -> Axes:
    """Return the axes of the tensors that read feature maps, with the channels of each level's map."""
    axes: dict[str, tuple[Index | None, ...]] = {}
    for order, (_, index) in enumerate(sorted(channels.items())):
        norm, lateral = "pyramid.norm", "pyramid.lateral"
        if head.base_stride is None:
            norm, lateral = f"pyramid.norms.{order}", f"pyramid.fpn.inner_blocks.{order}.0"
        axes |= {f"{norm}.weight": (index,), f"{norm}.bias": (index,), f"{lateral}.weight": (None, index)}
    return axes


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of images."""

    def forward(self, x_BDRC: Tensor) -> Tensor:
        """Normalise each pixel."""
        normed: Tensor = super().forward(x_BDRC.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class TokenPyramid(nn.Module):
    """All levels from the last map of a network without stages: transposed convolutions up, pooling down (ViTDet)."""

    def __init__(self, config: TaskHeadConfig) -> None:
        super().__init__()
        width, (base,) = config.head.channels, config.levels
        self.grids, self.base = config.head.grids(config.image_size), base
        self.norm = ChannelNorm(config.channels[0])
        self.lateral = nn.Conv2d(config.channels[0], width, 1)
        self.upsamplings = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, 2) for _ in range(base))
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.grids)

    def reader(self, number: int) -> "MapReader":
        """Return the part that reads the map; the number is 0."""
        return MapReader(self.norm, self.lateral, side=self.grids[self.base], resizes_first=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn the map into the levels, the finest first."""
        return self.levels([self.reader(0)(maps[0])])

    def levels(self, read: Sequence[Tensor]) -> list[Tensor]:
        """Turn what was read of the map into the levels."""
        levels = list(read)
        for upsampling in self.upsamplings:
            levels.insert(0, F.gelu(upsampling(levels[0])))
        levels += _pooled(levels[-1], count=len(self.grids) - len(levels))
        return [output(level) for output, level in zip(self.outputs, levels, strict=True)]


class MapPyramid(nn.Module):
    """torchvision's `FeaturePyramidNetwork` on the maps of stages, normalised and on grids of the levels' strides."""

    def __init__(self, config: TaskHeadConfig) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.grids = config.head.grids(config.image_size)
        self.norms = nn.ModuleList(ChannelNorm(channels) for channels in config.channels)
        self.fpn = FeaturePyramidNetwork(list(config.channels), config.head.channels)

    def reader(self, number: int) -> "MapReader":
        """Return the part that reads a map."""
        return MapReader(self.norms[number], self.fpn.inner_blocks[number], side=self.grids[number])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn the maps into the levels, the finest first."""
        normed = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        inputs = [_resized(x, grid) for x, grid in zip(normed, self.grids, strict=False)]
        levels = list(self.fpn(OrderedDict((str(level), x) for level, x in enumerate(inputs))).values())
        return [*levels, *_pooled(levels[-1], count=len(self.grids) - len(levels))]

    def levels(self, read: Sequence[Tensor]) -> list[Tensor]:
        """Turn what was read of the maps into the levels, as `forward` does."""
        x = read[-1]
        levels = [self.fpn.layer_blocks[-1](x)]
        for lateral, block in zip(reversed(read[:-1]), reversed(self.fpn.layer_blocks[:-1]), strict=True):
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, block(x))
        return [*levels, *_pooled(levels[-1], count=len(self.grids) - len(levels))]


class MapReader(nn.Module):
    """The part of a pyramid that depends on the channels of a map: norm and 1x1 convolution, on the grid of a level."""

    def __init__(self, norm: nn.Module, lateral: nn.Module, *, side: int, resizes_first: bool = True) -> None:
        super().__init__()
        self.norm, self.lateral, self.side, self.resizes_first = norm, lateral, side, resizes_first

    def forward(self, x_BDRC: Tensor) -> Tensor:
        """Read the map."""
        x_BDRC = self.norm(x_BDRC)
        found: Tensor
        if self.resizes_first:
            found = self.lateral(_resized(x_BDRC, self.side))
        else:
            found = _resized(self.lateral(x_BDRC), self.side)
        return found


class TokenReader(nn.Module):
    """A reader of a map that is given as the tokens of a segment."""

    def __init__(self, reader: MapReader, grid: TokenGrid) -> None:
        super().__init__()
        self.reader, self.grid = reader, grid

    def forward(self, x_BND: Tensor) -> Tensor:
        """Read the map."""
        found: Tensor = self.reader(self.grid.as_maps(x_BND))
        return found


class HeadOnLevels(nn.Module):
    """A head without the readers of its maps: the same in all networks of a space."""

    def __init__(self, head: "PyramidHead") -> None:
        super().__init__()
        self.head = head

    @property
    def key(self) -> tuple[object, ...]:
        """Return what its graph depends on but for the shapes of what was read."""
        config = self.head.config
        return config.head, config.image_size, config.num_classes, config.levels

    def forward(self, read: list[Tensor]) -> Tensor:
        """Turn what was read of the maps into the outputs of the head."""
        found: Tensor = self.head.outputs(self.head.pyramid.levels(read))
        return found


class PyramidHead(nn.Module, ABC):
    """Base of the heads that read feature maps through a pyramid."""

    def __init__(self, config: TaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid = MapPyramid(config) if config.head.base_stride is None else TokenPyramid(config)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn feature maps into the outputs."""
        return self.outputs(self.pyramid(maps))

    @abstractmethod
    def outputs(self, levels: Sequence[Tensor]) -> Tensor:
        """Turn the levels of the pyramid into the outputs."""

    @property
    def token_norm(self) -> nn.Module:
        """The identity: each feature map has a norm of its own, which is part of the pyramid."""
        return nn.Identity()


class DetectionHead(PyramidHead):
    """RetinaNet's or FCOS's head: for each anchor the logits of the classes and four numbers of a box, FCOS's 5."""

    def __init__(self, config: TaskHeadConfig) -> None:
        super().__init__(config)
        self.head = _dense_head(config.head, config.num_classes)

    def outputs(self, levels: Sequence[Tensor]) -> Tensor:
        """Turn levels into outputs of the shape (batch, anchors, classes + 4 or 5)."""
        return torch.cat(list(self.head(list(levels)).values()), dim=-1)


class SegmentationHead(PyramidHead):
    """A semantic FPN: all levels on the finest grid, summed, then convolutions and the logits of each pixel."""

    def __init__(self, config: TaskHeadConfig) -> None:
        super().__init__(config)
        head, self.image_size = config.head, config.image_size
        self.convolutions = nn.Sequential(*(_block(head) for _ in range(head.convolutions)))
        self.classifier = nn.Conv2d(head.channels, config.num_classes, 1)

    def outputs(self, levels: Sequence[Tensor]) -> Tensor:
        """Turn levels into logits of the shape (batch, classes, image size, image size)."""
        x, *others = levels
        for level in others:
            x = x + _resized(level, x.shape[-1])
        return _resized(self.classifier(self.convolutions(x)), self.image_size)


class MaskHead(PyramidHead):
    """Mask R-CNN's: the pyramid and the proposals of its cells in one row for each image, and the second stage.

    The second stage, which reads the pyramid where there are proposals, is no part of `forward`, as the number of
    proposals depends on the image. `SecondStage` runs it.
    """

    def __init__(self, config: TaskHeadConfig) -> None:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
        from torchvision.models.detection.rpn import RPNHead

        super().__init__(config)
        width, classes = config.head.channels, config.num_classes
        self.proposals = RPNHead(width, config.head.anchors)
        self.box_head = TwoMLPHead(width * _BOX_CELLS**2, 4 * width)
        self.box_predictor = FastRCNNPredictor(4 * width, classes)
        self.mask_head = MaskRCNNHeads(width, (width,) * config.head.convolutions, 1)
        self.mask_predictor = MaskRCNNPredictor(width, width, classes)

    def outputs(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the levels, logits of objects and their places, of the shape (batch, numbers)."""
        logits, places = self.proposals(list(levels))
        return torch.cat([part.flatten(1) for part in (*levels, *logits, *places)], dim=1)


class SecondStage:
    """Proposals and the second stage of Mask R-CNN, by torchvision, from the outputs of `MaskHead`.

    Args:
        module: The head, whose weights are used.
        image_size: Side of the images.
    """

    def __init__(self, module: MaskHead, *, image_size: int) -> None:
        from torchvision.models.detection.roi_heads import RoIHeads
        from torchvision.models.detection.rpn import RegionProposalNetwork
        from torchvision.ops import MultiScaleRoIAlign

        self.head, self.image_size = module.config.head, image_size
        names = [str(level) for level in range(len(self.head.strides))]
        self._given = _Given()
        self._rpn = RegionProposalNetwork(
            _anchor_generator(self.head),
            self._given,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 2000, "testing": 1000},
            nms_thresh=0.7,
        )
        self._rois = RoIHeads(
            MultiScaleRoIAlign(names, _BOX_CELLS, 2),
            module.box_head,
            module.box_predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=MultiScaleRoIAlign(names, 2 * _BOX_CELLS, 2),
            mask_head=module.mask_head,
            mask_predictor=module.mask_predictor,
        )

    def losses(self, outputs: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses of both stages by name."""
        return self._run(outputs, targets)[1]

    def predict(self, outputs: Tensor) -> list[dict[str, Tensor]]:
        """Return `boxes`, `scores`, `labels` and `masks`, probabilities of 28 x 28 cells of a box, of each image."""
        return self._run(outputs, None)[0]

    def _run(self, outputs: Tensor, targets: Any) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        grids = self.head.grids(self.image_size)
        counts = (self.head.channels, self.head.anchors, 4 * self.head.anchors)
        shapes = [(count, grid, grid) for count in counts for grid in grids]
        parts = torch.split(outputs.float(), [count * grid**2 for count, grid, _ in shapes], dim=1)
        maps = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        levels, logits, places = (maps[part * len(grids) : (part + 1) * len(grids)] for part in range(3))
        features = OrderedDict((str(number), level) for number, level in enumerate(levels))
        self._given.outputs = logits, places
        self._rpn.training = self._rois.training = targets is not None
        sizes = [(self.image_size, self.image_size)] * len(outputs)
        side = self.image_size  # anchors need the shape of the images alone
        images = ImageList(outputs.new_empty(1).expand(len(outputs), 3, side, side), sizes)
        proposals, losses = self._rpn(images, features, targets)
        found, more = self._rois(features, proposals, sizes, targets)
        return found, {**losses, **more}


class _Given(nn.Module):
    """Outputs in place of the module that computes them, which is part of a network."""

    outputs: tuple[list[Tensor], list[Tensor]]

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what was given."""
        return self.outputs


def detector(head: TaskHead, *, num_classes: int) -> "RetinaNet | FCOS":
    """Return torchvision's detector of a head, without weights: its losses and its choice of boxes need none."""
    from torchvision.models.detection import FCOS, RetinaNet

    with torch.device("meta"):
        backbone: Any = nn.Identity()
        backbone.out_channels = head.channels
        kind = RetinaNet if head.kind == "retinanet" else FCOS
        dense = _dense_head(head, num_classes)
        return kind(backbone, num_classes, anchor_generator=_anchor_generator(head), head=dense)


@torch.no_grad()
def anchors_of(head: TaskHead, *, image_size: int) -> Tensor:
    """Return the anchors of all levels, as corners in pixels, in the order of the outputs."""
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.empty(1, 3, image_size, image_size), [(image_size, image_size)])
    levels = [torch.empty(1, 1, grid, grid) for grid in head.grids(image_size)]
    anchors: Tensor = _anchor_generator(head)(images, levels)[0]
    return anchors


def _anchor_generator(head: TaskHead) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    if head.kind == "fcos":  # the anchor is the cell
        return AnchorGenerator(tuple((stride,) for stride in head.strides), ((1.0,),) * len(head.strides))
    if head.kind == "maskrcnn":
        sizes: tuple[tuple[int, ...], ...] = tuple((4 * stride, 8 * stride) for stride in head.strides)
    else:
        sizes = tuple(tuple(int(4 * stride * 2 ** (third / 3)) for third in range(3)) for stride in head.strides)
    return AnchorGenerator(sizes, (tuple(head.ratios),) * len(sizes))


def _dense_head(head: TaskHead, num_classes: int) -> nn.Module:
    from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
    from torchvision.models.detection.retinanet import RetinaNetHead

    width, norm, count = head.channels, partial(nn.GroupNorm, head.groups), head.convolutions
    if head.kind == "fcos":
        with torch.device("meta"):  # replaced, as its branches have groups of a fixed number
            fcos: nn.Module = FCOSHead(32, 1, num_classes, num_convs=1)
        fcos.classification_head = FCOSClassificationHead(width, 1, num_classes, count, PRIOR, norm)
        fcos.regression_head = FCOSRegressionHead(width, 1, count, norm)
        return fcos
    dense: Any = RetinaNetHead(width, head.anchors, num_classes, norm_layer=norm)
    for branch in (dense.classification_head, dense.regression_head):
        branch.conv = branch.conv[:count]
    module: nn.Module = dense
    return module


def _block(head: TaskHead) -> nn.Sequential:
    convolution = nn.Conv2d(head.channels, head.channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(head.groups, head.channels), nn.ReLU())


def _resized(x_BDRC: Tensor, side: int) -> Tensor:
    if x_BDRC.shape[-1] == side:
        return x_BDRC
    return F.interpolate(x_BDRC, size=(side, side), mode="bilinear", align_corners=False)


def _pooled(coarsest: Tensor, *, count: int) -> list[Tensor]:
    """Return so many further levels, each with half the grid of the one before."""
    levels = [coarsest]
    for _ in range(count):
        levels.append(F.max_pool2d(levels[-1], 1, 2))
    return levels[1:]


SEGMENTS = {"task_head.TaskHeadConfig": TaskHeadConfig}
