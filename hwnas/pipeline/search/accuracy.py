"""The dear metric: held-out accuracy of a supernet's networks, each network judged once."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hwnas.errors import InputError
from hwnas.pipeline.evaluate import open_run_data
from hwnas.progress import EvaluationProgress, NullReporter, Reporter
from hwnas.runs import Run
from hwnas.search.spec import SupernetSpec, space_digest
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.batch_norm import recalibrated
from hwnas.supernet.matmul import matmul_backend
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_supernet, read_about
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluation import calibration_batches, make_evaluator, weights_digest
from hwnas.train.evaluator import CACHE_BYTES, NETWORKS_PER_PASS, SupernetEvaluator
from hwnas.train.options import absolute_data_name, read_train_config, supernet_file

_SECONDS = 5.0
"""About so long is one pass over the pictures, after which values are committed."""
_LARGE_PASS = 16
"""Networks in a pass whose pictures must be read again each time."""

_COMMAND = "hwnas train --space {space} --data DIR"


@dataclass(frozen=True)
class OpenSupernet:
    """A supernet with the pictures that its networks are judged on."""

    path: Path
    """The run or the file, as it was given."""
    supernet: AnySupernet
    digest: str
    data: DataSplits
    requested_data: str | None
    """The name of the data set where one was named in place of that of the supernet's run; good in any folder."""

    @property
    def space(self) -> AnySpace:
        """The space at the supernet's images and classes."""
        return self.supernet.space

    def make_spec(self) -> SupernetSpec:
        """Return what the accuracies of a search depend on, with the settings of this process."""
        compute = "cuda" if torch.cuda.is_available() else "cpu"
        return SupernetSpec(
            path=self.path.resolve(),
            digest=self.digest,
            data=self.requested_data,
            data_name=self.data.name,
            data_fingerprint=self.data.fingerprint,
            num_images=len(self.data.heldout),
            compute=compute,
            threads=torch.get_num_threads(),
            matmul_backend=matmul_backend() if compute == "cpu" else "default",
        )


def open_supernet(path: Path, *, space: str | None, data: str | None) -> OpenSupernet:
    """A trained supernet of a space, and the pictures that were held out of its training or are named."""
    _require_trained(path, space)
    supernet = load_supernet(supernet_file(path)).eval()
    found: AnySpace = supernet.space
    if space is not None and found.name != space:
        hint = _COMMAND.format(space=space)
        raise InputError(f"{path} must hold a supernet of {space}", got=found.name, hint=hint)
    _require_known(path, found)
    config = read_train_config(Run.open(path)) if path.is_dir() else None
    if config is None and data is None:
        message = f"{path} does not say which pictures its networks are judged on"
        raise InputError(message, got="a file of weights", hint=f"hwnas search --supernet {path} --data NAME")
    opened = open_run_data(
        path, config, data=data, shape=found.config.input_shape, num_classes=found.config.num_classes
    )
    if not len(opened.heldout):
        raise InputError(f"{opened.name} has no held-out pictures to judge networks on", got="none", hint="--data NAME")
    digest = weights_digest(supernet_file(path))
    requested = None if data is None else absolute_data_name(data)
    return OpenSupernet(path, supernet, digest, opened, requested_data=requested)


def _require_known(path: Path, found: AnySpace) -> None:
    """The space of a supernet must be what hwnas means by its name: whoever reads the run takes that one."""
    config = found.config
    named: AnySpace = SPACES.get(found.name).adapted(
        image_size=config.image_size, channels=config.channels, num_classes=config.num_classes
    )
    if space_digest(named) != space_digest(found):
        raise InputError(
            f"{path} must hold a supernet of {found.name} as it is now",
            got="other choices or sizes: the space has changed since it was trained",
            hint=_COMMAND.format(space=found.name),
        )


def _require_trained(path: Path, space: str | None) -> None:
    file = supernet_file(path)
    if not path.exists():
        hint = _COMMAND.format(space=space or "autoformer-tiny")
        raise InputError(f"there is no run and no file {path}", got="--supernet", hint=hint)
    if not file.is_file():
        hint = f"hwnas train --out {path} --resume"
        raise InputError(f"{path} must hold a trained supernet", got=f"no file {file.name}", hint=hint)
    if read_about(file).get("kind") != "supernet":
        got = read_about(file).get("kind", "something else")
        raise InputError(f"{path} must hold a supernet", got=got, hint=_COMMAND.format(space=space or "SPACE"))


class TrueAccuracy:
    """The callable that a search asks for accuracy: values as they are done, in the order of the rows."""

    def __init__(
        self,
        opened: OpenSupernet,
        *,
        memo: Path | None,
        device: str,
        workers: int = 0,
        reporter: Reporter | None = None,
    ) -> None:
        self.space = opened.space
        self.evaluator: SupernetEvaluator = make_evaluator(
            opened.supernet.to(torch.device(device)),
            opened.data,
            checkpoint_id=opened.digest,
            cache=memo,
            workers=workers,
            device=device,
        )
        self._reporter, self._data = reporter or NullReporter(), opened.data
        self._num_evaluated, self._started_s = 0, time.monotonic()
        kept = len(opened.data.heldout) * 4 * _pixels(opened.space) <= CACHE_BYTES
        self._pass = 1 if kept else _LARGE_PASS
        self._adapts = kept

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        """Top-1 of each row."""
        start = 0
        while start < len(genomes):
            rows = genomes[start : start + self._pass]
            began = time.perf_counter()
            found = self.evaluator.evaluate(self.space.decode(rows))
            self._adapt(time.perf_counter() - began, len(rows))
            for index, accuracy in enumerate(found):
                self._report()
                yield start + index, accuracy.top1
            start += len(rows)

    def of(self, genomes: Genomes) -> list[float]:
        """Top-1 of each row, all at once."""
        return [accuracy.top1 for accuracy in self.evaluator.evaluate(self.space.decode(genomes))]

    def network(self, arch: Arch) -> Network:
        """A network with its own copy of the weights and, where it has batch norms, its own statistics."""
        shape = self.space.config.input_shape
        images = (batch.images for batch in calibration_batches(self._data, shape))
        return recalibrated(self.evaluator.supernet.cpu(), arch, images).eval()

    def _report(self) -> None:
        self._num_evaluated += 1
        elapsed_s = time.monotonic() - self._started_s
        self._reporter.update(EvaluationProgress(done=self._num_evaluated, total=None, elapsed_s=elapsed_s))

    def _adapt(self, seconds: float, count: int) -> None:
        """More networks in a pass while passes are short: a killed search loses no more than one."""
        if self._adapts:
            self._pass = min(max(int(_SECONDS * count / max(seconds, 1e-3)), 1), NETWORKS_PER_PASS)


def _pixels(space: AnySpace) -> int:
    pixels: int = math.prod(space.config.input_shape)
    return pixels
