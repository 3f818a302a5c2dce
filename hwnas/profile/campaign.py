"""Measure the tasks of a plan; each result is on the disk before the next task starts in its process.

One network is measured at a time, or one on each of several equal GPUs. A campaign can be ended at any moment, even by
SIGKILL, and resumed: no network is measured again.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hwnas.errors import HwnasError
from hwnas.profile.crew import Crew, WorkerPair
from hwnas.profile.effort import task_effort
from hwnas.profile.estimate import CampaignPace
from hwnas.profile.plan import PlannedTask
from hwnas.profile.runners.runner import exporter_for
from hwnas.profile.schedule import Schedule
from hwnas.profile.worker_messages import MeasurementTask, ReferenceNetworkError, TaskResult
from hwnas.progress import CampaignProgress
from hwnas.records import Measurement, Store, Subject

_log = logging.getLogger(__name__)


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
    given_up: Mapping[int, str] = field(default_factory=dict)
    """Batches of which nothing more can be measured, as the reference network does not run, with the reason."""


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


class _Pace:
    """Estimates the time of a campaign from the tasks that are done.

    The first task of each process loads libraries and the reference network, which takes many times as long as a
    network: it tells the time of others only as long as there is no second one.

    Args:
        total: Work of all tasks.
        between_s: Least and most time that they may take, by profiles of similar devices.
    """

    def __init__(self, total: float, between_s: tuple[float, float] | None = None) -> None:
        self._total, self._between_s = total, between_s
        self._processes: set[str] = set()
        self._seconds = self._effort = 0.0

    def add(self, process_id: str, effort: float, *, seconds: float) -> None:
        """Note a task that is done."""
        if process_id in self._processes:
            self._seconds += seconds
            self._effort += effort
        if process_id:  # it did not come to a process if its graph could not be made
            self._processes.add(process_id)

    def left_s(self, left: float, *, elapsed_s: float, workers: int) -> float | None:
        """Return the time that some processes need for the work that is left; None if nothing is done yet."""
        if self._effort:
            return self._seconds / self._effort * left / max(1, workers)
        done = self._total - left
        if self._between_s is not None and self._total:
            return sum(self._between_s) / 2 * left / self._total
        return elapsed_s * left / done if done > 0 else None


class Campaign:
    """Measures tasks and stores their results.

    Args:
        stores: Open profiles, one for each batch.
        crew: Processes that measure, a pair for each GPU.
        pairs: Runs of each network.
        seed: Seed of weights and images.
        retry: Measure networks again that failed in an earlier session.
        on_message: Called when a batch or a GPU is given up, or a network goes to another GPU.
        paces: Paces of profiles of similar devices, by which the time is estimated before the first measurement.
    """

    def __init__(
        self,
        stores: Mapping[int, Store],
        crew: Crew,
        *,
        pairs: int,
        seed: int,
        retry: bool = False,
        on_message: Callable[[str], None] = lambda text: None,
        paces: Sequence[CampaignPace] = (),
    ) -> None:
        self._stores, self._crew, self._on_message, self._paces = stores, crew, on_message, paces
        self._pairs, self._seed, self._retry = pairs, seed, retry
        self._completed = {batch: CompletedTasks() for batch in stores}
        for batch, store in stores.items():
            for row in store.profile.measurements:
                self._completed[batch].add(row)
        self._attempted: set[tuple[int, str]] = set()
        self._schedule = Schedule(crew.pairs, self._is_pending)
        self._given_up: dict[int, str] = {}

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that can be measured, as far as is known."""
        return tuple(batch for batch in self._stores if batch not in self._given_up)

    def run(
        self,
        tasks: Sequence[PlannedTask],
        *,
        deadline_s: float | None = None,
        listener: ProgressListener = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> CampaignResult:
        """Measure the tasks that are not measured yet.

        Args:
            tasks: Tasks in the order in which they are measured.
            deadline_s: Time on the clock after which no task is started.
            listener: Called before the first task, and after each when its row is on the disk.
            clock: Seconds, increasing.

        Returns:
            Numbers of tasks by what became of them.

        Raises:
            HwnasError: No network can be measured, or a store cannot be written.
        """
        pending = sum(map(self._is_pending, tasks))
        self._schedule.replace(tasks)
        total = self._schedule.num_left  # without the tasks of batches that were given up in an earlier run
        efforts = {id(task): task_effort(task) for task in self._schedule.unfinished()}
        between_s = self._between_s()
        pace = _Pace(sum(efforts.values()), between_s)
        started, failed, measured = clock(), 0, 0
        device = tasks[0].setting.device if tasks else ""
        if total:
            listener(
                CampaignProgress(
                    done=0,
                    total=total,
                    failed=0,
                    network="",
                    device=device,
                    elapsed_s=0.0,
                    left_s=None if deadline_s is None else max(0.0, deadline_s - started),
                    between_s=between_s,
                )
            )
        _log.info("%d of %d tasks are pending, the others are measured or failed", pending, len(tasks))
        running: dict[Future[TaskResult], tuple[WorkerPair, float]] = {}
        while True:
            if deadline_s is None or clock() < deadline_s:
                running |= self._start_tasks(clock)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                running_on, began = running.pop(future)
                planned, result = self._finish(running_on, future)
                if result is None:
                    continue
                failure = result.failure
                failed += failure is not None
                measured += failure is None
                now_s = clock()
                pace.add(result.process_id, efforts.get(id(planned), 0.0), seconds=now_s - began)
                left = sum(efforts.get(id(task), 0.0) for task in self._schedule.unfinished())
                progress = CampaignProgress(
                    done=total - self._schedule.num_left - self._schedule.num_running,
                    total=total,
                    failed=failed,
                    network=_display_name(planned.subject),
                    device=device,
                    worker=running_on.name,
                    failure=None if failure is None else f"{failure.reason}: {failure.message}",
                    elapsed_s=now_s - started,
                    left_s=(
                        pace.left_s(left, elapsed_s=now_s - started, workers=self._schedule.num_pairs)
                        if deadline_s is None
                        else max(0.0, deadline_s - now_s)
                    ),
                )
                listener(progress)
        _log.info("%d tasks are left", self._schedule.num_left)
        return CampaignResult(
            num_measured=measured,
            num_failed=failed,
            num_skipped=len(tasks) - pending,
            num_left=self._schedule.num_left,
            given_up=dict(self._given_up),
        )

    def _between_s(self) -> tuple[float, float] | None:
        """Return the least and the most time that the tasks may take; None: nothing similar was measured."""
        tasks, workers = self._schedule.unfinished(), self._schedule.num_pairs
        times = [item.estimate_s(tasks, pairs=self._pairs, workers=workers) for item in self._paces]
        return (min(times), max(times)) if times else None

    def _start_tasks(self, clock: Callable[[], float]) -> "dict[Future[TaskResult], tuple[WorkerPair, float]]":
        """Give each free pair its next task; return the pairs, and when they began."""
        started = {}
        for pair in self._crew.pairs:
            planned = self._schedule.next(pair)
            if planned is not None:
                began = clock()
                started[self._crew.submit(pair, self._work(pair, planned))] = pair, began
        return started

    def _work(self, pair: WorkerPair, planned: PlannedTask) -> Callable[[], TaskResult]:
        task = MeasurementTask(subject=planned.subject, setting=planned.setting, pairs=self._pairs, seed=self._seed)
        excluded = frozenset(self._completed[task.setting.batch].processes[task.subject.network_id])
        return lambda: pair.get(repeat=planned.repeat).measure(task, excluded_processes=excluded)

    def _finish(self, pair: WorkerPair, future: "Future[TaskResult]") -> tuple[PlannedTask, TaskResult | None]:
        """The task that a pair has ended, and its result; None if it did not come to the network."""
        planned = self._schedule.finish(pair)
        batch, network_id = planned.setting.batch, planned.subject.network_id
        try:
            result = future.result()
        except HwnasError as error:
            self._schedule.put_back(planned)
            self._exclude(pair, error, batch=batch if isinstance(error, ReferenceNetworkError) else None)
            return planned, None
        failure = result.failure
        # A GPU that fails or disappears takes its process with it, or makes it wait for ever. Only if another GPU comes
        # to the same with a network, it is the network.
        may_be_gpu = failure is not None and failure.reason in ("crash", "timeout")
        if failure is not None and may_be_gpu and self._schedule.try_elsewhere(pair, planned):
            other = "GPU" if pair.host is None else "host"
            self._on_message(f"{network_id} goes to another {other}, as it failed on {pair.name}: {failure.message}")
            return planned, None
        self._record(planned, result, pair=pair)
        return planned, result

    def _exclude(self, pair: WorkerPair, error: HwnasError, *, batch: int | None) -> None:
        """Give up a pair, for a batch or altogether (None), and the batches that no other pair can measure."""
        self._schedule.exclude(pair, batch=batch)
        if not self._schedule.num_pairs:
            raise error
        reason = error.message if error.got is None else f"{error.message}, got {error.got}"
        unmeasurable = self._schedule.remove_unmeasurable()
        for number in unmeasurable:
            self._given_up[number] = reason
            self._record_reference(number, error)
            self._on_message(f"batch {number} is given up: {reason}")
        if not self.batches:
            raise error
        if not unmeasurable or batch is None:
            what = pair.name if batch is None else f"{pair.name} with batch {batch}"
            others = "GPUs" if pair.host is None else "hosts"
            self._on_message(f"{what} is given up, its networks go to the other {others}: {reason}")

    def _record(self, planned: PlannedTask, result: TaskResult, *, pair: WorkerPair | None) -> None:
        task = MeasurementTask(subject=planned.subject, setting=planned.setting, pairs=self._pairs, seed=self._seed)
        store, completed = self._stores[task.setting.batch], self._completed[task.setting.batch]
        gpu, host = (None, None) if pair is None else (pair.gpu, pair.host)
        row = result.to_measurement(task, environment_id=store.profile.manifest.environment_id, gpu=gpu, host=host)
        store.append(row)
        completed.add(row)
        self._attempted.add((task.setting.batch, task.subject.network_id))
        _log.debug("%s: a row in %s after %.1f s", task.subject.network_id, store.path, result.duration_s)

    def _record_reference(self, batch: int, error: HwnasError) -> None:
        """Record that the reference network does not run with a batch, unless there is a row of it."""
        manifest, completed = self._stores[batch].profile.manifest, self._completed[batch]
        network_id = manifest.reference.network_id
        is_known = network_id in completed.failed or completed.counts[network_id] > 0
        if isinstance(error, ReferenceNetworkError) and not is_known:
            setting = replace(manifest.setting, exporter=exporter_for(manifest.setting.runtime, manifest.reference))
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            result = TaskResult(process_id="", started_utc=now, duration_s=0.0, failure=error.failure)
            self._record(PlannedTask(subject=manifest.reference, setting=setting), result, pair=None)

    def _is_pending(self, task: PlannedTask) -> bool:
        """A network that failed in this session is not tried again, even with `retry`."""
        attempted = (task.setting.batch, task.subject.network_id) in self._attempted
        return self._completed[task.setting.batch].is_pending(task, retry=self._retry and not attempted)


def _display_name(subject: Subject) -> str:
    return f"{subject.name} {subject.network_id}" if subject.source == "space" else subject.network_id
