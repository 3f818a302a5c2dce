"""The expensive metric: held-out quality of a supernet's networks, each of which is evaluated once."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from hwnas.errors import InputError
from hwnas.metrics import QUANTISED, Deployment
from hwnas.pipeline.search.options import TRAIN_COMMAND
from hwnas.progress import EvaluationProgress, NullReporter, Reporter
from hwnas.runs import Run
from hwnas.search.spec import SupernetSpec, space_digest
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.batch_norm import recalibrated
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.matmul import matmul_backend
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_supernet, read_about
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.samples import AnnotatedData
from hwnas.train.data.sources import DataSplits, absolute_data_name
from hwnas.train.evaluation import calibration_batches, load_original, make_evaluator, make_quality_evaluator
from hwnas.train.evaluator import NETWORKS_PER_PASS, SupernetEvaluator, keeps_images
from hwnas.train.executor import EvalPrecision, Executor
from hwnas.train.options import read_train_config, supernet_file
from hwnas.train.quality import QualityEvaluator
from hwnas.train.run_data import open_quality_data
from hwnas.train.run_folder import require_path, require_weights, weights_digest
from hwnas.train.session import ORIGINAL, TrainData
from hwnas.train.tasks import TaskEvaluator, make_task_evaluator

_PASS_S = 5.0
"""About how long one pass over the images takes, after which values are committed."""

_LARGE_PASS = 16
"""Networks in a pass whose images are too many to keep and must be read again each time."""


@dataclass(frozen=True)
class OpenSupernet:
    """A supernet with the images that its networks are evaluated on."""

    path: Path
    """The run or the file, as it was named."""
    supernet: AnySupernet
    digest: str
    data: TrainData
    requested_data: str | None
    """The absolute name of the data set, if one was named in place of that of the supernet's run."""

    @property
    def space(self) -> AnySpace:
        """The space at the supernet's images and classes."""
        return self.supernet.space

    @property
    def keeps_images(self) -> bool:
        """True if the held-out images are kept in memory after the first pass."""
        return keeps_images(len(self.data.heldout), self.space.config.input_shape)

    def make_spec(self) -> SupernetSpec:
        """Return what the accuracies of a search depend on, with the settings of this process."""
        use_onednn = not torch.cuda.is_available() and matmul_backend() == "onednn"
        return SupernetSpec(
            path=self.path.resolve(),
            digest=self.digest,
            data=self.requested_data,
            data_name=self.data.name,
            data_fingerprint=self.data.fingerprint,
            num_images=len(self.data.heldout),
            compute="cuda" if torch.cuda.is_available() else "cpu",
            threads=torch.get_num_threads(),
            matmul_backend="onednn" if use_onednn else "default",
        )


def open_supernet(path: Path, *, space: str | None, data: str | None, quality: str | None = "accuracy") -> OpenSupernet:
    """Open a trained supernet and the images to evaluate its networks on.

    Args:
        path: A run of `hwnas train`, or a file of weights.
        space: The space that the supernet must be of; None: any.
        data: A data set; None: the images that were held out in the run.
        quality: The metric that networks are evaluated for.

    Raises:
        InputError: There is no trained supernet, it is of another space or of a space that has changed, it is of
            no pretrained model although the metric needs one, or there are no images.
    """
    file = supernet_file(path)
    _require_supernet(path, file, space)
    supernet = load_supernet(file).eval()
    _require_current_space(path, supernet.space, space)
    train_config = read_train_config(Run.open(path)) if path.is_dir() else None
    if train_config is None and data is None:
        message = f"{path} does not say which images its networks are evaluated on"
        raise InputError(
            message, got="a file of weights", hint=f"hwnas search --supernet {shlex.quote(str(path))} --data NAME"
        )
    command = f"hwnas search --supernet {shlex.quote(str(path))} --objective divergence"
    hint = f"{command}, which is that from the model itself"
    opened = open_quality_data(path, train_config, supernet, quality=quality or "accuracy", data=data, hint=hint)
    if not len(opened.heldout):
        message = f"{opened.name} has no held-out images to evaluate networks on"
        raise InputError(message, got="none", hint="--data NAME")
    requested = None if data is None else absolute_data_name(data)
    return OpenSupernet(path, supernet, weights_digest(file), opened, requested_data=requested)


