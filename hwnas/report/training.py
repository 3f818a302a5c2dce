"""Training curves for a report: the loss of the supernet of a search, and that of its retrained networks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import HwnasError
from hwnas.files import file_errors, file_sha256, path_within
from hwnas.runs import SUPERNET
from hwnas.search.record import SearchRecord
from hwnas.search.spec import SearchSpec, SupernetSpec
from hwnas.train.metrics_file import METRICS, read_metrics

MAX_POINTS = 200
"""Points of a curve; of a longer training each is the mean of several steps."""

_MAX_LOSS = 1e18
"""Losses above it are not drawn: axes of larger numbers overflow."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """The loss of a training by its steps."""

    name: str
    steps: tuple[int, ...]
    """The last step of each point."""
    losses: tuple[float, ...]
    """Mean loss of the steps of each point."""


def training_curves(run: Path, spec: SearchSpec, record: SearchRecord | None) -> tuple[TrainingCurve, ...]:
    """Read the curves of the trainings that a search builds on, those that are where the search recorded them."""
    supernet = [] if spec.supernet is None else [_supernet_curve(spec.supernet, run=run)]
    winners = () if record is None else record.winners
    retrained = [
        _curve(f"{item.arch_id} retrained", path_within(run, item.folder, "training"))
        for item in winners
        if item.test_accuracy is not None
    ]
    return tuple(curve for curve in (*supernet, *retrained) if curve is not None)


def _supernet_curve(supernet: SupernetSpec, *, run: Path) -> TrainingCurve | None:
    """Return the curve of the supernet that was searched, and none of another training in its place.

    It is looked up at the path that the search recorded, relative to the working folder and to the run.
    """
    for path in (supernet.path, run / supernet.path):
        folder = _folder_of(path, supernet.digest)
        if folder is not None:
            return _curve("supernet", folder)
    return None


def _folder_of(path: Path, digest: str) -> Path | None:
    """Return the run of a supernet with this digest and the metrics of its steps; None: it is not at the path."""
    try:
        with file_errors(path):
            is_run = path.is_dir()
            file, folder = (path / SUPERNET, path) if is_run else (path, path.parent)
            is_known = (folder / METRICS).is_file() and file.is_file() and file_sha256(file).startswith(digest)
    except HwnasError:
        # The page says that there is no curve; nothing else depends on it.
        return None
    return folder if is_known else None


def _curve(name: str, folder: Path) -> TrainingCurve | None:
    try:
        points = sorted(_points(folder))
    except HwnasError:
        # The page says that there is no curve; nothing else depends on it.
        return None
    if not points:
        return None
    parts = np.array_split(np.array(points), min(MAX_POINTS, len(points)))
    return TrainingCurve(
        name=name,
        steps=tuple(int(part[-1, 0]) for part in parts),
        losses=tuple(float(part[:, 1].mean()) for part in parts),
    )


def _points(folder: Path) -> Iterator[tuple[int, float]]:
    for row in read_metrics(folder):
        step, loss = row["step"], row.get("loss")
        if isinstance(loss, (int, float)) and math.isfinite(loss) and abs(loss) <= _MAX_LOSS and 0 <= step < 10**12:
            yield step, float(loss)
