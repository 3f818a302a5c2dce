"""A campaign: the tasks of a plan measured one after another, each on the disk before the next begins.

It can be ended at any moment, also by SIGKILL, and started again: what is measured is not measured again.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hwnas.profile.plan import PlannedTask
from hwnas.profile.worker_messages import MeasurementTask, TaskResult, WorkerFacts
from hwnas.progress import CampaignProgress
from hwnas.records import Measurement, Setting, Store, Subject


class Measurer(Protocol):
    """A process that measures, one task at a time; what goes wrong is the outcome of that task."""

    def measure(self, task: MeasurementTask, *, elsewhere_than: Collection[str] = ()) -> TaskResult:
        """Measure one network, in a process that is none of `elsewhere_than`."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """What the process says of itself for a setting."""

    def close(self) -> None:
        """End the process."""


ProgressListener = Callable[[CampaignProgress], None]


@dataclass(frozen=True, kw_only=True)
class CampaignResult:
    """What a campaign did in this session."""

    num_measured: int
    num_failed: int
    num_skipped: int
    """Tasks that were done before, or that failed before and were not tried again."""
    num_left: int
    """Tasks that there was no time for."""


class WorkerPair:
    """Two processes: one for first measurements, and one for those that are made again.

    A network that is measured twice is so in different processes, because where its memory lies is part of the noise.
    Each process starts when it is first needed.
    """

    def __init__(self, start: Callable[[], Measurer]) -> None:
        self._start = start
        self._started: dict[bool, Measurer] = {}

    def get(self, *, repeat: bool) -> Measurer:
        """The process for first measurements or for repeats."""
        if repeat not in self._started:
            self._started[repeat] = self._start()
        return self._started[repeat]

    def close(self) -> None:
        """End them."""
        for process in self._started.values():
            process.close()
        self._started.clear()


@dataclass
class CompletedTasks:
    """What one store holds: how often each network is measured, and which could not be."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    processes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The processes that measured each network."""

    @classmethod
    def of(cls, store: Store) -> "CompletedTasks":
        """The ledger of what stands in a store."""
        ledger = cls()
        for row in store.profile.measurements:
            ledger.add(row)
        return ledger

    def is_open(self, task: PlannedTask, *, retry: bool) -> bool:
        """Whether a task is still to be done."""
        network_id = task.subject.network_id
        if network_id in self.failed and not retry:
            return False
        return self.counts[network_id] < (2 if task.repeat else 1)

    def add(self, row: Measurement) -> None:
        """Take note of a measurement."""
        if row.failure is None:
            self.counts[row.subject.network_id] += 1
            self.processes[row.subject.network_id].add(row.process_id)
            self.failed.discard(row.subject.network_id)
        else:
            self.failed.add(row.subject.network_id)


class Campaign:
    """Tasks, the stores that take their results (one for each batch), and the processes that measure."""

    def __init__(
        self,
        stores: Mapping[int, Store],
        processes: WorkerPair,
        *,
        pairs: int,
        seed: int,
        retry: bool = False,
    ) -> None:
        self._stores, self._processes = stores, processes
        self._pairs, self._seed, self._retry = pairs, seed, retry
        self._ledgers = {batch: CompletedTasks.of(store) for batch, store in stores.items()}
        self._tried: set[tuple[int, str]] = set()

    def open_tasks(self, tasks: Sequence[PlannedTask]) -> tuple[PlannedTask, ...]:
        """Those of the tasks that are still to be done, in their order."""
        return tuple(task for task in tasks if self._is_open(task))

    def run(
        self,
        tasks: Sequence[PlannedTask],
        *,
        deadline_s: float | None = None,
        listener: ProgressListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> CampaignResult:
        """Do what is still to be done, until `deadline_s` on the clock; a row is on the disk when it is reported."""
        todo = self.open_tasks(tasks)
        started, failed, measured = clock(), 0, 0
        for index, task in enumerate(todo):
            if deadline_s is not None and clock() >= deadline_s:
                return self._result(tasks, todo, measured=measured, failed=failed, left=len(todo) - index)
            if not self._is_open(task):  # its first measurement failed a moment ago
                continue
            outcome = self._measure(task)
            failed += outcome.failure is not None
            measured += outcome.failure is None
            if listener is not None:
                failure = outcome.failure
                progress = CampaignProgress(
                    done=index + 1,
                    total=len(todo),
                    failed=failed,
                    network=_shown(task.subject),
                    failure=None if failure is None else f"{failure.reason}: {failure.message}",
                    elapsed_s=clock() - started,
                    left_s=None if deadline_s is None else max(0.0, deadline_s - clock()),
                )
                listener(progress)
        return self._result(tasks, todo, measured=measured, failed=failed, left=0)

    def _measure(self, task: PlannedTask) -> TaskResult:
        asked = MeasurementTask(subject=task.subject, setting=task.setting, pairs=self._pairs, seed=self._seed)
        store, ledger = self._stores[task.setting.batch], self._ledgers[task.setting.batch]
        before = ledger.processes[task.subject.network_id]
        outcome = self._processes.get(repeat=task.repeat).measure(asked, elsewhere_than=before)
        row = outcome.measurement(asked, environment_id=store.profile.manifest.environment_id)
        store.append(row)
        ledger.add(row)
        self._tried.add((task.setting.batch, task.subject.network_id))
        return outcome

    def _is_open(self, task: PlannedTask) -> bool:
        """What failed in this session is not tried again, whatever was asked."""
        tried = (task.setting.batch, task.subject.network_id) in self._tried
        return self._ledgers[task.setting.batch].is_open(task, retry=self._retry and not tried)

    def _result(
        self, tasks: Sequence[PlannedTask], todo: Sequence[PlannedTask], *, measured: int, failed: int, left: int
    ) -> CampaignResult:
        skipped = len(tasks) - len(todo)
        return CampaignResult(num_measured=measured, num_failed=failed, num_skipped=skipped, num_left=left)


def _shown(subject: Subject) -> str:
    return f"{subject.name} {subject.network_id}" if subject.source == "space" else subject.network_id
