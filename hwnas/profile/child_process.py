"""A process that answers requests on a socket of its own, and what is known of it when it dies.

Messages are JSON, one document per line. Whatever the process prints goes to a file, whose end is quoted when it dies.
"""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hwnas.config import Settings, from_mapping, parse_json, shown
from hwnas.errors import InputError
from hwnas.profile.worker_logs import log_record, worker_environment
from hwnas.profile.worker_messages import CHANNEL_VARIABLE
from hwnas.records import Failure, Reason

_log = logging.getLogger(__name__)

_TAIL_BYTES = 800
"""Bytes of the process's last output that are quoted when it dies."""

_MAX_MESSAGE_BYTES = 1 << 24
"""Largest size of a message. A result takes about 1 kB."""

_EXIT_S = 5.0
"""Time for a process that closed its channel to end."""

_KILL_S = 30.0
"""Time for a killed process to end."""

_FINAL_ANSWERS = {"ready", "facts", "result", "error"}
"""Messages that complete a request; others report on its way."""


class ProcessDied(Exception):  # noqa: N818 - not an error to show, but a state to handle
    """The process ended by itself, or was given up, in the stage `stage`."""

    def __init__(self, failure: Failure, *, stage: str, process_id: str) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.stage = stage
        self.process_id = process_id


class _Deadline:
    """Deadline of a request: a time in total, and a time since the last message."""

    def __init__(self, *, limit_s: float, silence_s: float) -> None:
        self._limit_s, self._silence_s = limit_s, silence_s
        self._end_s = time.monotonic() + limit_s
        self._message_s = time.monotonic()

    def note_message(self) -> None:
        """Restart the time since the last message."""
        self._message_s = time.monotonic()

    def remaining_s(self) -> float:
        """Return the time to wait from now on."""
        return max(0.0, min(self._end_s, self._message_s + self._silence_s) - time.monotonic())

    def describe(self) -> str:
        """Name the time that runs out first."""
        if self._end_s <= self._message_s + self._silence_s:
            return f"not done within {self._limit_s:g} s"
        return f"no progress within {self._silence_s:g} s"


