"""Parts of a benchmark that goes on where an earlier call ended."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwnas.config import load_json
from hwnas.devices import detect
from hwnas.errors import InputError
from hwnas.files import write_atomic


class Parts:
    """Results of finished parts, in a file.

    Args:
        path: The file; another benchmark's, or one of other settings, is refused.
        settings: Settings that all parts share.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self.state: dict[str, Any] = {"settings": settings, "done": {}}
        if path.exists():
            known: Any = load_json(path)
            if known["settings"] != settings:
                message = f"{path} must be of the same benchmark"
                raise InputError(message, got="other settings", hint="another --state")
            self.state = known

    @property
    def done(self) -> dict[str, dict[str, Any]]:
        """The results of finished parts."""
        finished: dict[str, dict[str, Any]] = self.state["done"]
        return finished

    def part(self, key: str, make: Callable[[], dict[str, Any]], *, until: float) -> bool:
        """Do a part that is not finished, and return True; False if there is no time to begin it."""
        if key in self.done:
            return True
        if time.monotonic() >= until:
            return False
        began = time.process_time()
        found = make()
        self.done[key] = {**found, "seconds": round(time.process_time() - began, 1), "cpu": detect().cpu.slug}
        write_atomic(self._path, json.dumps(self.state, indent=1) + "\n")
        brief = {name: value for name, value in found.items() if isinstance(value, (float, int))}
        print(f"{time.strftime('%H:%M')} {key}: {self.done[key]['seconds']} CPU s {brief}", file=sys.stderr, flush=True)
        return True
