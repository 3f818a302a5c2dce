"""Metrics of each training step: `metrics.jsonl`, and TensorBoard if it is installed."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from hwnas.files import write_atomic

METRICS = "metrics.jsonl"
_TENSORBOARD = "tensorboard"
_TENSORBOARD_SCALARS = ("loss", "lr", "images_per_s", "grad_norm")


class MetricsWriter:
    """Writes one line of JSON per step, and the same scalars for TensorBoard if it is installed.

    Args:
        run: Run of the training.
        step: Step that the training begins at or resumes from; lines of later steps are removed, as those steps run
            again.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        path = run / METRICS
        lines = [line + "\n" for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        write_atomic(path, "".join(lines))
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        if find_spec(_TENSORBOARD) is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(run / _TENSORBOARD), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the metrics of one step."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name in _TENSORBOARD_SCALARS:
                if row.get(name) is not None:
                    self._tensorboard.add_scalar(name, row[name], row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of all steps of a run."""
    return [json.loads(line) for line in _complete_lines(run / METRICS)]


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a file without a last one that a killed process left incomplete."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines[:-1] if line]