def _require_supernet(path: Path, file: Path, space: str | None) -> None:
    require_path(path, hint=TRAIN_COMMAND.format(space=space or "autoformer-tiny"))
    require_weights(path)
    if not file.is_file():
        hint = TRAIN_COMMAND.format(space=space or "SPACE")
        raise InputError(f"{path} must hold a trained supernet", got=f"no file {file.name}", hint=hint)
    kind = read_about(file).get("kind", "something else")
    if kind != "supernet":
        raise InputError(f"{path} must hold a supernet", got=kind, hint=TRAIN_COMMAND.format(space=space or "SPACE"))


def _require_current_space(path: Path, found: AnySpace, name: str | None) -> None:
    """Require the named space, and that its name still means the same: readers of the run load it by name."""
    if name is not None and found.name != name:
        hint = TRAIN_COMMAND.format(space=name)
        raise InputError(f"{path} must hold a supernet of {name}", got=found.name, hint=hint)
    config = found.config
    current: AnySpace = SPACES.get(found.name).adapted(
        image_size=config.image_size, channels=config.channels, num_classes=config.num_classes
    )
    if space_digest(current) != space_digest(found):
        raise InputError(
            f"{path} must hold a supernet of {found.name} as it is now",
            got="other choices or sizes: the space has changed since it was trained",
            hint=TRAIN_COMMAND.format(space=found.name),
        )


def evaluated_precision(precision: str | None) -> EvalPrecision:
    """Return the precision to evaluate accuracy in: float32 stands for all that keep its accuracy."""
    return cast("EvalPrecision", precision) if precision in QUANTISED else "fp32"


