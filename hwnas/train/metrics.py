"""Metrics of a training run: `metrics.jsonl`, and TensorBoard where it is installed."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from hwnas.runs import write_atomic

METRICS = "metrics.jsonl"
_BOARD = "tensorboard"
_SHOWN = ("loss", "lr", "images_per_s", "grad_norm")


class MetricsWriter:
    """One line of JSON for each step, and the same for TensorBoard where that is installed.

    Lines of steps after `step` are removed: a training that goes on from there writes them again.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        path = run / METRICS
        write_atomic(path, "".join(_kept(path, step=step)))
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        if find_spec(_BOARD) is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / _BOARD), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add the row of one step."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name in _SHOWN:
                if row.get(name) is not None:
                    self._board.add_scalar(name, row[name], row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's steps."""
    return [json.loads(line) for line in _lines(run / METRICS)]


def _kept(path: Path, *, step: int) -> list[str]:
    return [line + "\n" for line in _lines(path) if json.loads(line)["step"] <= step]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a process that was killed may have left half of one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines[:-1] if line]
