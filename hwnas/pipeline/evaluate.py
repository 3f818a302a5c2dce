"""Evaluate networks of a supernet, or a single network, on held-out or test images: `hwnas evaluate`."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError, UsageError
from hwnas.files import file_errors, read_bytes, refuse_link, require_regular
from hwnas.frames import Columns, TabularResult
from hwnas.metrics import TASK_QUALITIES, QualityMetric
from hwnas.pipeline.workers.evaluate_on import EvaluateOn, evaluation_workers
from hwnas.pipeline.workers.messages import EvaluationTask
from hwnas.progress import EvaluationProgress, NullReporter, Reporter
from hwnas.runs import MODEL, NETWORK, SUPERNET
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_network, load_supernet, read_about
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.images import ImageDataset
from hwnas.train.data.samples import AnnotatedData, AnnotatedDataset
from hwnas.train.data.sources import DataSplits, absolute_data_name
from hwnas.train.evaluated import ACCURACIES_FILE, resolve_arch
from hwnas.train.evaluation import (
    Split,
    make_eval_loader,
    make_evaluator,
    make_quality_evaluator,
)
from hwnas.train.evaluator import Accuracy, DecodedOnce, evaluate_module, keeps_images
from hwnas.train.executor import EvaluationCallback, Executor
from hwnas.train.machine import current_cpu_settings, torch_device
from hwnas.train.models import num_classes_of
from hwnas.train.options import TrainConfig, open_train_config, supernet_file
from hwnas.train.run_data import open_quality_data, open_run_data, open_run_task_data
from hwnas.train.run_folder import require_weights, weights_digest, weights_file
from hwnas.train.session import ORIGINAL, TrainData
from hwnas.train.tasks import (
    QUALITY_OF_TASK,
    TaskOutputs,
    evaluate_task,
    evaluation_batches,
    make_task_evaluator,
    outputs_of,
)
from hwnas.train.weights import load_model

TEST_USES = "test-uses.jsonl"
"""File of a run that records each evaluation on its test images."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedNetwork:
    """Accuracy and size of one network."""

    name: str
    """Name as it was given."""
    arch_id: str | None
    """None of a model of timm, as `arch` and `macs` are."""
    arch: Mapping[str, Any] | None
    params: int
    macs: int | None
    count: int
    """Number of images."""
    top1: float | None = None
    """Share of images whose most likely class is right; None, as top5 and loss, if another metric was evaluated."""
    top5: float | None = None
    """Share of images whose class is among the five most likely ones."""
    loss: float | None = None
    """Mean cross-entropy."""
    knn_accuracy: float | None = None
    """Share of images whose class the nearest training images vote for; None if another metric was evaluated."""
    divergence: float | None = None
    """Mean KL divergence from the pretrained model, in nats; None if another metric was evaluated."""
    mAP: float | None = None
    """COCO's mean average precision of the boxes of a network for detection."""
    mIoU: float | None = None
    """Mean over classes of the intersection over union, of a network for segmentation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(TabularResult):
    """Networks evaluated on one split of a dataset."""

    weights: Path
    """File of the weights."""
    kind: Literal["supernet", "network"]
    space: str | None
    """Space of the networks; None: unknown, as of a model of timm."""
    data: str
    """Name of the dataset."""
    split: Split
    metric: QualityMetric
    networks: tuple[EvaluatedNetwork, ...]
    test_uses: int
    """Evaluations of this run on these test images so far, with this one; 0 on held-out images."""
    notes: tuple[str, ...]

    def _columns(self) -> Columns:
        figures = ("top1", "top5", "loss") if self.metric == "accuracy" else (self.metric,)
        names = ("name", "arch_id", "params", "macs", *figures, "count", "arch")
        return {name: [getattr(network, name) for network in self.networks] for name in names}


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Execution of an evaluation."""

    split: Split
    metric: QualityMetric | None
    data: str | None
    workers: int
    device: torch.device
    evaluate_on: EvaluateOn | None
    reporter: Reporter

    def progress(self, *, total: int, num_images: int) -> EvaluationCallback:
        """Return the function that reports the progress of an evaluation of `total` networks."""
        began = time.monotonic()

        def report(done: int, images: int) -> None:
            elapsed_s = time.monotonic() - began
            event = EvaluationProgress(
                done=done, total=total, elapsed_s=elapsed_s, images=images, num_images=num_images
            )
            self.reporter.update(event)

        return report


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Evaluated weights."""

    file: Path
    kind: Literal["supernet", "network"]
    space: str | None


@checked_arguments
def evaluate(
    run: Path,
    archs: Sequence[str] = (),
    *,
    split: Split = "heldout",
    metric: QualityMetric | None = None,
    data: str | None = None,
    workers: int = 0,
    device: str = "auto",
    evaluate_on: str | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate networks with the weights of a run or a file.

    Args:
        run: Run of a training, or a file of weights.
        archs: Networks of a supernet, evaluated with inherited weights: names, `min`, `max`, `random:SEED`, JSON, or
            ids of networks that were evaluated before; by default the smallest and the largest. A single network
            has none.
        split: Held-out images, for choosing, or test images, whose uses are counted.
        metric: `accuracy`, or for networks inside a pretrained model `knn_accuracy` or `divergence`; None: that of the
            task, `accuracy`, `mAP` or `mIoU`, or divergence in a run on images without classes.
        data: Another dataset than that of the run; required for a file of weights. Of a folder without training and
            test images of its own, on which the run was not trained, all images are evaluated.
        workers: Processes that load images.
        device: `auto`, `cpu` or `cuda`.
        evaluate_on: Workers that evaluate the networks of a supernet: `local:N` for processes of this machine, `ray` or
            `ray:ADDRESS` for a Ray cluster; None: this process.
        reporter: Receives progress.

    Raises:
        UsageError: Arguments exclude each other, or one is missing.
        InputError: Weights, networks or data cannot be used.
        MissingError: This machine has no such device.
    """
    config = open_train_config(run)
    if config is None and data is None:
        raise UsageError("a file of weights needs a dataset to evaluate on", hint="--data NAME")
    settings = _Settings(
        split=split,
        metric=metric,
        data=data,
        workers=workers,
        device=torch_device(device),
        evaluate_on=None if evaluate_on is None else EvaluateOn.parse(evaluate_on),
        reporter=reporter or NullReporter(),
    )
    if _is_supernet(run):
        return _evaluate_supernet(run, archs, config, settings)
    if archs:
        raise UsageError("archs can only be chosen of a supernet", hint=f"hwnas evaluate {shlex.quote(str(run))}")
    if metric not in (None, "accuracy", *TASK_QUALITIES):
        message = f"{metric} is a metric of the networks inside a pretrained model"
        raise UsageError(message, got="a single network", hint="leave --metric out")
    if evaluate_on is not None:
        message = "--evaluate-on has no effect: a single network is evaluated in this process"
        raise UsageError(message, got=evaluate_on, hint="leave out --evaluate-on")
    return _evaluate_network(run, config, settings)


