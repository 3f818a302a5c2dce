"""Results that are remembered in a file: one JSON line each, only ever appended."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.config import parse_json
from hwnas.errors import InputError


class Memo:
    """Rows by name under one key; a last line that was cut off by a kill is dropped. One process writes at a time."""

    def __init__(self, path: Path | None, *, key: Mapping[str, str]) -> None:
        self.path = path
        self.key = dict(key)
        self._rows: dict[str, Mapping[str, Any]] = {}
        if path is not None and path.exists():
            self._read(path)

    def get(self, name: str) -> Mapping[str, Any] | None:
        """What is remembered of a name under this key."""
        return self._rows.get(name)

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Remember a row, for good."""
        self._rows[name] = dict(row)
        if self.path is None:
            return
        line = json.dumps({**self.key, "arch_id": name, **row}, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path} cannot be written", got=error) from error

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read", got=error) from error
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            os.truncate(path, len(data) - len(torn))  # or the next row would stand in the same line
        for number, line in enumerate(whole.splitlines(), start=1):
            self._take(line, source=f"{path}, line {number}")

    def _take(self, line: bytes, *, source: str) -> None:
        row = parse_json(line.decode(errors="replace"), source=source)
        if not isinstance(row, dict) or not isinstance(row.get("arch_id"), str):
            raise InputError(f"{source} must be a table with an arch_id", got=line[:80])
        if all(row.get(name) == value for name, value in self.key.items()):
            self._rows[row["arch_id"]] = {name: row[name] for name in row if name not in (*self.key, "arch_id")}
