"""The program that measures on another machine: it answers requests on its standard input, until that ends.

It imports Python 3.10's standard library, numpy and the runtime that is measured; torch only for torch's own runtimes.
Networks are timed by worker processes, as in a campaign here, so that a crash costs one network and not the agent.
"""

import contextlib
import fcntl
import json
import os
import queue
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, cast

from hwnas.config import from_mapping, to_mapping
from hwnas.data_paths import cache_folder
from hwnas.devices import detect
from hwnas.errors import HwnasError, InputError
from hwnas.files import storage_failed, write_atomic
from hwnas.metrics import Deployment
from hwnas.profile.agent_code import code_digest
from hwnas.profile.remote.protocol import (
    HEARTBEAT_S,
    MARK,
    PROTOCOL,
    Hello,
    Message,
    Refusal,
    Welcome,
    read_message,
    write_message,
)
from hwnas.profile.runners.runner import AVAILABLE, Availability, Runner, load_runner
from hwnas.profile.worker import COMMAND, Worker, WorkerLimits
from hwnas.profile.worker_messages import GraphFiles, MeasurementTask, WorkerError
from hwnas.profile.worker_process import GIVEN_GRAPHS
from hwnas.records import Setting
from hwnas.runs import environment

_TAKEOVER_S = 20.0
"""Time for an agent that is idle to end, when another one needs the machine."""

_MEASURING_S = 3600.0
"""Time for an earlier agent of the same campaign to finish its network."""

_STOP, _SLOTS, _DIGITS = "stop", 4, set("0123456789abcdef")

_Use = tuple[str | None, Deployment]


class RefusedError(Exception):
    """The agent cannot measure."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def main(hello: Mapping[str, Any] | None = None) -> None:
    """Answer the requests on the standard input.

    Args:
        hello: First line of the campaign, if it was read already.
    """
    requests = _without_stdin()
    # Libraries print to the standard output at any time: the messages get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(answers)
    try:
        if hello is None:
            channel.send({MARK: PROTOCOL, "ready": True})
            hello = _first_line(requests)
        _serve(_checked(hello), requests, channel)
    except RefusedError as refused:
        channel.send({MARK: PROTOCOL, "refused": to_mapping(refused.refusal)})
    except HwnasError as error:
        got = None if error.got is None else str(error.got)
        kind = "storage" if storage_failed(error) else "package"
        refusal = Refusal(kind=kind, message=error.message, got=got, hint=error.hint)
        channel.send({MARK: PROTOCOL, "refused": to_mapping(refusal)})


def _without_stdin() -> BinaryIO:
    """Take the standard input from everything else in this process.

    A process that a library forks closes the standard input first, and waits for ever if it is being read.
    """
    requests = cast("BinaryIO", cast("TextIOWrapper", sys.stdin).detach())
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - it lives as long as this process
    return requests


class Channel:
    """Sends lines to the campaign, one at a time; a connection that is lost is noted and not an error.

    Args:
        file: The stream.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock, self.is_open = file, threading.Lock(), True

    def send(self, values: Mapping[str, Any]) -> bool:
        """Send a line; return False if the stream is closed."""
        with self._lock:
            try:
                if self.is_open:
                    write_message(self._file, values)
            except (OSError, ValueError):
                self.is_open = False
        return self.is_open

    def keep_alive(self, ended: threading.Event) -> None:
        """Send a line every few seconds, until an event."""
        while not ended.wait(HEARTBEAT_S) and self.send({"alive": True}):
            pass


def _first_line(requests: BinaryIO) -> Mapping[str, Any]:
    message = read_message(requests, source="the campaign")
    if message is None:
        raise InputError("an agent must be started by a campaign", hint="hwnas profile --on HOST")
    return message.values


def _checked(values: Mapping[str, Any]) -> Hello:
    protocol, code = values.get("protocol"), values.get("code")
    if (protocol, code) != (PROTOCOL, code_digest()):
        version = import_module("hwnas").__version__
        message = f"another version of hwnas is installed there: {version}, code {code_digest()[:12]}"
        hint = "install the same version there, or let the code be sent: without agent = 'installed'"
        got = f"code {str(code)[:12]} here" if protocol == PROTOCOL else f"{str(protocol)[:40]} here, {PROTOCOL} there"
        raise RefusedError(Refusal(kind="version", message=message, got=got, hint=hint))
    hello = from_mapping(Hello, values, where="hello")
    if not hello.campaign or set(hello.campaign) - _DIGITS or len(hello.campaign) > 64:
        raise InputError("a campaign must have an identifier of hexadecimal digits", got=ascii(hello.campaign)[:80])
    return hello


