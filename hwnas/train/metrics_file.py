"""Reading of `metrics.jsonl`, the metrics of each step of a training; it needs no torch, as reports do not."""

import json
import logging
from pathlib import Path
from typing import Any

from hwnas.files import read_text

METRICS = "metrics.jsonl"

_log = logging.getLogger(__name__)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of all steps of a run."""
    return [row for row, _ in read_rows(run / METRICS)]


def read_rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Return the rows of a file with their lines, without a last line that a killed process left incomplete."""
    if not path.exists():
        return []
    rows, damaged = [], []
    for number, line in enumerate(read_text(path, follow_links=False).split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append((row, line))
        else:
            damaged.append(number)
    if damaged:
        _log.warning("%d lines of %s are no metrics and were left out, line %d first", len(damaged), path, damaged[0])
    return rows
