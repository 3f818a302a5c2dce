"""The part of a worker that evaluates networks; it is the same in a process and in an actor."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hwnas.config import from_mapping, to_mapping
from hwnas.devices.device import read_system_file
from hwnas.errors import HwnasError, InputError
from hwnas.pipeline.workers.messages import BatchRows, ComputeFacts, EvaluationTask, NetworkBatch
from hwnas.profile.worker_messages import WorkerError
from hwnas.runs import Run, hwnas_version
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.store import load_supernet
from hwnas.train.data.samples import AnnotatedData
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluation import make_evaluator, make_quality_evaluator
from hwnas.train.evaluator import SupernetEvaluator, to_row
from hwnas.train.executor import EvaluationCallback, Measure
from hwnas.train.machine import cpu_settings, torch_device
from hwnas.train.options import read_train_config, supernet_file
from hwnas.train.quality import QualityEvaluator
from hwnas.train.run_data import open_quality_data
from hwnas.train.run_folder import weights_digest
from hwnas.train.session import ORIGINAL
from hwnas.train.tasks import TaskEvaluator, make_task_evaluator


class BatchEvaluator:
    """Opens a task once, and answers batches of networks with their rows.

    Args:
        on_progress: Called after each batch of images.
    """

    def __init__(self, on_progress: Callable[[], None] = lambda: None) -> None:
        self._networks: _TaskNetworks | None = None
        self._on_progress: EvaluationCallback = lambda done, images: on_progress()
        self._settings = ExitStack()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `open` with facts and `batch` with a result; errors of hwnas are answers as well."""
        try:
            if "open" in request:
                return {"facts": to_mapping(self._open(from_mapping(EvaluationTask, request["open"], where="open")))}
            assert self._networks is not None, "a batch before its task"
            batch = from_mapping(NetworkBatch, request["batch"], where="batch")
            return {"result": to_mapping(self._networks.evaluate(batch, self._on_progress))}
        except HwnasError as error:
            return {"error": to_mapping(WorkerError.of(error))}

    def close(self) -> None:
        """Restore the settings of torch."""
        self._settings.close()

    def _open(self, task: EvaluationTask) -> ComputeFacts:
        device = torch_device(task.device)
        self._settings.enter_context(cpu_settings(threads=task.threads, matmul_backend=task.matmul_backend))
        self._networks = _TaskNetworks(task, device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return ComputeFacts(hwnas=hwnas_version(), torch=torch.__version__, device=name)


class _TaskNetworks:
    """The supernet of a task with its images, and an evaluator for each measure."""

    def __init__(self, task: EvaluationTask, device: torch.device) -> None:
        self._task, self._device, self._run = task, device, Path(task.supernet)
        file = supernet_file(self._run)
        digest = weights_digest(file)
        if digest != task.digest:
            hint = "a folder that all machines share"
            raise InputError(f"a worker must find the weights of the command in {file}", got="others", hint=hint)
        self._supernet = load_supernet(file).eval().to(device)
        train_config = read_train_config(Run.open(self._run)) if self._run.is_dir() else None
        hint = "images with classes"
        self._data = open_quality_data(
            self._run,
            train_config,
            self._supernet,
            quality=task.quality,
            data=task.data,
            hint=hint,
            whole=task.whole_data,
        )
        if self._data.fingerprint != task.data_fingerprint:
            message = f"a worker must find the images of the command in {self._data.name}"
            raise InputError(message, got="other images or classes", hint="a folder that all machines share")
        self._accuracies: dict[Measure, SupernetEvaluator] = {}
        self._quality: QualityEvaluator | TaskEvaluator | None = None

    def evaluate(self, batch: NetworkBatch, progress: EvaluationCallback) -> BatchRows:
        """Return the rows of the networks of a batch."""
        archs = [self._supernet.space.parse(arch) for arch in batch.archs]
        if batch.measure.name != "accuracy":
            values = self._quality_evaluator(batch.measure).evaluate(archs)
            return BatchRows(rows=tuple({"value": value} for value in values))
        found = self._accuracy_evaluator(batch.measure).evaluate(archs, progress=progress)
        return BatchRows(rows=tuple(map(to_row, found)))

    def _accuracy_evaluator(self, measure: Measure) -> SupernetEvaluator:
        assert isinstance(self._data, DataSplits), "images with one class"
        if measure not in self._accuracies:
            made = make_evaluator(
                self._supernet,
                self._data,
                checkpoint_id=self._task.digest,
                split=self._task.split,
                workers=self._task.loaders,
                device=self._device,
                precision=measure.precision,
                keep_hits=measure.keep_hits,
            )
            # Images are decoded and kept once for all measures.
            self._accuracies[measure] = made
            made.batches = next(iter(self._accuracies.values())).batches
        return self._accuracies[measure]

    def _quality_evaluator(self, measure: Measure) -> QualityEvaluator | TaskEvaluator:
        if self._quality is None and isinstance(self._data, AnnotatedData):
            self._quality = make_task_evaluator(
                self._supernet,
                self._data,
                split=self._task.split,
                device=self._device,
                workers=self._task.loaders,
            )
        elif self._quality is None:
            assert isinstance(self._data, DataSplits)
            assert isinstance(self._supernet, ElasticSupernet)
            self._quality = make_quality_evaluator(
                self._supernet,
                self._data,
                measure.name,
                original=self._run / ORIGINAL,
                batches=self._accuracy_evaluator(Measure()).batches,
                device=self._device,
            )
        return self._quality


def _cpu_name() -> str:
    """Return the model of the CPU and the instructions that torch uses, which decide how sums are rounded."""
    lines = (read_system_file("/proc/cpuinfo") or "").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
