"""A connection to the agent of a host: a process whose standard streams lead there, such as the system's ssh."""

import hashlib
import io
import logging
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from hwnas.config import from_mapping, shown
from hwnas.errors import HwnasError, InputError, MissingError
from hwnas.files import printable
from hwnas.profile.agent_code import agent_code
from hwnas.profile.remote.protocol import (
    HEARTBEAT_S,
    MARK,
    MAX_LINE_BYTES,
    PROTOCOL,
    Hello,
    Refusal,
    Welcome,
    parse_line,
    write_message,
)
from hwnas.profile.worker import WorkerLimits

_log = logging.getLogger(__name__)

_MAX_NOISE_BYTES = 1 << 16
"""Bytes that a login shell may print before the agent does."""

_TAIL_BYTES = 600
_END_S = 5.0
_NOTICE_S, _ENDED = 0.25, "it was ended"
"""Time in which a thread that waits for a host notices that the connection was ended."""
_LOCALE = {"LC_ALL": "C"}
"""ssh's messages are quoted in errors, in English as these are."""


class ConnectionLostError(Exception):
    """The agent no longer answers: the connection, the host or the agent is gone."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Times after which a host is taken to be gone."""

    start_s: float = 120.0
    """For the first line of the agent: a slow login, and its imports."""
    silence_s: float = 12 * HEARTBEAT_S
    """Without a line from the agent, which sends one every few seconds."""
    retry_s: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 60)
    """Waits before the attempts to connect again; the last one repeats."""
    give_up_s: float = 900.0
    """Time without a connection after which the host is given up."""
    answer_s: float = 600.0
    """For an answer of an agent that is there, in addition to the time in which it may measure."""