def _evaluate_supernet(run: Path, archs: Sequence[str], config: TrainConfig | None, settings: _Settings) -> Evaluation:
    file, split = supernet_file(run), settings.split
    supernet = load_supernet(file).to(settings.device).eval()
    space = supernet.space
    words = f"hwnas evaluate {shlex.quote(str(run))}"
    command = f"{words.replace('{', '{{').replace('}', '}}')} {{arch}}"
    chosen = {name: resolve_arch(space, name, run, command=command) for name in archs or ("min", "max")}
    is_labelled = config is None or config.labelled or settings.data is not None
    metric = settings.metric or (QUALITY_OF_TASK[space.config.task] if is_labelled else "divergence")
    hint = f"{words} --metric divergence, which is that from the model itself"
    opened = open_quality_data(run, config, supernet, quality=metric, data=settings.data, hint=hint, whole=True)
    images = _images_of(opened, split)
    weights = _Weights(file=file, kind="supernet", space=space.name)
    task = _task(run, weights_digest(file), opened, metric, settings)
    few = keeps_images(len(images), space.config.input_shape)
    with evaluation_workers(settings.evaluate_on, task, keeps_images=few) as executor:
        if isinstance(opened, AnnotatedData):
            rows = _task_rows(supernet, chosen, opened, settings=settings, executor=executor)
            return _evaluation(run, weights, opened, split, rows, metric=metric)
        if metric != "accuracy":
            assert isinstance(supernet, ElasticSupernet)
            rows = _quality_rows(supernet, chosen, opened, run=run, metric=metric, settings=settings, executor=executor)
            return _evaluation(run, weights, opened, split, rows, metric=metric)
        evaluator = make_evaluator(
            supernet,
            opened,
            checkpoint_id=task.digest,
            split=split,
            cache=run / ACCURACIES_FILE if run.is_dir() else None,
            workers=settings.workers,
            device=settings.device,
            executor=executor,
        )
        progress = settings.progress(total=len(chosen), num_images=len(images))
        accuracies = evaluator.evaluate(list(chosen.values()), progress=progress)
    rows = [
        _space_row(name, space, arch, count=accuracy.count, **_figures(accuracy))
        for (name, arch), accuracy in zip(chosen.items(), accuracies, strict=True)
    ]
    return _evaluation(run, weights, opened, split, rows)


