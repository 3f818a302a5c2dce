"""Measure the tasks of a plan one after another; each result is on the disk before the next task starts.

A campaign can be ended at any moment, even by SIGKILL, and resumed: no network is measured again.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hwnas.profile.plan import PlannedTask
from hwnas.profile.worker_messages import MeasurementTask, TaskResult, WorkerFacts
from hwnas.progress import CampaignProgress
from hwnas.records import Measurement, Setting, Store, Subject

_log = logging.getLogger(__name__)


class Measurer(Protocol):
    """A process that measures one task at a time."""

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        """Measure one network, in a process that is not in `excluded_processes`."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return facts about the process and its runtime that belong to the environment of a setting."""

    def close(self) -> None:
        """End the process."""


ProgressListener = Callable[[CampaignProgress], None]


@dataclass(frozen=True, kw_only=True)
class CampaignResult:
    """Numbers of tasks of one run of a campaign."""

    num_measured: int
    num_failed: int
    num_skipped: int
    """Tasks that were measured before, or that failed before and were not retried."""
    num_left: int
    """Tasks for which there was no time."""


class WorkerPair:
    """Two workers: one for first measurements, one for repeats.

    A network that is measured twice is measured in two processes, because the placement of its memory, which differs
    from process to process, is part of the noise. With one process for each purpose, neither has to be restarted for
    every repeat. Each is started when it is first needed.

    Args:
        start: Starts a worker.
    """

    def __init__(self, start: Callable[[], Measurer]) -> None:
        self._start = start
        self._started: dict[bool, Measurer] = {}

    def get(self, *, repeat: bool) -> Measurer:
        """Return the worker for first measurements or for repeats."""
        if repeat not in self._started:
            self._started[repeat] = self._start()
        return self._started[repeat]

    def close(self) -> None:
        """End both processes."""
        for worker in self._started.values():
            worker.close()
        self._started.clear()


@dataclass
class CompletedTasks:
    """Measurements and failures that one store holds, by network_id."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    processes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Identifiers of the processes that measured each network."""

    def is_pending(self, task: PlannedTask, *, retry: bool) -> bool:
        """Return True if a task is still to be measured."""
        network_id = task.subject.network_id
        if network_id in self.failed and not retry:
            return False
        return self.counts[network_id] < (2 if task.repeat else 1)

    def add(self, row: Measurement) -> None:
        """Count a measurement."""
        if row.failure is None:
            self.counts[row.subject.network_id] += 1
            self.processes[row.subject.network_id].add(row.process_id)
            self.failed.discard(row.subject.network_id)
        else:
            self.failed.add(row.subject.network_id)


class Campaign:
    """Measures tasks and stores their results.

    Args:
        stores: Open profiles, one for each batch.
        workers: Processes that measure.
        pairs: Runs of each network.
        seed: Seed of weights and images.
        retry: Measure networks again that failed in an earlier session.
    """

    def __init__(
        self,
        stores: Mapping[int, Store],
        workers: WorkerPair,
        *,
        pairs: int,
        seed: int,
        retry: bool = False,
    ) -> None:
        self._stores, self._workers = stores, workers
        self._pairs, self._seed, self._retry = pairs, seed, retry
        self._completed = {batch: CompletedTasks() for batch in stores}
        for batch, store in stores.items():
            for row in store.profile.measurements:
                self._completed[batch].add(row)
        self._attempted: set[tuple[int, str]] = set()

    def run(
        self,
        tasks: Sequence[PlannedTask],
        *,
        deadline_s: float | None = None,
        listener: ProgressListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> CampaignResult:
        """Measure the tasks that are not measured yet.

        Args:
            tasks: Tasks in the order in which they are measured.
            deadline_s: Time on the clock after which no task is started.
            listener: Called after each task, when its row is on the disk.
            clock: Seconds, increasing.

        Returns:
            Numbers of tasks by what became of them.

        Raises:
            HwnasError: No network can be measured, or a store cannot be written.
        """
        pending_tasks = [task for task in tasks if self._is_pending(task)]
        started, failed, measured, left = clock(), 0, 0, 0
        _log.info("%d of %d tasks are pending, the others are measured or failed", len(pending_tasks), len(tasks))
        for index, task in enumerate(pending_tasks):
            if deadline_s is not None and clock() >= deadline_s:
                left = len(pending_tasks) - index
                _log.info("the deadline has passed, %d tasks are left", left)
                break
            if not self._is_pending(task):  # a repeat whose first measurement just failed
                _log.debug("skipped the repeat of %s, whose first measurement failed", task.subject.network_id)
                continue
            failure = self._measure(task).failure
            failed += failure is not None
            measured += failure is None
            if listener is not None:
                progress = CampaignProgress(
                    done=index + 1,
                    total=len(pending_tasks),
                    failed=failed,
                    network=_display_name(task.subject),
                    failure=None if failure is None else f"{failure.reason}: {failure.message}",
                    elapsed_s=clock() - started,
                    left_s=None if deadline_s is None else max(0.0, deadline_s - clock()),
                )
                listener(progress)
        skipped = len(tasks) - len(pending_tasks)
        return CampaignResult(num_measured=measured, num_failed=failed, num_skipped=skipped, num_left=left)

    def _measure(self, planned: PlannedTask) -> TaskResult:
        task = MeasurementTask(subject=planned.subject, setting=planned.setting, pairs=self._pairs, seed=self._seed)
        store, completed = self._stores[task.setting.batch], self._completed[task.setting.batch]
        excluded = completed.processes[task.subject.network_id]
        result = self._workers.get(repeat=planned.repeat).measure(task, excluded_processes=excluded)
        row = result.to_measurement(task, environment_id=store.profile.manifest.environment_id)
        store.append(row)
        completed.add(row)
        self._attempted.add((task.setting.batch, task.subject.network_id))
        _log.debug("%s: a row in %s after %.1f s", task.subject.network_id, store.path, result.duration_s)
        return result

    def _is_pending(self, task: PlannedTask) -> bool:
        """A network that failed in this session is not tried again, even with `retry`."""
        attempted = (task.setting.batch, task.subject.network_id) in self._attempted
        return self._completed[task.setting.batch].is_pending(task, retry=self._retry and not attempted)


def _display_name(subject: Subject) -> str:
    return f"{subject.name} {subject.network_id}" if subject.source == "space" else subject.network_id