class ChildProcess:
    """A running worker process, and the messages to and from it.

    Messages have a socket of their own. Whatever the process prints goes to a file.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.process_id = ""
        self._buffer = b""
        self._stage = ""
        self._output_before = 0
        self._reaping = threading.Lock()
        try:
            self._start(command, variables)
        except OSError as error:  # no room for temporary files, or too many processes or open files
            raise InputError("the worker process must be able to start", got=error.strerror or error) from error

    def await_ready(self, *, limit_s: float) -> None:
        """Wait until it can take requests."""
        ready = self._receive(deadline=_Deadline(limit_s=limit_s, silence_s=limit_s))
        if not isinstance(ready.get("ready"), str):
            raise self._invalid_message(ready)
        self.process_id = ready["ready"]

    def kill(self) -> None:
        """Kill it with everything that it started, from any thread; the one that waits for its answer cleans up."""
        with self._reaping:
            self._kill_group()

    def _start(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        # A file and not a pipe: an unread pipe would block a chatty library once it is full.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._channel, inherited = socket.socketpair()
        with inherited:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(inherited.fileno(),),
                start_new_session=True,  # a process group of its own, so that compilers it started are killed with it
                env={**worker_environment(), **variables, CHANNEL_VARIABLE: str(inherited.fileno())},
            )
        self.pid = self._process.pid

    def request(self, message: Mapping[str, Any], *, limit_s: float, silence_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer, as long as messages arrive within `silence_s` and `limit_s`."""
        self._stage = ""
        self._output_before = os.fstat(self._output.fileno()).st_size
        self._send(message)
        deadline = _Deadline(limit_s=limit_s, silence_s=silence_s)
        while not _FINAL_ANSWERS & (answer := self._receive(deadline=deadline)).keys():
            self._stage = str(answer.get("stage", self._stage))
            deadline.note_message()
        return answer

    def parse(self, message: Mapping[str, object], name: str, kind: type[Settings]) -> Settings:
        """Convert a field of a message; a process that sends an invalid one is given up."""
        try:
            return from_mapping(kind, message.get(name), where=name)
        except InputError as error:
            raise self._invalid_message(message) from error

    def end(self) -> None:
        """Kill the process with everything that it started, and wait for it."""
        self._reap()
        self._log_rest()
        self._channel.close()
        self._output.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except ConnectionError as error:
            raise self._ended_by_itself() from error

    def _receive(self, *, deadline: _Deadline) -> dict[str, Any]:
        """The next message that is no log record; those are logged."""
        while "log" in (message := self._receive_any(deadline)):
            try:
                log_record(message["log"])
            except InputError as error:
                raise self._invalid_message(message) from error
        return message

    def _receive_any(self, deadline: _Deadline) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_MESSAGE_BYTES:
                raise self._invalid_message(self._buffer[:80])
            if not self._has_arrived(deadline.remaining_s()):
                raise self._death("timeout", f"{deadline.describe()} in stage: {self._stage or 'start'}")
            chunk = self._read_channel()
            if not chunk:
                raise self._ended_by_itself()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = _parse_message(line)
        if message is None:
            raise self._invalid_message(line[:80])
        return message

    def _has_arrived(self, timeout_s: float) -> bool:
        """Wait until something can be read."""
        poller = select.poll()  # unlike `select`, it takes descriptors above 1023
        poller.register(self._channel, select.POLLIN)
        return bool(poller.poll(1000 * timeout_s))

    def _read_channel(self) -> bytes:
        """Return the bytes that have arrived; none if the process closed the channel."""
        try:
            return self._channel.recv(1 << 16)
        except ConnectionError:  # it ended without reading the last request
            return b""

    def _log_rest(self) -> None:
        """Log the unread records of a process that ended."""
        while self._has_arrived(0.0) and (chunk := self._read_channel()):
            self._buffer += chunk
        for line in self._buffer.split(b"\n")[:-1]:
            with suppress(InputError):
                log_record((_parse_message(line) or {}).get("log"))

    def _ended_by_itself(self) -> ProcessDied:
        end = time.monotonic() + _EXIT_S
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > end:
                return self._death("crash", f"the process closed its channel in stage: {self._stage or 'start'}")
            time.sleep(0.01)
        code = self._reap()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        hint = " (which the system does when memory runs out)" if code == -signal.SIGKILL else ""
        return self._death("crash", f"the process {how}{hint} in stage: {self._stage or 'start'}")

    def _reap(self) -> int:
        """Kill what is left of the process group, and return the exit code of the process."""
        with self._reaping:
            self._kill_group()
            try:
                return self._process.wait(_KILL_S)
            except subprocess.TimeoutExpired:  # it waits in the driver of a device that no longer answers
                _log.warning("worker process %d cannot be killed and is left behind", self.pid)
                return -signal.SIGKILL

    def _kill_group(self) -> None:
        # While the process is not waited for, its number cannot be that of another group.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _invalid_message(self, message: object) -> ProcessDied:
        got = shown(message.decode("utf-8", errors="replace") if isinstance(message, bytes) else message)
        return self._death("crash", f"the process sent an invalid message in stage: {self._stage or 'start'}: {got}")

    def _death(self, reason: Reason, message: str) -> ProcessDied:
        tail = self._output_tail()
        failure = Failure(reason=reason, message=f"{message}; {tail}" if tail else message)
        return ProcessDied(failure, stage=self._stage, process_id=self.process_id)

    def _output_tail(self) -> str:
        """The end of what the process printed since the request, on one line."""
        size = os.fstat(self._output.fileno()).st_size
        data = os.pread(self._output.fileno(), _TAIL_BYTES, max(self._output_before, size - _TAIL_BYTES))
        return " ".join(data.decode("utf-8", errors="replace").split())


def _parse_message(line: bytes) -> dict[str, Any] | None:
    """A message; None if a line is none."""
    try:
        message = parse_json(line.decode("utf-8"), source="a message")
    except (InputError, UnicodeDecodeError):
        return None
    return message if isinstance(message, dict) else None


def _signal_name(number: int) -> str:
    """The name of a signal; most of the real-time ones have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