def _task(run: Path, digest: str, data: TrainData, metric: QualityMetric, settings: _Settings) -> EvaluationTask:
    """Return what workers open."""
    cpu = current_cpu_settings()
    return EvaluationTask(
        supernet=str(run.resolve()),
        digest=digest,
        data=None if settings.data is None else absolute_data_name(settings.data),
        data_fingerprint=data.fingerprint,
        whole_data=True,
        split=settings.split,
        quality=metric,
        device="cuda" if settings.device.type == "cuda" else "cpu",
        threads=cpu.threads,
        matmul_backend=cpu.matmul_backend,
        loaders=settings.workers,
    )


def _quality_rows(
    supernet: ElasticSupernet,
    chosen: Mapping[str, Arch],
    data: DataSplits,
    *,
    run: Path,
    metric: QualityMetric,
    settings: _Settings,
    executor: Executor | None,
) -> list[EvaluatedNetwork]:
    """Evaluate networks inside a pretrained model by a metric that needs no classifier."""
    images = _images_of(data, settings.split)
    shape = supernet.space.config.input_shape
    loader = make_eval_loader(data, shape, split=settings.split, workers=settings.workers)
    evaluator = make_quality_evaluator(
        supernet,
        data,
        metric,
        original=run / ORIGINAL,
        batches=DecodedOnce(loader),
        device=settings.device,
        executor=executor,
    )
    progress, rows = settings.progress(total=len(chosen), num_images=len(images)), []
    values = evaluator.stream(list(chosen.values()))
    for done, ((name, arch), value) in enumerate(zip(chosen.items(), values, strict=True), start=1):
        rows.append(_space_row(name, supernet.space, arch, count=len(images), **{metric: value}))
        progress(done, 0)
    return rows


def _task_rows(
    supernet: AnySupernet,
    chosen: Mapping[str, Arch],
    data: AnnotatedData,
    *,
    settings: _Settings,
    executor: Executor | None,
) -> list[EvaluatedNetwork]:
    """Evaluate networks for detection or segmentation by the metric of their task."""
    count = len(_images_of(data, settings.split))
    evaluator = make_task_evaluator(
        supernet,
        data,
        split=settings.split,
        device=settings.device,
        workers=settings.workers,
        executor=executor,
    )
    progress, rows = settings.progress(total=len(chosen), num_images=count), []
    values = evaluator.stream(list(chosen.values()))
    for done, ((name, arch), value) in enumerate(zip(chosen.items(), values, strict=True), start=1):
        rows.append(_space_row(name, supernet.space, arch, count=count, **{evaluator.measure.name: value}))
        progress(done, 0)
    return rows


def _evaluate_task_network(
    run: Path, network: Network, outputs: TaskOutputs, config: TrainConfig | None, settings: _Settings
) -> Evaluation:
    """Evaluate a network for detection or segmentation with its own weights and statistics."""
    stored = load_network(weights_file(run))
    data = open_run_task_data(run, config, data=settings.data, space=stored.space.config)
    images, task = _images_of(data, settings.split), stored.space.config.task
    metric = QUALITY_OF_TASK[task]
    if settings.metric not in (None, metric):
        raise UsageError(
            f"networks for {task} are compared by {metric}", got=settings.metric, hint="leave --metric out"
        )
    batches = evaluation_batches(data, split=settings.split, workers=settings.workers)
    on_device = (batch.to(settings.device) for batch in batches)
    value = evaluate_task(network.to(settings.device).eval(), outputs, on_device)
    row = _space_row("network", stored.space, stored.arch, count=len(images), **{metric: value})
    weights = _Weights(file=weights_file(run), kind="network", space=stored.space.name)
    return _evaluation(run, weights, data, settings.split, [row], metric=metric)


