"""Metrics of each training step: `metrics.jsonl`, TensorBoard if it is installed, and at the end `metrics.csv`."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from hwnas.files import file_errors, refuse_link, write_atomic
from hwnas.train.metrics_file import METRICS, read_rows

_TENSORBOARD = "tensorboard"
METRICS_TABLE = "metrics.csv"
_SCALARS = ("loss", "lr", "images_per_s", "grad_norm")


class MetricsWriter:
    """Writes one line of JSON per step, the same scalars for TensorBoard if it is installed, and a table at the end.

    Args:
        run: Run of the training.
        step: Step that the training begins at or resumes from; lines of later steps are removed, as those steps run
            again. Lines that are no metrics are removed with a warning: nothing depends on them.

    Raises:
        InputError: A file cannot be read or written.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        self._path = path = run / METRICS
        rows = [(row["step"], line) for row, line in read_rows(path)]
        write_atomic(path, "".join(f"{line}\n" for number, line in rows if number <= step))
        with file_errors(path, "written"):
            self._file = path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        if find_spec(_TENSORBOARD) is not None:
            from torch.utils.tensorboard import SummaryWriter

            refuse_link(run / _TENSORBOARD)
            with file_errors(run / _TENSORBOARD, "written"):
                self._tensorboard = SummaryWriter(str(run / _TENSORBOARD), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the metrics of one step."""
        with file_errors(self._path, "written"):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in _scalars(row).items():
                self._tensorboard.add_scalar(name, value, row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with file_errors(self._path, "written"):
            self._file.close()
        rows = [row for row, _ in read_rows(self._path)]
        write_atomic(self._path.with_name(METRICS_TABLE), _csv_text(rows))
        if self._tensorboard is not None:
            self._tensorboard.close()


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a step that are drawn and listed, those on held-out images by their network."""
    heldout = row.get("heldout")
    own = {f"heldout/{name}": value for name, value in heldout.items()} if isinstance(heldout, dict) else {}
    return {**{name: row[name] for name in _SCALARS if row.get(name) is not None}, **own}


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of all steps; a number that a step lacks is empty."""
    scalars = [_scalars(row) for row in rows]
    names = dict.fromkeys((*_SCALARS, *(name for row in scalars for name in row)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "epoch", *names))
    for row, values in zip(rows, scalars, strict=True):
        writer.writerow((row["step"], row.get("epoch"), *(values.get(name) for name in names)))
    return text.getvalue()