class HostProcess:
    """One connection: it ends for good with its process.

    Args:
        command: The command whose standard streams are those of the agent.
        hello: The campaign.
        send_code: The command starts the bootstrap, which takes the code first.
        host: Name of the host, for messages.
        limits: Times after which it is given up.
        is_ended: Returns True when waiting for it is of no use any more.
    """

    def __init__(
        self,
        command: Sequence[str],
        hello: Hello,
        *,
        send_code: bool,
        host: str,
        limits: ConnectionLimits,
        is_ended: Callable[[], bool],
    ) -> None:
        self._host, self._limits, self._is_ended, self._buffer = host, limits, is_ended, b""
        self._lock = threading.Lock()
        self.sent: set[str] = set()
        """Payloads that the agent has."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
                env={**os.environ, **_LOCALE},
            )
        except OSError as error:
            self._errors.close()
            hint = "install an OpenSSH client, or HWNAS_SSH=COMMAND"
            message = f"{printable(command[0])} must be able to start, to connect to {host}"
            raise MissingError(message, got=error.strerror or str(error), hint=hint) from error
        os.set_blocking(cast("BinaryIO", self._process.stdin).fileno(), False)
        try:
            self.welcome = self._begin(hello, send_code=send_code)
        except BaseException:
            if is_ended():
                self.kill()
            self.end()
            raise

    def request(
        self, values: Mapping[str, Any], payloads: Mapping[str, bytes] | None = None, *, limit_s: float
    ) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            ConnectionLostError: The agent no longer answers.
            InputError: The agent answers with something else than a message, or not in time.
        """
        self._send(values, payloads)
        end_s = time.monotonic() + limit_s
        while "alive" in (answer := self._receive(self._limits.silence_s)):
            if time.monotonic() > end_s:
                hint = "everything measured is kept; the same command resumes"
                raise InputError(f"{self._host} must answer within {limit_s:.0f} s", got="no answer", hint=hint)
        return answer

    def stop(self) -> None:
        """Ask the agent to end, and what it measures with it; from any thread."""
        with suppress(ConnectionLostError):
            self._send({"stop": True}, is_last=True)

    def end(self) -> None:
        """Close the streams, and end the process."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                cast("BinaryIO", stream).close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        if not self._errors.closed:
            self._errors.close()

    def kill(self) -> None:
        """Kill the process, from any thread."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _begin(self, hello: Hello, *, send_code: bool) -> Welcome:
        first: dict[str, Any] = vars(hello)
        code = agent_code() if send_code else b""
        if send_code:
            first = {"num_bytes": len(code), "sha256": hashlib.sha256(code).hexdigest(), "hello": first}
        self._marked_line()  # from then on, somebody reads what is sent
        self._send(first, code=code)
        return from_mapping(Welcome, self._marked_line().get("welcome"), where=f"{self._host}: welcome")

    def _marked_line(self) -> dict[str, Any]:
        """A line with which the agent begins, unless it refuses to."""
        values = self._first_line()
        if values.get(MARK) != PROTOCOL:
            message = f"{self._host}: the agent there must be of the same version of hwnas"
            raise InputError(message, got=shown(values.get(MARK)), known=[PROTOCOL])
        if "refused" in values:
            raise refused(self._host, from_mapping(Refusal, values["refused"], where=f"{self._host}: refused"))
        return values

    def _first_line(self) -> dict[str, Any]:
        """The next line with the mark of the agent, after whatever the login printed."""
        noise, end_s = 0, time.monotonic() + self._limits.start_s
        while not (line := self._read_line(max(0.0, end_s - time.monotonic()))).startswith(f'{{"{MARK}"'.encode()):
            if len(line) < 100 and line.startswith(b'{"alive"'):  # it waits for the machine
                end_s = time.monotonic() + self._limits.start_s
                continue
            noise += len(line)
            if noise > _MAX_NOISE_BYTES:
                raise InputError(f"{self._host} must start the agent", got=shown(line[:80].decode(errors="replace")))
        return parse_line(line, source=self._host)

    def _send(
        self,
        values: Mapping[str, Any],
        payloads: Mapping[str, bytes] | None = None,
        *,
        code: bytes = b"",
        is_last: bool = False,
    ) -> None:
        message = io.BytesIO()
        write_message(message, values, payloads)
        with self._lock:
            try:
                self._write(memoryview(message.getbuffer()), is_last=is_last)
                self._write(memoryview(code), is_last=is_last)
            except (OSError, ValueError) as error:
                raise ConnectionLostError(self._reason()) from error
        self.sent |= set(payloads or {})

    def _write(self, data: memoryview, *, is_last: bool) -> None:
        """Write bytes, of which some are taken now and then as long as the host is there."""
        descriptor = cast("BinaryIO", self._process.stdin).fileno()
        while data:
            if self._is_ended() and not is_last:
                raise ConnectionLostError(_ENDED)
            if not self._await(descriptor, select.POLLOUT, self._limits.silence_s):
                raise ConnectionLostError(f"it took nothing for {self._limits.silence_s:.0f} s")
            with suppress(BlockingIOError):
                data = data[os.write(descriptor, data[: 1 << 16]) :]

    def _await(self, descriptor: int, event: int, timeout_s: float) -> bool:
        """Wait until a stream is ready; return False if it is not in time.

        Raises:
            ConnectionLostError: The stream is not ready, and the connection was ended by another thread.
        """
        poller, end_s = select.poll(), time.monotonic() + timeout_s
        poller.register(descriptor, event)
        while not poller.poll(1000 * max(0.0, min(_NOTICE_S, end_s - time.monotonic()))):
            if self._is_ended():
                raise ConnectionLostError(_ENDED)
            if time.monotonic() >= end_s:
                return False
        return True

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        return parse_line(self._read_line(timeout_s), source=self._host)

    def _read_line(self, timeout_s: float) -> bytes:
        end_s, stream = time.monotonic() + timeout_s, cast("BinaryIO", self._process.stdout)
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise InputError(f"a line from {self._host} must have at most {MAX_LINE_BYTES} bytes")
            if not self._await(stream.fileno(), select.POLLIN, end_s - time.monotonic()):
                raise ConnectionLostError(f"nothing came from it for {timeout_s:.0f} s")
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                raise ConnectionLostError(self._reason())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _reason(self) -> str:
        """The end of what ssh, or the program there, said."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        said = printable(" ".join(data.decode("utf-8", errors="replace").split()), limit=_TAIL_BYTES)
        return said or f"the connection was closed (code {self._process.returncode})"


def refused(host: str, refusal: Refusal) -> HwnasError:
    """Return the error of an agent that cannot measure."""
    texts = {name: printable(str(text), limit=600) for name, text in vars(refusal).items() if text is not None}
    kinds = {"python": MissingError, "package": MissingError}
    kind = kinds.get(refusal.kind, InputError)
    return kind(f"{host}: {texts['message']}", got=texts.get("got"), hint=texts.get("hint"))


class HostConnection:
    """The agent of a host, connected again whenever the connection is lost.

    Args:
        command: The command whose standard streams are those of the agent.
        hello: The campaign.
        send_code: The command starts the bootstrap, which takes the code first.
        host: Name of the host, for messages.
        limits: Times after which it is given up.
        on_message: Called when a connection is lost and when there is one again.
        sleep: Waits; tests replace it.
        cancelled: Ends the waiting for the host while it is set.
    """

    def __init__(
        self,
        command: Sequence[str],
        hello: Hello,
        *,
        send_code: bool = True,
        host: str,
        limits: ConnectionLimits | None = None,
        on_message: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.host = host
        self._command, self._hello, self._send_code = tuple(command), hello, send_code
        self._limits, self._on_message = limits or ConnectionLimits(), on_message
        self._ended, self._cancelled = threading.Event(), cancelled or threading.Event()
        self._sleep = sleep or self._ended.wait
        self._lock = threading.RLock()
        self.problem: HwnasError | None = None
        """Why no more is measured there."""
        try:
            self._process: HostProcess | None = self._connect()
        except ConnectionLostError as error:
            hint = f"ssh {host} must log in without a question: keys, known_hosts and ~/.ssh/config are ssh's own"
            raise InputError(f"{host} must be reachable by ssh", got=str(error), hint=hint) from error
        self.welcome = self._process.welcome

    @property
    def is_open(self) -> bool:
        """True until the host is given up or the connection is ended."""
        return self._process is not None and not self._ended.is_set()

    def request(
        self,
        values: Mapping[str, Any],
        payloads: Mapping[str, bytes] | None = None,
        *,
        key: str | None = None,
        on_reconnect: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Send a request, again after each loss of the connection, and return its answer.

        Args:
            values: The request.
            payloads: Bytes that it needs, by SHA-256; those that the agent has are not sent again.
            key: Key of a measurement: its result is taken if the agent finished it after the connection was lost.
            on_reconnect: Called after each new connection, before the request is sent again.

        Raises:
            InputError: The host is gone, or it is another machine, system or version than before.
        """
        with self._lock:
            while True:
                try:
                    process = self._connected()
                    found = process.welcome.undelivered
                    if key is not None and found is not None and found.get("key") == key:
                        return dict(found)
                    missing = {name: data for name, data in (payloads or {}).items() if name not in process.sent}
                    request = values if key is None else {**values, "key": key}
                    return process.request(request, missing, limit_s=self._answer_s(measures=key is not None))
                except ConnectionLostError as error:
                    self._reconnect(error)
                    on_reconnect()
                except InputError:  # where the next request begins is unknown
                    self.interrupt()
                    raise

    def forget(self, names: Sequence[str]) -> None:
        """Note that the agent no longer has some payloads."""
        if self._process is not None:
            self._process.sent -= set(names)

    def interrupt(self) -> None:
        """End the connection for good, from any thread, and what is measured there with it."""
        self._ended.set()
        process = self._process
        if process is not None:
            process.stop()
            process.kill()

    def close(self) -> None:
        """End the agent and the connection."""
        self._ended.set()
        process, self._process = self._process, None
        if process is not None:
            process.stop()
            process.end()

    def _answer_s(self, *, measures: bool) -> float:
        """Time for an answer; a measurement is tried again in a new process if the reference network fails."""
        task_s = self._hello.limit_s or WorkerLimits().task_s
        return self._limits.answer_s + (2 * task_s if measures else 0)

    def _connect(self) -> HostProcess:
        return HostProcess(
            self._command,
            self._hello,
            send_code=self._send_code,
            host=self.host,
            limits=self._limits,
            is_ended=lambda: self._ended.is_set() or self._cancelled.is_set(),
        )

    def _connected(self) -> HostProcess:
        if self._process is None or not self.is_open:
            raise InputError(f"the connection to {self.host} must be open")
        return self._process

    def _reconnect(self, error: ConnectionLostError) -> None:
        """Connect again, with growing waits; what the host was must not have changed."""
        if self._ended.is_set():
            raise InputError(f"the connection to {self.host} was ended") from error
        if self._process is not None:
            self._process.kill()
            self._process.end()
            self._process = None
        self._on_message(f"{self.host}: the connection was lost ({error}); connecting again")
        begin, waits = time.monotonic(), list(self._limits.retry_s)
        while True:
            self._sleep(waits[0] if len(waits) == 1 else waits.pop(0))
            if self._ended.is_set():
                raise InputError(f"the connection to {self.host} was ended") from error
            try:
                self._process = self._connect()
                break
            except ConnectionLostError as again:
                if not self._ended.is_set() and time.monotonic() - begin > self._limits.give_up_s:
                    message = f"{self.host} is gone: no connection for {self._limits.give_up_s:.0f} s"
                    hint = "everything measured is kept; the same command resumes once the host is back"
                    raise InputError(message, got=str(again), hint=hint) from again
                _log.info("%s: no connection yet: %s", self.host, again)
        found = self._process.welcome
        if (found.machine, found.software) != (self.welcome.machine, self.welcome.software):
            message = f"{self.host} must stay the same machine, system and versions during a campaign"
            raise InputError(message, got="another one after the connection was lost", hint="run the command again")
        self._on_message(f"{self.host}: connected again")
