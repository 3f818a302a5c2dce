"""Worker processes of a campaign: a pair for each GPU, at work side by side."""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from hwnas.errors import InputError, Interrupted
from hwnas.profile.worker_messages import MeasurementTask, TaskResult, WorkerFacts
from hwnas.records import Setting

Result = TypeVar("Result")


class Measurer(Protocol):
    """A process that measures one task at a time."""

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        """Measure one network, in a process that is not in `excluded_processes`."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return facts about the process and its runtime that belong to the environment of a setting."""

    def interrupt(self) -> None:
        """Kill the process from another thread, for good."""

    def close(self) -> None:
        """End the process."""


class WorkerPair:
    """Two workers: one for first measurements, one for repeats.

    A network that is measured twice is measured in two processes, because the placement of its memory, which differs
    from process to process, is part of the noise. With one process for each purpose, neither has to be restarted for
    every repeat. Each is started when it is first needed.

    Args:
        start: Starts a worker.
        gpu: UUID of the GPU on which the workers measure; None for those of a CPU.
        host: Name of the machine on which they measure; None: this one.
    """

    def __init__(self, start: Callable[[], Measurer], *, gpu: str | None = None, host: str | None = None) -> None:
        self.gpu, self.host = gpu, host
        self._start = start
        self._started: dict[bool, Measurer] = {}
        self._lock = threading.Lock()
        self._interrupted = False

    @property
    def name(self) -> str:
        """The host or GPU, for messages."""
        return self.host or self.gpu or "the CPU"

    def get(self, *, repeat: bool) -> Measurer:
        """Return the worker for first measurements or for repeats."""
        with self._lock:
            if self._interrupted:
                raise Interrupted("the campaign must not start another worker")
            if repeat not in self._started:
                self._started[repeat] = self._start()
            return self._started[repeat]

    def interrupt(self) -> None:
        """Kill both processes from another thread, for good."""
        with self._lock:
            self._interrupted = True
            for worker in self._started.values():
                worker.interrupt()

    def close(self) -> None:
        """End both processes."""
        for worker in self._started.values():
            worker.close()
        self._started.clear()


class Crew:
    """The worker pairs of a campaign. Several work side by side, each in a thread; one works in the calling thread.

    A pair keeps its thread as long as the crew exists, because the kernel kills processes whose thread ends.

    Args:
        pairs: One pair for each GPU, or one alone.
    """

    def __init__(self, pairs: Sequence[WorkerPair]) -> None:
        self.pairs = tuple(pairs)
        self._threads = {pair: ThreadPoolExecutor(max_workers=1) for pair in pairs} if len(pairs) > 1 else {}
        self._last: dict[WorkerPair, Future[Any]] = {}

    def submit(self, pair: WorkerPair, work: Callable[[], Result]) -> "Future[Result]":
        """Let a pair do some work: in its thread if there are several pairs, else before this method returns."""
        if self._threads:
            waiting = self._threads[pair].submit(work)
            self._last[pair] = waiting
            return waiting
        done: Future[Result] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # `result` raises it, as it would that of a thread
            done.set_exception(error)
        return done

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return the facts of a setting, which are those of every pair: a profile has one environment.

        Raises:
            InputError: Two GPUs or hosts differ, as in their power limits or versions.
        """
        waiting = [self.submit(pair, partial(_facts, pair, setting)) for pair in self.pairs]
        first, *others = [future.result() for future in waiting]
        for pair, other in zip(self.pairs[1:], others, strict=True):
            names = sorted(first.runtime.keys() | other.runtime.keys())
            pairs = [(name, first.runtime.get(name), other.runtime.get(name)) for name in names]
            different = [f"{name} {one or 'unknown'} and {two or 'unknown'}" for name, one, two in pairs if one != two]
            if different:
                what, hint = "GPUs", "nvidia-smi -q -d CLOCK,POWER shows their settings, or fewer --gpus"
                if pair.host is not None:
                    what, hint = "hosts", "a fleet file, in which hosts may differ, or one command for each of them"
                message = f"the {what} of one campaign must be equal, {self.pairs[0].name} and {pair.name} too"
                raise InputError(message, got="; ".join(different), hint=hint)
        notes = tuple(dict.fromkeys(note for facts in (first, *others) for note in facts.notes))
        return replace(first, notes=notes)

    def _busy(self) -> list[WorkerPair]:
        # The connection of a host serves the next campaign too, unless it is ended in the middle of its work.
        return [pair for pair, last in self._last.items() if not last.done()]

    def close(self) -> None:
        """End all processes, also in the middle of a measurement."""
        for pair in self._busy():
            pair.interrupt()
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)
        for pair in self.pairs:
            pair.close()


def _facts(pair: WorkerPair, setting: Setting) -> WorkerFacts:
    return pair.get(repeat=False).facts(setting)
