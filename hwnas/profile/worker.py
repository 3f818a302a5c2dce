"""Handle of a worker process that measures networks, replaced when a network breaks it. No torch on this side.

Networks are measured in a process of their own because compilers and drivers crash, hang and run out of memory in ways
that Python cannot catch. A crash then costs one network and not the campaign.
"""

import logging
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING

from hwnas.config import to_mapping
from hwnas.errors import InputError, Interrupted, UsageError
from hwnas.profile.child_process import ChildProcess, ProcessDied
from hwnas.profile.worker_messages import (
    MeasurementTask,
    ReferenceNetworkError,
    TaskResult,
    WorkerError,
    WorkerFacts,
)
from hwnas.records import Setting

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "hwnas.profile.worker_process")

_RETIRING_FAILURES = ("crash", "memory")
"""Failures after which a process is replaced though it is alive: a CUDA error, for instance, stays in its context and
makes whatever comes next fail too."""


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """Limits of a worker process: when it is killed, and when it is replaced as a precaution."""

    silence_s: float = 300.0
    """Time without any progress before the process is killed. A slow network that makes progress is left alone."""
    task_s: float = 3600.0
    """Time for one network, including the preparation of the reference network if that is due."""
    start_s: float = 180.0
    tasks: int = 100
    """Networks after which the process is replaced."""
    resident_mb: float = 6000.0
    """Memory beyond which the process is replaced."""

    def __post_init__(self) -> None:
        for name in ("silence_s", "task_s", "start_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError("a network's time limit must be a time above 0", got=f"{getattr(self, name):g} s")


class Worker:
    """One worker process at a time, started when it is needed.

    Use it from the thread that created it: the kernel kills the process when the thread that started it ends.

    Args:
        limits: Limits of the process.
        command: The command that starts it.
        gpu: UUID of the only GPU, or slice of one, that the process sees; None: those that this process sees.
    """

    def __init__(
        self, *, limits: WorkerLimits | None = None, command: Sequence[str] = COMMAND, gpu: str | None = None
    ) -> None:
        self._limits = limits or WorkerLimits()
        self._command = tuple(command)
        self._variables = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._starting = threading.Lock()
        self._interrupted = False
        self._process: ChildProcess | None = None
        self._num_tasks = 0

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> str | None:
        """Identifier of the running process; None if the next task will start one."""
        return None if self._process is None else self._process.process_id

    @property
    def pid(self) -> int | None:
        """Number that the system gave the running process; None if the next task will start one."""
        return None if self._process is None else self._process.pid

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return the facts that belong to the environment of a setting: versions, providers, switches.

        Raises:
            HwnasError: The runtime cannot be used in this setting, or the process cannot start.
        """
        process = self._running_process()
        try:
            start_s = self._limits.start_s
            answer = process.request({"facts": to_mapping(setting)}, limit_s=start_s, silence_s=start_s)
            if "error" in answer:
                raise process.parse(answer, "error", WorkerError).rebuilt()
            return process.parse(answer, "facts", WorkerFacts)
        except ProcessDied as death:
            self.close()
            raise InputError("the worker process must be able to start", got=death.failure.message) from death

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        """Measure one network.

        Args:
            task: The network and its setting.
            excluded_processes: Identifiers of processes that must not measure it: those that did so before.

        Returns:
            Samples, or the failure if something went wrong with this network.

        Raises:
            ReferenceNetworkError: The reference network does not run in this setting, so no network can be measured.
            HwnasError: The runtime cannot be used, or the process cannot start.
        """
        if self.process_id in excluded_processes:
            self.close()
        started, begin = datetime.now(timezone.utc).isoformat(timespec="milliseconds"), time.monotonic()
        try:
            return self._measure(task)
        except ProcessDied as death:
            return TaskResult(
                process_id=death.process_id,
                started_utc=started,
                duration_s=time.monotonic() - begin,
                failure=death.failure,
            )

    def interrupt(self) -> None:
        """Kill the process from another thread, for good: what it measures fails, and no other process is started."""
        with self._starting:
            self._interrupted = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process; the next task starts another one."""
        if self._process is not None:
            self._process.end()
            _log.info("worker process %d ended after %d networks", self._process.pid, self._num_tasks)
        self._process, self._num_tasks = None, 0

    def _measure(self, task: MeasurementTask) -> TaskResult:
        is_new = self._process is None
        try:
            return self._attempt(task)
        except ReferenceNetworkError as error:
            # In a process that was used before, earlier networks may have broken the context of the GPU, reference
            # networks of other batches take memory, and it may have been killed between two tasks.
            if is_new:
                raise
            _log.warning("the reference network failed in a used process, trying a new one: %s", error.got)
        return self._attempt(task)

    def _attempt(self, task: MeasurementTask) -> TaskResult:
        process, limits = self._running_process(), self._limits
        try:
            answer = process.request({"task": to_mapping(task)}, limit_s=limits.task_s, silence_s=limits.silence_s)
            if "error" in answer:
                error = process.parse(answer, "error", WorkerError)
                raise error.rebuilt() if error.failure is None else ReferenceNetworkError(task, error.failure)
            result = process.parse(answer, "result", TaskResult)
        except ReferenceNetworkError:
            self.close()
            raise
        except ProcessDied as death:
            self.close()
            if death.stage in ("", "reference"):  # it did not come to the network
                raise ReferenceNetworkError(task, death.failure) from death
            raise
        self._num_tasks += 1
        failed = result.failure is not None and result.failure.reason in _RETIRING_FAILURES
        resident_mb = answer.get("resident_mb")
        too_large = isinstance(resident_mb, (int, float)) and resident_mb > limits.resident_mb
        if failed or too_large or self._num_tasks >= limits.tasks:
            _log.debug("worker process retired: failed %s, %s MB resident", failed, resident_mb)
            self.close()
        return result

    def _running_process(self) -> ChildProcess:
        if self._process is None:
            with self._starting:
                if self._interrupted:
                    raise Interrupted("the worker must not start another process")
                self._process = ChildProcess(self._command, self._variables)
            try:
                self._process.await_ready(limit_s=self._limits.start_s)
            except ProcessDied as death:
                self.close()
                raise InputError("the worker process must be able to start", got=death.failure.message) from death
            _log.info("worker process %d started", self._process.pid)
        return self._process