def _evaluate_network(run: Path, config: TrainConfig | None, settings: _Settings) -> Evaluation:
    module, split = load_model(run), settings.split
    outputs = outputs_of(module)
    if outputs is not None:
        assert isinstance(module, Network)
        return _evaluate_task_network(run, module, outputs, config, settings)
    if settings.metric in TASK_QUALITIES:
        raise UsageError("a classifier is compared by accuracy", got=settings.metric, hint="leave --metric out")
    shape, classes = _input_of(module, config)
    if isinstance(module, Network):
        module.input_shape = shape  # a network of smaller images than the run's resizes them
    opened = open_run_data(run, config, data=settings.data, shape=shape, num_classes=classes, whole=True)
    images = _images_of(opened, split)
    accuracy = evaluate_module(
        module,
        make_eval_loader(opened, shape, split=split, workers=settings.workers),
        device=settings.device,
        progress=settings.progress(total=1, num_images=len(images)),
    )
    name = config.model or "network" if config is not None else "network"
    file = next((run / inside for inside in (NETWORK, MODEL) if (run / inside).is_file()), run)
    space = None if config is None or config.arch is None else config.space
    weights = _Weights(file=file, kind="network", space=space)
    return _evaluation(run, weights, opened, split, [_network_row(name, module, config, accuracy)])


def _network_row(name: str, module: nn.Module, config: TrainConfig | None, accuracy: Accuracy) -> EvaluatedNetwork:
    count, figures = accuracy.count, _figures(accuracy)
    if config is None or config.arch is None:
        params = sum(parameter.numel() for parameter in module.parameters())
        return EvaluatedNetwork(name=name, arch_id=None, arch=None, params=params, macs=None, count=count, **figures)
    return _space_row(name, config.get_space(), config.get_arch(), count=count, **figures)


def _input_of(module: nn.Module, config: TrainConfig | None) -> tuple[tuple[int, int, int], int]:
    if config is not None:
        return config.image_shape, config.num_classes
    shape = getattr(module, "input_shape", None)
    if shape is None:
        size = module.pretrained_cfg["input_size"]  # type: ignore[index]
        shape = tuple(size)
    return shape, num_classes_of(module)


def _is_supernet(run: Path) -> bool:
    if run.is_dir():
        require_weights(run)
        return (run / SUPERNET).is_file()
    return bool(read_about(run).get("kind") == "supernet")


def _images_of(data: TrainData, split: Split) -> ImageDataset | AnnotatedDataset:
    if split == "heldout":
        if not len(data.heldout):
            raise InputError(f"no images of {data.name} were held out", got="--split heldout", hint="--split test")
        return data.heldout
    if data.test is None:
        raise InputError(f"{data.name} has no test images", got="--split test", hint="--split heldout")
    return data.test


def _space_row(name: str, space: AnySpace, arch: Arch, *, count: int, **figures: float) -> EvaluatedNetwork:
    candidate = space.candidate(arch)
    costs = space.costs([candidate.genome])
    return EvaluatedNetwork(
        name=name,
        arch_id=candidate.arch_id,
        arch=arch.to_mapping(),
        params=int(costs.params[0]),
        macs=int(costs.macs[0]),
        count=count,
        **figures,
    )


def _figures(accuracy: Accuracy) -> dict[str, float]:
    return {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}


def _evaluation(
    run: Path,
    weights: _Weights,
    data: TrainData,
    split: Split,
    rows: Sequence[EvaluatedNetwork],
    *,
    metric: QualityMetric = "accuracy",
) -> Evaluation:
    networks = [row.arch_id or row.name for row in rows]
    uses = _record_test_use(run, networks, data) if split == "test" else 0
    notes = data.notes
    if uses > 1:
        notes = (*notes, f"these test images have been used {uses} times: choose networks by held-out accuracy")
    return Evaluation(
        weights=weights.file,
        kind=weights.kind,
        space=weights.space,
        data=data.name,
        split=split,
        metric=metric,
        networks=tuple(rows),
        test_uses=uses,
        notes=tuple(notes),
    )


def _record_test_use(run: Path, networks: Sequence[str], data: TrainData) -> int:
    """Record an evaluation on test images, and return how many there were on the same ones.

    Rows of earlier versions do not say which images were used, and count as uses of the run's own.
    """
    if not run.is_dir():
        return 1
    path, config, images = run / TEST_USES, open_train_config(run), data.fingerprint
    is_own = config is not None and config.data.name == data.name
    row = {"time_utc": datetime.now(UTC).isoformat(timespec="seconds"), "networks": list(networks), "images": images}
    refuse_link(path)
    if path.exists():
        require_regular(path)
    with file_errors(path, "written"), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    rows = read_bytes(path).splitlines()
    return sum(json.dumps(images).encode() in row or (is_own and b'"images": ' not in row) for row in rows)
