"""The program of a worker process: tasks arrive on standard input, results leave on standard output, one JSON per line.

    python -m hwnas.profile.worker_process

Anything else that is printed, by libraries too, goes to standard error, whose end is quoted if the process dies.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from hwnas.config import from_mapping, parse_json, to_mapping
from hwnas.errors import HwnasError
from hwnas.extensions import load_extensions
from hwnas.profile.worker_logs import send_records

if TYPE_CHECKING:
    from hwnas.profile.network_timer import NetworkTimer

_PR_SET_PDEATHSIG = 1

_HEARTBEAT_S = 1.0
"""Shortest time between two heartbeats."""


def main() -> None:
    """Answer requests until standard input ends."""
    _die_with_parent()
    answers = _take_standard_output()

    def send(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")  # in one write, because other threads may log meanwhile
        answers.flush()

    import torch

    from hwnas.profile.network_timer import NetworkTimer

    send_records(send)
    load_extensions()
    timer = NetworkTimer(on_stage=lambda stage: send(stage=stage), on_progress=Heartbeat(lambda: send(alive=True)))
    torch.set_num_threads(1)
    send(ready=timer.process_id)
    for line in sys.stdin:
        _answer(timer, parse_json(line, source="a request"), send)
    timer.close()


class Heartbeat:
    """Reports progress at most once per interval, because sending a message takes time as well."""

    def __init__(self, send: Callable[[], None], *, interval_s: float = _HEARTBEAT_S) -> None:
        self._send, self._interval_s = send, interval_s
        self._sent_s = time.monotonic()

    def __call__(self) -> None:
        """Note that some work was done."""
        now_s = time.monotonic()
        if now_s - self._sent_s >= self._interval_s:
            self._sent_s = now_s
            self._send()


def _answer(timer: "NetworkTimer", request: Any, send: Callable[..., None]) -> None:
    from hwnas.devices.memory import resident_mb
    from hwnas.profile.worker_messages import MeasurementTask
    from hwnas.records import Setting

    try:
        if "facts" in request:
            facts = timer.facts(from_mapping(Setting, request["facts"], where="setting"))
            send(facts=to_mapping(facts))
        else:
            result = timer.measure(from_mapping(MeasurementTask, request["task"], where="task"))
            send(result=to_mapping(result), resident_mb=resident_mb())
    except HwnasError as error:
        got = None if error.got is None else str(error.got)
        send(error={"kind": type(error).__name__, "message": error.message, "got": got, "hint": error.hint})


def _take_standard_output() -> TextIO:
    """Return a stream to standard output, and send everything else that is printed to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also catches what C libraries print, past Python's sys.stdout
    return answers


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the campaign dies, even in the middle of a run."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # without prctl, it ends after the run, with standard input
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
