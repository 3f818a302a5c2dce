"""The program of a worker process: it answers requests on a socket that it inherits, one JSON document per line.

    HWNAS_WORKER_CHANNEL=DESCRIPTOR python -m hwnas.profile.worker_process [--given-graphs]

With the option, all networks come as graphs that were made elsewhere, and torch is not imported.

What it prints is not part of the protocol. The campaign collects it, and quotes the end of it if the process dies.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwnas.config import from_mapping, parse_json, to_mapping
from hwnas.devices.thread_waits import wait_by_default
from hwnas.errors import HwnasError
from hwnas.extensions import load_extensions
from hwnas.profile.worker_logs import send_records
from hwnas.profile.worker_messages import CHANNEL_VARIABLE

if TYPE_CHECKING:
    from hwnas.profile.network_timer import NetworkTimer

GIVEN_GRAPHS = "--given-graphs"
"""Option of the program: all networks come as graphs."""

_PR_SET_PDEATHSIG = 1

_HEARTBEAT_S = 1.0
"""Shortest time between two heartbeats."""


def main() -> None:
    """Answer requests until the campaign closes the channel."""
    die_with_parent()
    channel = open_channel()
    send = message_sender(channel)

    wait_by_default()
    given_graphs = GIVEN_GRAPHS in sys.argv[1:]
    if not given_graphs:
        import torch  # first, so that its libraries are loaded before those of others
    from hwnas.profile.network_timer import NetworkTimer
    from hwnas.profile.runners.runner import report_progress

    send_records(send)
    load_extensions()
    heartbeat = Heartbeat(lambda: send(alive=True))
    timer = NetworkTimer(given_graphs=given_graphs, on_stage=lambda stage: send(stage=stage), on_progress=heartbeat)
    if not given_graphs:
        torch.set_num_threads(1)
    send(ready=timer.process_id)
    with report_progress(heartbeat), channel.makefile("r", encoding="utf-8") as requests:
        for line in requests:
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
    from hwnas.profile.worker_messages import MeasurementTask, WorkerError
    from hwnas.records import Setting

    try:
        if "facts" in request:
            facts = timer.facts(from_mapping(Setting, request["facts"], where="setting"))
            send(facts=to_mapping(facts))
        else:
            result = timer.measure(from_mapping(MeasurementTask, request["task"], where="task"))
            send(result=to_mapping(result), resident_mb=resident_mb())
    except HwnasError as error:
        send(error=to_mapping(WorkerError.of(error)))


def message_sender(channel: socket.socket) -> Callable[..., None]:
    """Return a function that sends its named values as one line of JSON; any thread may call it."""
    lock = threading.Lock()

    def send(**values: Any) -> None:
        with lock:  # other threads may log meanwhile
            channel.sendall(json.dumps(values).encode() + b"\n")

    return send


def open_channel() -> socket.socket:
    """Return the inherited socket, which programs that this process starts do not inherit in turn."""
    number = os.environ.pop(CHANNEL_VARIABLE, "")
    if not number.isdecimal():
        raise SystemExit("a worker process is started by a command of hwnas, which gives it a channel")
    os.set_inheritable(int(number), False)
    return socket.socket(fileno=int(number))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the campaign dies, even in the middle of a run."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # without prctl, it ends after the run, with the channel
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
