"""The worker process itself: tasks come as lines on standard input, answers go out as lines on standard output.

    python -m hwnas.profile.worker_process

Whatever else is printed, by libraries too, goes to standard error, which the other side keeps for its messages.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from hwnas.config import parse_json, to_mapping
from hwnas.errors import HwnasError
from hwnas.extensions import load_extensions
from hwnas.profile.worker_logs import send_records

_PR_SET_PDEATHSIG = 1

_PULSE_S = 1.0
"""Between two signs of life at the least."""


def main() -> None:
    """Answer until standard input ends."""
    _die_with_parent()
    answers = _own_standard_output()

    def say(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")  # at once: other threads may log meanwhile
        answers.flush()

    from hwnas.profile.network_timer import NetworkTimer

    send_records(say)
    load_extensions()
    bench = NetworkTimer(stage=lambda stage: say(stage=stage), progress=Pulse(lambda: say(alive=True)))
    _single_threaded()
    say(ready=bench.process_id)
    for line in sys.stdin:
        _answer(bench, parse_json(line, source="a request"), say)
    bench.close()


class Pulse:
    """Says that work goes on, whenever a piece of it is done, and at most once in `every_s`: a word costs time too."""

    def __init__(self, say: Callable[[], None], *, every_s: float = _PULSE_S) -> None:
        self._say, self._every_s = say, every_s
        self._said_s = time.monotonic()

    def __call__(self) -> None:
        """Another piece is done."""
        now_s = time.monotonic()
        if now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            self._say()


def _answer(bench: Any, request: Any, say: Callable[..., None]) -> None:
    from hwnas.devices.memory import resident_mb
    from hwnas.profile.worker_messages import parse_setting, parse_task

    try:
        if "facts" in request:
            say(facts=to_mapping(bench.facts(parse_setting(request["facts"]))))
        else:
            outcome = bench.measure(parse_task(request["task"]))
            say(outcome=to_mapping(outcome), resident_mb=resident_mb())
    except HwnasError as error:
        say(error=_error_values(error))


def _error_values(error: HwnasError) -> Mapping[str, Any]:
    got = None if error.got is None else str(error.got)
    return {"kind": type(error).__name__, "message": error.message, "got": got, "hint": error.hint}


def _own_standard_output() -> TextIO:
    """The stream that answers go to; from now on everything else that is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)


def _die_with_parent() -> None:
    """Let the kernel end this process when the other side is killed, in the middle of a run too."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # without it, the end of standard input ends it after the run
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