def _serve(hello: Hello, requests: BinaryIO, channel: Channel) -> None:
    # Machines may share a home directory.
    machine = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "here"
    folder, ended = cache_folder() / "agent" / machine, threading.Event()
    threading.Thread(target=channel.keep_alive, args=(ended,), daemon=True).start()
    with HostLock(folder, hello, wait=lambda: channel.is_open), _spool(folder) as spool:
        last = LastAnswer(folder / f"last-{hello.campaign}.json")
        welcome = Welcome(
            protocol=PROTOCOL,
            code=code_digest(),
            hwnas=str(import_module("hwnas").__version__),
            machine=detect(),
            software=environment(),
            undelivered=last.read(),
        )
        channel.send({MARK: PROTOCOL, "welcome": to_mapping(welcome)})
        limits = WorkerLimits() if hello.limit_s is None else WorkerLimits(task_s=hello.limit_s)
        agent = Agent(spool, channel, last, limits=limits)
        try:
            agent.run(requests)
        finally:
            agent.close()
            ended.set()


@contextlib.contextmanager
def _spool(folder: Path) -> Any:
    """A folder for payloads; those of killed agents are removed, as the host is locked."""
    for left in folder.glob("spool-*"):
        shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix="spool-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class LastAnswer:
    """The last result of a campaign, on the disk before it is sent: a connection may be lost while it is measured."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, Any] | None:
        """Return the result, with the key of its request."""
        with contextlib.suppress(OSError, ValueError):
            values: Mapping[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            return values
        return None

    def write(self, answer: Mapping[str, Any]) -> None:
        """Keep a result; without room for it, it is sent alone."""
        with contextlib.suppress(HwnasError):
            write_atomic(self._path, json.dumps(answer))

    def remove(self) -> None:
        """Forget the result, as it was delivered."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class HostLock:
    """The right of one campaign to measure on this machine.

    An earlier agent of the same campaign, whose connection was lost, is asked to end and finishes its network first.

    Args:
        folder: Folder of the lock.
        hello: The campaign.
        wait: Returns False when waiting is of no use any more.
    """

    def __init__(self, folder: Path, hello: Hello, *, wait: Callable[[], bool] = lambda: True) -> None:
        self._folder, self._hello, self._wait = folder, hello, wait
        self._file = -1

    def __enter__(self) -> "HostLock":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._folder / "host.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _no_room(self._folder, error) from error
        begin, asked = time.monotonic(), False
        while not self._try():
            holder = self._holder()
            own = holder.get("campaign") == self._hello.campaign
            if own and not asked:
                asked = True
                with contextlib.suppress(OSError, TypeError, ValueError):
                    os.kill(int(holder["pid"]), signal.SIGTERM)
            waited = time.monotonic() - begin
            if waited > (_MEASURING_S if own else _TAKEOVER_S) or not self._wait():
                since, owner = (str(holder.get(name, "unknown"))[:80] for name in ("since", "owner"))
                got = f"one of {owner} since {since}"
                message = "another campaign measures there"
                raise RefusedError(Refusal(kind="busy", message=message, got=got, hint="wait until it has ended"))
            time.sleep(0.2)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        values = {"campaign": self._hello.campaign, "owner": self._hello.owner, "pid": os.getpid(), "since": since}
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(values).encode(), 0)
        except OSError as error:
            raise _no_room(self._folder, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        # A process that a library forked, and that is still there, has the file as well.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(os.pread(self._file, 4096, 0))
            if isinstance(values, dict):
                return values
        return {}


def _no_room(folder: Path, error: OSError) -> RefusedError:
    hint = "free some space there, or HWNAS_CACHE=DIR there for another folder"
    message, got = f"{folder} cannot be written there", error.strerror or str(error)
    return RefusedError(Refusal(kind="storage", message=message, got=got, hint=hint))


class Agent:
    """Answers the requests of one connection.

    Args:
        spool: Folder for payloads.
        channel: Where answers go.
        last: Keeps the last result.
        limits: Limits of worker processes.
    """

    def __init__(self, spool: Path, channel: Channel, last: LastAnswer, *, limits: WorkerLimits | None = None) -> None:
        self._spool, self._channel, self._last = spool, channel, last
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._workers: dict[int, tuple[_Use, Worker]] = {}
        self._limits = limits or WorkerLimits()
        self._stopping = threading.Event()

    def run(self, requests: BinaryIO) -> None:
        """Answer requests until the stream ends, or until the campaign says so."""
        signal.signal(signal.SIGTERM, lambda number, frame: self._end_soon())
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while not self._stopping.is_set() and (message := self._inbox.get()) is not None:
            try:
                answer = self._answer(message)
            except HwnasError as error:
                answer = {"error": to_mapping(WorkerError.of(error))}
            except OSError as error:
                failed = _no_room(self._spool, error).refusal
                answer = {
                    "error": to_mapping(WorkerError.of(InputError(failed.message, got=failed.got, hint=failed.hint)))
                }
            self._channel.send(answer)

    def close(self) -> None:
        """End the workers."""
        for _, worker in self._workers.values():
            worker.close()

    def _end_soon(self) -> None:
        self._stopping.set()
        self._inbox.put(None)

    def _read(self, requests: BinaryIO) -> None:
        """Queue requests. In a thread of its own, so that a campaign can stop a measurement."""
        try:
            while (message := read_message(requests, source="the campaign")) is not None:
                if _STOP in message.values:
                    self._last.remove()
                    self._stopping.set()
                    for _, worker in list(self._workers.values()):
                        worker.interrupt()
                    break
                self._inbox.put(message)
        except (HwnasError, OSError, ValueError):
            pass  # what is no message ends the connection
        self._inbox.put(None)

    def _answer(self, message: Message) -> Mapping[str, Any]:
        values = message.values
        if "payload" in values:
            for name, data in message.payloads.items():
                self._path(name).write_bytes(data)
            return {"done": True}
        if "runtime" in values:
            return {"availability": to_mapping(_availability(values))}
        slot, gpu = values.get("slot"), values.get("gpu")
        if not isinstance(slot, int) or not 0 <= slot < _SLOTS or not isinstance(gpu, (str, type(None))):
            raise InputError("a request must name a worker", got=ascii(slot)[:40])
        if "facts" in values:
            setting = from_mapping(Setting, values["facts"], where="facts")
            return {"facts": to_mapping(self._worker(slot, gpu, setting).facts(setting))}
        return self._measure(message, slot, gpu)

    def _measure(self, message: Message, slot: int, gpu: str | None) -> Mapping[str, Any]:
        values, key = message.values, str(message.values.get("key"))
        task = from_mapping(MeasurementTask, values.get("task"), where="task")
        for name, data in message.payloads.items():
            self._path(name).write_bytes(data)
        task = replace(
            task, graph_files=self._files(task.graph_files), reference_files=self._files(task.reference_files)
        )
        excluded = [str(item) for item in values.get("excluded", [])]
        try:
            result = self._worker(slot, gpu, task.setting).measure(task, excluded_processes=excluded)
        finally:
            for name in values.get("forget", []):
                self._path(str(name)).unlink(missing_ok=True)
        answer = {"key": key, "result": to_mapping(result)}
        self._last.write(answer)
        return answer

    def _worker(self, slot: int, gpu: str | None, setting: Setting) -> Worker:
        """The worker of a slot, for one GPU and one runtime and precision, as those of a campaign here are."""
        use = (gpu, replace(setting.deployment, batch=None))
        before, worker = self._workers.get(slot, (None, None))
        if worker is None or before != use:
            if worker is not None:
                worker.close()
            command = COMMAND if needs_torch(setting) else (*COMMAND, GIVEN_GRAPHS)
            worker = Worker(limits=self._limits, command=command, gpu=gpu)
            self._workers[slot] = use, worker
            if self._stopping.is_set():  # the campaign said so before this worker was there
                worker.interrupt()
        return worker

    def _files(self, files: GraphFiles | None) -> GraphFiles | None:
        """The same files by their paths here."""
        if files is None:
            return None
        graph, images, expected = (str(self._path(name)) for name in (files.graph, files.images, files.expected))
        return replace(files, graph=graph, images=images, expected=expected)

    def _path(self, name: str) -> Path:
        if len(name) != 64 or set(name) - _DIGITS:
            raise InputError("a payload must be named by its SHA-256", got=ascii(name)[:80])
        return self._spool / name


def needs_torch(setting: Setting) -> bool:
    """Return True if networks are built where they are measured, and not sent as graphs."""
    return setting.runtime.startswith("torch")


def _availability(values: Mapping[str, Any]) -> Availability:
    """The availability of a runtime on a device, or in a setting."""
    name = str(values["runtime"])
    try:
        runner: Runner = load_runner(name)
        if "setting" in values:
            return runner.supports(from_mapping(Setting, values["setting"], where="setting"))
        wanted = str(values.get("device"))
        device = next((item for item in detect().devices if item.name == wanted), None)
        if device is None:
            return Availability(available=False, reason=f"{wanted} is not in that machine")
        found = runner.available(device)
        if found.available and name.startswith("torch"):
            import_module("timm")
        return found if not found.available else AVAILABLE
    except ImportError as error:  # a runtime that needs torch, where there is none
        return Availability(available=False, reason=f"{name} needs {error.name}, which is not installed there")
