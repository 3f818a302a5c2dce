"""What a training tells while it runs: `metrics.jsonl`, TensorBoard, and a bar on stderr."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hwnas.runs import write_atomic

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

METRICS = "metrics.jsonl"
_BOARD = "tensorboard"
_SHOWN = ("loss", "lr", "images_per_s", "grad_norm")


class Metrics:
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


@dataclass(frozen=True)
class Status:
    """Where a training stands."""

    step: int
    epoch: int
    loss: float
    images_per_s: float


class Progress:
    """A bar with images per second and the time left where stderr is a terminal, else a line for each epoch."""

    def __init__(self, *, steps: int, steps_per_epoch: int, done: int, shown: bool) -> None:
        self._steps, self._steps_per_epoch, self._done, self._shown = steps, steps_per_epoch, done, shown
        self._bar: RichProgress | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("training", total=self._steps, completed=self._done, about="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, status: Status) -> None:
        """Show where the training stands."""
        about = f"epoch {status.epoch + 1}  loss {status.loss:.4f}  {status.images_per_s:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=status.step, about=about)
        elif self._shown and status.step % self._steps_per_epoch == 0:
            left = (time.monotonic() - self._began) / max(status.step - self._done, 1) * (self._steps - status.step)
            print(f"{about}  {left:.0f} s left", file=sys.stderr, flush=True)


def _bar() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[about]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _kept(path: Path, *, step: int) -> list[str]:
    return [line + "\n" for line in _lines(path) if json.loads(line)["step"] <= step]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a process that was killed may have left half of one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines[:-1] if line]
