"""Detection and segmentation: the loss of a network's outputs, and what it predicts.

Losses and the choice of boxes are torchvision's. Both are functions of a network's outputs, so that all strategies and
runtimes run the same network, up to the outputs of all anchors or pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.metrics import QualityMetric
from hwnas.space.space import SpaceConfig
from hwnas.space.task_head import Task, TaskHead
from hwnas.supernet.batch_norm import recalibrate
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet, Supernet
from hwnas.supernet.task_head import MaskHead, SecondStage, TaskHeadConfig, anchors_of, detector
from hwnas.train.data.augment import IMAGENET
from hwnas.train.data.detection import load_detection, load_segmentation
from hwnas.train.data.detection_loader import DetectionBatch, DetectionEvalLoader, DetectionTrainLoader
from hwnas.train.data.images import BadImageLog
from hwnas.train.data.samples import IGNORED, AnnotatedData
from hwnas.train.data.sources import DataConfig
from hwnas.train.detection_metrics import encoded_masks, mean_average_precision, mean_iou
from hwnas.train.executor import Executor, Measure, Row

QUALITY_OF_TASK: Mapping[Task, QualityMetric] = {
    "classification": "accuracy",
    "detection": "mAP",
    "segmentation": "mIoU",
}
"""The metric that networks of a task are compared by."""


_BATCH_SIZE = 32
_CALIBRATION_BATCHES = 20
"""Batches of training images that the statistics of batch norms are estimated from."""


class TaskOutputs(ABC):
    """The meaning of the outputs of networks with one head.

    Args:
        head: The head.
        image_size: Side of the images.
        num_classes: Classes, with the background.
    """

    def __init__(self, head: TaskHead, *, image_size: int, num_classes: int) -> None:
        self.head, self.image_size, self.num_classes = head, image_size, num_classes

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Compute the loss of a batch."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Any:
        """Return what the outputs of a batch predict, in the form of the targets."""

    def kept(self, target: Any) -> Any:
        """Return a target as it is kept until all images are evaluated."""
        return target

    @abstractmethod
    def quality(self, predictions: Sequence[Any], targets: Sequence[Any]) -> float:
        """Return the metric of the task over all images."""


class DetectionOutputs(TaskOutputs):
    """Logits of classes and boxes for each anchor; the predictions are the boxes that torchvision chooses."""

    def __init__(self, head: TaskHead, *, image_size: int, num_classes: int) -> None:
        super().__init__(head, image_size=image_size, num_classes=num_classes)
        self.detector = detector(head, num_classes=num_classes)
        """torchvision's detector, with its thresholds, and without weights."""
        self.anchors = anchors_of(head, image_size=image_size)
        self.per_level = [head.anchors * grid**2 for grid in head.grids(image_size)]
        """Anchors of each level."""

    def loss(self, outputs: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Sum the losses of classes and boxes, and FCOS's of centers."""
        anchors = [self.anchors.to(outputs.device)] * len(outputs)
        levels = (self.per_level,) if self.head.kind == "fcos" else ()
        losses: dict[str, Tensor] = self.detector.compute_loss(targets, self._named(outputs), anchors, *levels)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def predict(self, outputs: Tensor) -> list[dict[str, Tensor]]:
        """Return `boxes`, `scores` and `labels` of each image, by descending scores."""
        split = {name: list(torch.split(part, self.per_level, dim=1)) for name, part in self._named(outputs).items()}
        anchors = [list(torch.split(self.anchors.to(outputs.device), self.per_level))] * len(outputs)
        sizes = [(self.image_size, self.image_size)] * len(outputs)
        found: list[dict[str, Tensor]] = self.detector.postprocess_detections(split, anchors, sizes)
        return found

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the scores of all anchors and classes that boxes are chosen by."""
        parts = self._named(outputs)
        scores = parts["cls_logits"].sigmoid()
        return scores if self.head.kind != "fcos" else (scores * parts["bbox_ctrness"].sigmoid()).sqrt()

    def quality(self, predictions: Sequence[Any], targets: Sequence[Any]) -> float:
        """Return COCO's mean average precision."""
        return mean_average_precision(predictions, targets)

    def _named(self, outputs: Tensor) -> dict[str, Tensor]:
        widths = [self.num_classes, 4, *([1] if self.head.kind == "fcos" else [])]
        names = ("cls_logits", "bbox_regression", "bbox_ctrness")
        return dict(zip(names, torch.split(outputs.float(), widths, dim=-1), strict=False))


class MaskOutputs(TaskOutputs):
    """Pyramid and proposals of Mask R-CNN; the second stage finds boxes, classes and masks there.

    Args:
        head: The head.
        image_size: Side of the images.
        num_classes: Classes, with the background.
        module: The head of the networks, whose second stage has weights of its own.
    """

    def __init__(self, head: TaskHead, *, image_size: int, num_classes: int, module: MaskHead) -> None:
        super().__init__(head, image_size=image_size, num_classes=num_classes)
        self.stage = SecondStage(module, image_size=image_size)

    def loss(self, outputs: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Sum the losses of proposals, classes, boxes and masks."""
        return torch.stack(list(self.stage.losses(outputs, targets).values())).sum()

    @torch.no_grad()
    def predict(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Return `boxes`, `scores`, `labels` and `masks`, in COCO's run-length code, of each image."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        found: list[dict[str, Any]] = []
        for image in self.stage.predict(outputs):
            masks = paste_masks_in_image(image["masks"], image["boxes"], (self.image_size, self.image_size))
            found.append({**image, "masks": encoded_masks(masks)})
        return found

    def kept(self, target: Any) -> Any:
        """Return a target with its masks in COCO's run-length code."""
        return {**target, "masks": encoded_masks(target["masks"])}

    def quality(self, predictions: Sequence[Any], targets: Sequence[Any]) -> float:
        """Return COCO's mean average precision of masks."""
        return mean_average_precision(predictions, targets, overlap="masks")


class SegmentationOutputs(TaskOutputs):
    """Logits of the classes of each pixel."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of the pixels that count."""
        total = F.cross_entropy(outputs.float(), targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the class of each pixel."""
        return outputs.argmax(dim=1)

    def quality(self, predictions: Sequence[Any], targets: Sequence[Any]) -> float:
        """Return the mean over classes of the intersection over union."""
        return mean_iou(predictions, targets, num_classes=self.num_classes)


def make_outputs(head: TaskHead, *, image_size: int, num_classes: int, module: nn.Module | None = None) -> TaskOutputs:
    """Return the meaning of the outputs of networks with a head; arguments as for `TaskOutputs` and `MaskOutputs`."""
    if head.has_masks:
        assert isinstance(module, MaskHead)
        return MaskOutputs(head, image_size=image_size, num_classes=num_classes, module=module)
    kind = SegmentationOutputs if head.task == "segmentation" else DetectionOutputs
    return kind(head, image_size=image_size, num_classes=num_classes)


def open_task_data(
    config: DataConfig,
    task: Task,
    *,
    image_size: int,
    num_classes: int | None = None,
    classes: Sequence[str] = (),
    masks: bool = False,
) -> AnnotatedData:
    """Open the images of a training for detection or segmentation.

    Args:
        config: The dataset and its split.
        task: Detection or segmentation.
        image_size: Side of the square that images are letterboxed to.
        num_classes: Classes that the dataset must have, with the background; None: any number.
        classes: Names of the classes of the networks, whose numbers the dataset gets; empty: not known.
        masks: The boxes must have masks.

    Raises:
        InputError: The dataset cannot be opened or split, or has other classes.
    """
    options: dict[str, Any] = {
        "image_size": image_size,
        "heldout": config.heldout,
        "seed": config.seed,
        "max_images": config.max_images,
    }
    if task == "segmentation":
        data = load_segmentation(config.name, **options)
    else:
        data = load_detection(config.name, **options, masks=masks)
    if masks and not data.masks:
        message = f"the boxes of {config.name} must have masks for networks that predict them"
        raise InputError(message, got=data.notes[0] if data.notes else "boxes alone", hint="--head retinanet")
    data = replace(data, max_bad=config.max_bad)
    if classes:
        data = data.with_classes(classes)
    if num_classes not in (None, data.num_classes):
        message = f"{config.name} must have the classes of the networks, {num_classes} with the background"
        raise InputError(message, got=data.num_classes)
    return data


def training_batches(data: AnnotatedData, *, count: int = _CALIBRATION_BATCHES) -> Iterable[DetectionBatch]:
    """Return the first training images, the same whenever they are iterated over."""
    bad = BadImageLog(limit=data.max_bad)
    return _FirstBatches(DetectionTrainLoader(data.train, augment=None, batch_size=_BATCH_SIZE, seed=0, bad=bad), count)


def make_task_evaluator(
    supernet: AnySupernet,
    data: AnnotatedData,
    *,
    split: Literal["heldout", "test"] = "heldout",
    device: torch.device | str = "cpu",
    workers: int = 0,
    executor: Executor | None = None,
) -> "TaskEvaluator":
    """Create the evaluator of a supernet's networks on one split of a dataset.

    Args:
        supernet: Supernet with the weights.
        data: Dataset; its training images recalibrate batch norms.
        split: Evaluate on held-out or on test images.
        device: Device that networks run on.
        workers: Processes that load images.
        executor: Evaluates networks; None: this process does.
    """
    return TaskEvaluator(
        supernet,
        evaluation_batches(data, split=split, workers=workers),
        recalibration=training_batches(data),
        device=device,
        executor=executor,
    )


def evaluation_batches(
    data: AnnotatedData, *, split: Literal["heldout", "test"], workers: int = 0
) -> Iterable[DetectionBatch]:
    """Return the images of a split, which the dataset must have."""
    images = data.heldout if split == "heldout" else data.test
    assert images is not None
    bad = BadImageLog(limit=data.max_bad)
    return DetectionEvalLoader(images, batch_size=_BATCH_SIZE, workers=workers, bad=bad)


def outputs_of(model: nn.Module) -> TaskOutputs | None:
    """Return the meaning of the outputs of a supernet or a network; None: it is a classifier."""
    if isinstance(model, Supernet):
        config: SpaceConfig = model.space.config
        if config.task_head is None:
            return None
        module = model.shared.get_submodule("head")
        return make_outputs(
            config.task_head, image_size=config.image_size, num_classes=config.num_classes, module=module
        )
    if not isinstance(model, Network):
        return None
    name, own = list(model.outline.items())[-1]
    if not isinstance(own, TaskHeadConfig):
        return None
    head = model.get_submodule(name)
    return make_outputs(own.head, image_size=own.image_size, num_classes=own.num_classes, module=head)


@torch.inference_mode()
def evaluate_task(
    network: nn.Module, outputs: TaskOutputs, batches: Iterable[DetectionBatch], *, name: str = "network"
) -> float:
    """Return the metric of a network's task on images.

    Args:
        network: The network, in evaluation mode.
        outputs: The meaning of its outputs.
        batches: Images on the network's device.
        name: Name of the network in errors.

    Raises:
        InputError: The outputs are not finite, or there are no images.
    """
    predictions: list[Any] = []
    targets: list[Any] = []
    for batch in batches:
        found = network(normalized(batch.images))
        if not torch.isfinite(found).all():
            raise InputError(f"the outputs of network {name} must be finite numbers", got="NaN or infinity")
        predictions += list(outputs.predict(found))
        targets += map(outputs.kept, batch.targets)
    if not targets:
        raise InputError("there must be at least one image to evaluate a network on", got="none")
    return outputs.quality(predictions, targets)


class TaskEvaluator:
    """Evaluates networks of a supernet for detection or segmentation with inherited weights, each once.

    Args:
        supernet: Supernet with the weights.
        batches: Images to evaluate on; they are kept.
        recalibration: Training images that the statistics of batch norms are estimated from.
        device: Device that networks run on.
        executor: Evaluates networks; None: this process does.
    """

    def __init__(
        self,
        supernet: AnySupernet,
        batches: Iterable[DetectionBatch],
        *,
        recalibration: Iterable[DetectionBatch],
        device: torch.device | str = "cpu",
        executor: Executor | None = None,
    ) -> None:
        found = outputs_of(supernet)
        assert found is not None, "a supernet for detection or segmentation"
        self.supernet, self.outputs, self.device = supernet, found, torch.device(device)
        self._batches, self._recalibration, self._executor = _Kept(batches, self.device), recalibration, executor
        self._known: dict[str, float] = {}

    @property
    def measure(self) -> Measure:
        """The metric that networks are evaluated for."""
        return Measure(name=QUALITY_OF_TASK[self.outputs.head.task])

    def evaluate(self, archs: Sequence[Any]) -> list[float]:
        """Return the metric of networks.

        Raises:
            InputError: The outputs of a network are not finite, or there are no images.
        """
        return list(self.stream(archs))

    def stream(self, archs: Sequence[Any]) -> Iterator[float]:
        """Yield what `evaluate` returns, each value as soon as it is known."""
        space = self.supernet.space
        ids = [candidate.arch_id for candidate in space.candidates(space.encode(archs))]
        rows = self._rows(
            {arch_id: arch for arch_id, arch in zip(ids, archs, strict=True) if arch_id not in self._known}
        )
        for arch_id in ids:
            while arch_id not in self._known:
                found, row = next(rows)
                self._known[found] = row["value"]
            yield self._known[arch_id]

    def extract(self, arch: Any) -> Network:
        """Return a network with a copy of its weights, and its own statistics of batch norms if it has any."""
        network: Network = self.supernet.subnet(arch).to(self.device)
        recalibrate(network, (normalized(batch.images.to(self.device)) for batch in self._recalibration))
        return network.eval()

    def _rows(self, archs: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
        if self._executor is not None:
            return self._executor.evaluate(archs, self.measure)
        return ((arch_id, {"value": self._evaluate_here(arch, arch_id)}) for arch_id, arch in archs.items())

    def _evaluate_here(self, arch: Any, name: str) -> float:
        return evaluate_task(self.extract(arch), self.outputs, self._batches, name=name)


def normalized(images: Tensor) -> Tensor:
    """Return uint8 images as networks take them."""
    mean, std = (torch.from_numpy(255 * part)[:, None, None].to(images.device) for part in IMAGENET.columns(3))
    return images.float().sub_(mean).div_(std)


class _FirstBatches:
    """The first batches of a loader's first epoch, which can be iterated over repeatedly."""

    def __init__(self, loader: DetectionTrainLoader, count: int) -> None:
        self._loader, self._count = loader, count

    def __iter__(self) -> Iterator[DetectionBatch]:
        return islice(self._loader.epoch(0), self._count)


class _Kept:
    """Batches on a device, loaded when they are first needed."""

    def __init__(self, batches: Iterable[DetectionBatch], device: torch.device) -> None:
        self._source, self._device = batches, device
        self._kept: list[DetectionBatch] | None = None

    def __iter__(self) -> Iterator[DetectionBatch]:
        if self._kept is None:
            self._kept = [batch.to(self._device) for batch in self._source]
        return iter(self._kept)