class SupernetAccuracy:
    """Evaluates genomes with the weights of a supernet; yields values as they are done, in the order of the rows.

    The values are those of one of `QUALITIES`: top-1 accuracy, unless a search asks for another one.
    """

    def __init__(
        self,
        opened: OpenSupernet,
        *,
        space: AnySpace,
        quality: str = "accuracy",
        precision: str | None = None,
        cache: Path | None,
        device: str,
        workers: int = 0,
        executor: Executor | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Load the images and the file of known accuracies.

        Args:
            opened: The supernet and its images.
            space: The space of the genomes, whose networks are those of the supernet.
            quality: The metric that networks are evaluated for.
            precision: The precision of all networks, if it changes accuracy; None: that of each candidate's deployment.
            cache: The file of accuracies that are known, to which new ones are added; None: none are kept.
            device: Where the supernet runs: `cpu` or `cuda`.
            workers: Processes that load images.
            executor: Evaluates networks; None: this process does.
            reporter: Receives an event after each network.
        """
        self.space = space
        deployments = space.deployments if isinstance(space, DeployedSpace) else (Deployment(precision=precision),)
        self._precisions = [evaluated_precision(item.precision) for item in deployments]
        self.evaluators: dict[EvalPrecision, SupernetEvaluator] = {}
        self._workers = workers
        if isinstance(opened.data, DataSplits):
            for name in dict.fromkeys((*self._precisions, evaluated_precision(None))):
                self.evaluators[name] = make_evaluator(
                    opened.supernet.to(torch.device(device)),
                    opened.data,
                    checkpoint_id=opened.digest,
                    cache=cache,
                    workers=workers,
                    device=device,
                    precision=name,
                    executor=executor,
                )
                # Images are decoded and kept once for all precisions.
                self.evaluators[name].batches = next(iter(self.evaluators.values())).batches
        self._reporter, self._data = reporter or NullReporter(), opened.data
        self._opened, self._device, self._executor = opened, device, executor
        self._quality = None if quality == "accuracy" else self._make_quality(opened.supernet, quality, executor)
        self._quality_name = quality
        self._num_evaluated, self._started_s = 0, time.monotonic()
        self._keeps_images = opened.keeps_images
        self._pass_size = 1 if self._keeps_images else _LARGE_PASS

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        """Yield row and quality of each genome."""
        found = self._by_pass(genomes) if self._executor is None else self._by_worker(genomes)
        for row, value in found:
            self._num_evaluated += 1
            elapsed_s = time.monotonic() - self._started_s
            self._reporter.update(EvaluationProgress(done=self._num_evaluated, total=None, elapsed_s=elapsed_s))
            yield row, value

    def _by_worker(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        """Evaluate all genomes of one precision at once, and yield each when it is known."""
        archs, precisions = self.space.decode(genomes), self._precisions_of(genomes)
        for precision in dict.fromkeys(precisions):
            rows = [row for row, own in enumerate(precisions) if own == precision]
            chosen = [archs[row] for row in rows]
            if self._quality is not None:
                yield from zip(rows, self._quality.stream(chosen), strict=True)
            else:
                accuracies = self.evaluators[precision].stream(chosen)
                yield from ((row, accuracy.top1) for row, accuracy in zip(rows, accuracies, strict=True))

    def _by_pass(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        start = 0
        while start < len(genomes):
            rows = genomes[start : start + self._pass_size]
            began_s = time.perf_counter()
            accuracies = self.evaluate(rows)
            if self._keeps_images:
                # As many networks in a pass as take a few seconds: a killed search loses no more than one pass.
                pass_s = max(time.perf_counter() - began_s, 1e-3)
                self._pass_size = min(max(int(_PASS_S * len(rows) / pass_s), 1), NETWORKS_PER_PASS)
            yield from enumerate(accuracies, start=start)
            start += len(rows)

    def evaluate(self, genomes: Genomes) -> list[float]:
        """Return the quality of each genome, in the precision of its deployment."""
        if self._quality is not None:
            return self._quality.evaluate(self.space.decode(genomes))
        precisions = self._precisions_of(genomes)
        found = np.zeros(len(genomes))
        for precision, evaluator in self.evaluators.items():
            rows = np.array([own == precision for own in precisions], dtype=np.bool_)
            if rows.any():
                found[rows] = [accuracy.top1 for accuracy in evaluator.evaluate(self.space.decode(genomes[rows]))]
        return [float(value) for value in found]

    def _precisions_of(self, genomes: Genomes) -> list[EvalPrecision]:
        deployments = genomes[:, -1] if isinstance(self.space, DeployedSpace) else np.zeros(len(genomes), dtype=int)
        return [self._precisions[index] for index in deployments.tolist()]

    def evaluate_archs(self, archs: Sequence[Arch], precision: str | None) -> list[float]:
        """Return the quality of networks in a precision; None, as all that only round: in float32."""
        if self._quality is not None:
            return self._quality.evaluate(archs)
        evaluator = self.evaluators[evaluated_precision(precision)]
        return [float(accuracy.top1) for accuracy in evaluator.evaluate(archs)]

    @property
    def has_original(self) -> bool:
        """True if the weights that an elastic training began with are there."""
        return (self._opened.path / ORIGINAL).is_file()

    def evaluate_original(self, archs: Sequence[Arch], precision: str | None, *, space: AnySpace) -> list[float]:
        """Return the quality of networks with the weights that an elastic training began with.

        Args:
            archs: The networks.
            precision: As for `evaluate_archs`.
            space: Their space: that of the supernet, or the same with other images and patches.
        """
        supernet = load_original(self._opened.path / ORIGINAL, space=space).to(torch.device(self._device))
        if self._quality is not None:
            return self._make_quality(supernet, self._quality_name).evaluate(archs)
        assert isinstance(self._data, DataSplits)
        evaluator = make_evaluator(
            supernet,
            self._data,
            checkpoint_id="original",
            device=self._device,
            precision=evaluated_precision(precision),
        )
        evaluator.batches = next(iter(self.evaluators.values())).batches
        return [float(accuracy.top1) for accuracy in evaluator.evaluate(archs)]

    def _make_quality(
        self, supernet: AnySupernet, quality: str, executor: Executor | None = None
    ) -> QualityEvaluator | TaskEvaluator:
        if isinstance(self._data, AnnotatedData):
            return make_task_evaluator(
                supernet.to(torch.device(self._device)),
                self._data,
                device=self._device,
                workers=self._workers,
                executor=executor,
            )
        assert isinstance(supernet, ElasticSupernet)
        return make_quality_evaluator(
            supernet,
            self._data,
            quality,
            original=self._opened.path / ORIGINAL,
            batches=next(iter(self.evaluators.values())).batches,
            device=self._device,
            executor=executor,
        )

    def extract(self, arch: Arch) -> Network:
        """Return a network with a copy of its weights, and its own statistics of batch norms if it has any."""
        if isinstance(self._data, AnnotatedData):
            assert isinstance(self._quality, TaskEvaluator)
            return self._quality.extract(arch).cpu()
        images = (batch.images for batch in calibration_batches(self._data, self.space.config.input_shape))
        supernet = next(iter(self.evaluators.values())).supernet
        return recalibrated(supernet.cpu(), arch, images).eval()
