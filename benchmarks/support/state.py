"""Lines of a table that are kept while a benchmark goes on, so that a stopped one goes on where it was."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.saving import Line
from hwnas.config import load_json
from hwnas.files import write_atomic

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class State:
    """A folder of finished lines; without a folder nothing is kept."""

    folder: Path | None
    code: str = ""
    """What the lines depend on beside their settings: `digest_of_code`."""

    def lines(self, name: str, settings: dict[str, Any], make: Callable[[], Sequence[Line]]) -> list[Line]:
        """The lines that the folder holds for these settings and this code, else those that are made now."""
        if self.folder is None:
            return list(make())
        path = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
        wanted = json.loads(json.dumps({**settings, "code": self.code}))
        if path.exists():
            known: Any = load_json(path)
            if known["settings"] == wanted:
                return [tuple(line) for line in known["lines"]]
        found = list(make())
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"settings": wanted, "lines": found}, indent=1) + "\n")
        return found


def digest_of_code(*folders: str) -> str:
    """A digest of all Python files under some folders of the checkout."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def digest_of_arrays(*arrays: np.ndarray[Any, Any]) -> str:
    """A digest of some numbers."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
