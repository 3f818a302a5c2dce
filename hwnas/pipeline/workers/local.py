"""Workers that are processes of this machine, each started when it is first needed."""

import logging
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hwnas.config import to_mapping
from hwnas.errors import Interrupted
from hwnas.pipeline.workers.executor import Answer, SameFacts, WorkerLostError
from hwnas.pipeline.workers.messages import EvaluationTask
from hwnas.profile.child_process import ChildProcess, ProcessDied

_log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "hwnas.pipeline.workers.process")

_START_S = 600.0
"""Time for a process to import torch, and another time for it to open its task."""

_SILENCE_S = 3600.0
"""Time without any progress before a process is killed; it reports after each batch of images."""

_BATCH_S = 7 * 24 * 3600.0


class LocalWorkers:
    """Processes of this machine.

    Args:
        task: What they open.
        count: The largest number of them.
        gpus: UUIDs of the GPUs that they take in turn; none on a CPU.
        command: The command that starts one.
    """

    def __init__(
        self, task: EvaluationTask, *, count: int, gpus: Sequence[str] = (), command: Sequence[str] = COMMAND
    ) -> None:
        facts = SameFacts()
        self._workers = [
            _LocalWorker(task, facts, gpu=gpus[number % len(gpus)] if gpus else None, command=tuple(command))
            for number in range(count)
        ]
        self._busy: dict[Future[Any], _LocalWorker] = {}

    @property
    def pids(self) -> tuple[int, ...]:
        """Numbers of the running processes."""
        return tuple(pid for worker in self._workers if (pid := worker.pid) is not None)

    def submit(self, request: Mapping[str, Any], *, waiting: int) -> "Future[Any] | None":
        """Send a request to a worker that is free, the first of them first."""
        busy = list(self._busy.values())
        free = next((worker for worker in self._workers if worker not in busy), None)
        if free is None:
            return None
        future = free.submit(request)
        self._busy[future] = free
        return future

    def starting(self) -> "Collection[Future[Any]]":
        """Return nothing: a process starts with its first request."""
        return ()

    def answer(self, future: "Future[Any]") -> Answer:
        """Return the answer to a request that is done, which makes its worker free."""
        del self._busy[future]
        answer: Answer = future.result()
        return answer

    def close(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.interrupt()
        for worker in self._workers:
            worker.close()


class _LocalWorker:
    """One process at a time, with a thread of its own: the kernel kills processes whose thread has ended."""

    def __init__(self, task: EvaluationTask, facts: SameFacts, *, gpu: str | None, command: tuple[str, ...]) -> None:
        self._task, self._facts, self._command = task, facts, command
        self._variables = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._starting, self._interrupted = threading.Lock(), False
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def submit(self, request: Mapping[str, Any]) -> "Future[Answer]":
        return self._thread.submit(self._answer, request)

    def interrupt(self) -> None:
        """Kill the process from another thread, for good."""
        with self._starting:
            self._interrupted = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Wait for the thread, which an interrupt has freed, and for the process."""
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _answer(self, request: Mapping[str, Any]) -> Answer:
        process = self._process or self._start()
        try:
            return process.request(request, limit_s=_BATCH_S, silence_s=_SILENCE_S)
        except ProcessDied as death:
            self._end()
            raise WorkerLostError(death.failure.message) from death

    def _start(self) -> ChildProcess:
        with self._starting:
            if self._interrupted:
                raise Interrupted("the worker must not start another process")
            process = self._process = ChildProcess(self._command, self._variables)
        try:
            process.await_ready(limit_s=_START_S)
            self._facts.require(process.request({"open": to_mapping(self._task)}, limit_s=_START_S, silence_s=_START_S))
        except ProcessDied as death:
            self._end()
            raise WorkerLostError(death.failure.message, started=False) from death
        _log.info("worker process %d evaluates networks", process.pid)
        return process

    def _end(self) -> None:
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            process.end()
