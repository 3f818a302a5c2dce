"""A worker process that measures networks, and is replaced when one of them breaks it. No torch on this side."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from hwnas import errors
from hwnas.config import to_mapping
from hwnas.errors import HwnasError, InputError, UsageError
from hwnas.profile.worker_logs import log_record, worker_environment
from hwnas.profile.worker_messages import MeasurementTask, TaskResult, WorkerFacts, parse_facts, parse_result
from hwnas.records import Failure, Reason, Setting

COMMAND = (sys.executable, "-m", "hwnas.profile.worker_process")
_TAIL_BYTES = 800
"""Of what a process printed last, for the message on its end."""


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """When a process is given up, and when it is replaced though nothing happened."""

    silence_s: float = 300.0
    """Without a run or a step done. A network that is slow and goes on is none of those that hang."""
    task_s: float = 3600.0
    """For one network in all, the reference network's preparation included where that is due."""
    start_s: float = 180.0
    tasks: int = 100
    resident_mb: float = 6000.0

    def __post_init__(self) -> None:
        for name in ("silence_s", "task_s", "start_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError("a network's time limit must be a time above 0", got=f"{getattr(self, name):g} s")


class Worker:
    """One worker process at a time, started when it is needed.

    It must be used by the thread that made it: the kernel ends the process with that thread.
    """

    def __init__(self, *, limits: WorkerLimits | None = None, command: Sequence[str] = COMMAND) -> None:
        self._limits = limits or WorkerLimits()
        self._command = tuple(command)
        self._process: _Process | None = None
        self._num_tasks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> str | None:
        """The name of the running process; None where the next task will start one."""
        return None if self._process is None else self._process.process_id

    def facts(self, setting: Setting) -> WorkerFacts:
        """What decides how fast networks run in a setting here; an error says what is missing."""
        process = self._running()
        try:
            start_s = self._limits.start_s
            answer = process.ask({"facts": to_mapping(setting)}, limit_s=start_s, silence_s=start_s)
        except _Gone as gone:
            self.close()
            raise InputError("the worker process must be able to start", got=gone.failure.message) from gone
        return parse_facts(answer["facts"])

    def measure(self, task: MeasurementTask, *, elsewhere_than: Collection[str] = ()) -> TaskResult:
        """Measure a network, in a process that is none of `elsewhere_than`.

        What goes wrong with the network is its outcome; what goes wrong with the reference network or the runtime is
        an error.
        """
        if self.process_id in elsewhere_than:
            self.close()
        started, begin = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        try:
            outcome = self._asked(task)
        except _Gone as gone:
            outcome = TaskResult(
                process_id=gone.process_id,
                started_utc=started,
                duration_s=time.monotonic() - begin,
                failure=gone.failure,
            )
        return outcome

    def close(self) -> None:
        """End the process; the next task starts another one."""
        if self._process is not None:
            self._process.end()
        self._process, self._num_tasks = None, 0

    def _asked(self, task: MeasurementTask) -> TaskResult:
        """What a process answers; one that ended before it came to the network is tried once more."""
        for _ in range(2):
            process = self._running()
            try:
                limits = self._limits
                answer = process.ask({"task": to_mapping(task)}, limit_s=limits.task_s, silence_s=limits.silence_s)
                break
            except _Gone as gone:
                self.close()
                if gone.stage not in ("", "reference"):
                    raise
                reason = gone.failure.message
        else:
            message = f"the reference network {task.reference.network_id} must run on {task.setting.runtime}"
            raise InputError(message, got=reason)
        outcome = parse_result(answer["outcome"])
        if outcome.failure is not None and outcome.failure.reason in _POISONING:
            self.close()
        else:
            self._retire_if_due(answer.get("resident_mb"))
        return outcome

    def _running(self) -> "_Process":
        if self._process is None:
            self._process = _Process(self._command, start_s=self._limits.start_s)
        return self._process

    def _retire_if_due(self, resident_mb: float | None) -> None:
        self._num_tasks += 1
        if self._num_tasks >= self._limits.tasks or (resident_mb or 0.0) > self._limits.resident_mb:
            self.close()


_POISONING = ("crash", "memory")
"""After these a process may live on and fail at whatever comes next: an error of CUDA stays in its context."""


class _Gone(Exception):  # noqa: N818 - a state and not an error
    """The process died or was given up, while it was at `stage`."""

    def __init__(self, failure: Failure, *, stage: str, process_id: str) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.stage = stage
        self.process_id = process_id


_ANSWERS = {"ready", "facts", "outcome", "error"}
"""What ends a request; other words are on the way to it."""


class _Deadline:
    """When a request is given up: after too long in all, or after too long without a word."""

    def __init__(self, *, limit_s: float, silence_s: float) -> None:
        self._limit_s, self._silence_s = limit_s, silence_s
        self._end_s = time.monotonic() + limit_s
        self._word_s = time.monotonic()

    def word(self) -> None:
        """Something was said."""
        self._word_s = time.monotonic()

    def left_s(self) -> float:
        """How long to wait from now on."""
        return max(0.0, min(self._end_s, self._word_s + self._silence_s) - time.monotonic())

    def passed(self) -> str:
        """Which of the two it was."""
        if self._end_s <= self._word_s + self._silence_s:
            return f"not done within {self._limit_s:g} s"
        return f"no progress within {self._silence_s:g} s"


class _Process:
    """A running process and the lines to and from it."""

    def __init__(self, command: Sequence[str], *, start_s: float) -> None:
        self.process_id = ""
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._printed_before = 0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            start_new_session=True,
            env=worker_environment(),
        )
        self.pid = self._process.pid
        self._buffer = b""
        self._stage = ""
        try:
            ready = self._receive(deadline=_Deadline(limit_s=start_s, silence_s=start_s))
            self.process_id = str(ready["ready"])
        except _Gone as gone:
            self.end()
            raise InputError("the worker process must be able to start", got=gone.failure.message) from gone

    def ask(self, request: Mapping[str, Any], *, limit_s: float, silence_s: float) -> dict[str, Any]:
        """The answer to a request; the stages on the way to it are remembered, and every word of it buys time."""
        self._stage = ""
        self._printed_before = os.fstat(self._printed.fileno()).st_size
        self._send(request)
        deadline = _Deadline(limit_s=limit_s, silence_s=silence_s)
        while not _ANSWERS & (answer := self._receive(deadline=deadline)).keys():
            self._stage = str(answer.get("stage", self._stage))
            deadline.word()
        if "error" in answer:
            raise _error(answer["error"])
        return answer

    def end(self) -> None:
        """Kill the process with all that it started, and wait for it."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log_rest()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            assert stream is not None
            _close(stream)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _receive(self, *, deadline: "_Deadline") -> dict[str, Any]:
        """The next message that is no log record; those are logged."""
        while "log" in (message := self._receive_any(deadline)):
            log_record(message["log"])
        return message

    def _receive_any(self, deadline: "_Deadline") -> dict[str, Any]:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([output], [], [], deadline.left_s())[0]:
                raise self._gone("timeout", f"{deadline.passed()} while at: {self._stage or 'start'}")
            chunk = os.read(output, 1 << 16)
            if not chunk:
                raise self._died()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _log_rest(self) -> None:
        """Log the records that a dead process had sent and nobody has read."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while select.select([output], [], [], 0.0)[0] and (chunk := os.read(output, 1 << 16)):
            self._buffer += chunk
        for line in self._buffer.split(b"\n")[:-1]:
            message = json.loads(line)
            if "log" in message:
                log_record(message["log"])

    def _died(self) -> _Gone:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        hint = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
        return self._gone("crash", f"the process {how}{hint} while at: {self._stage or 'start'}")

    def _gone(self, reason: Reason, message: str) -> _Gone:
        tail = self._tail()
        failure = Failure(reason=reason, message=f"{message}; {tail}" if tail else message)
        return _Gone(failure, stage=self._stage, process_id=self.process_id)

    def _tail(self) -> str:
        """The end of what the process printed since it was asked, on one line."""
        size = os.fstat(self._printed.fileno()).st_size
        data = os.pread(self._printed.fileno(), _TAIL_BYTES, max(self._printed_before, size - _TAIL_BYTES))
        return " ".join(data.decode("utf-8", errors="replace").split())


def _error(values: Mapping[str, Any]) -> HwnasError:
    """The error that the process raised, raised here."""
    kind = getattr(errors, values["kind"], InputError)
    found: HwnasError = kind(values["message"], got=values["got"], hint=values["hint"])
    return found


def _close(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # what was not yet sent to a process that is dead
        return
