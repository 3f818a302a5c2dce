"""What stands in for a worker process: times that follow from the network's name, and failures on demand."""

import itertools
import math
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from hwnas.errors import HwnasError
from hwnas.profile.plan import make_tasks
from hwnas.profile.worker_messages import MeasurementTask, ReferenceNetworkError, TaskResult, WorkerFacts
from hwnas.records import Failure, Samples, Setting
from tests.records.rows import SETTING, subject

TASKS = make_tasks([subject(number) for number in range(20)], [SETTING], repeats=12, seed=0)
"""A campaign of 20 networks, 12 of them measured twice."""

_NUMBERS = itertools.count(1)


def steady(ns: int, runs: int) -> Samples:
    """Runs that differ by a nanosecond or two."""
    times = tuple(ns + index % 3 for index in range(runs))
    return Samples(wall_ns=times, cpu_ns=times, switches=(0,) * runs)


@dataclass
class FakeWorker:
    """Measures at once. A network takes as many microseconds as the sum of its id's digits, plus 1000."""

    failing: Mapping[str, Failure] = field(default_factory=dict)
    noise: float = 0.0
    runtime: Mapping[str, str] = field(default_factory=lambda: {"version": "1"})
    notes: tuple[str, ...] = ()
    reference_failures: Mapping[int, Failure] = field(default_factory=dict)
    """The failure of the reference network by batch."""
    gone: HwnasError | None = None
    """The GPU has disappeared."""
    meeting: threading.Barrier | None = None
    """A barrier at which the first measurement waits for one on another GPU."""
    process_id: str = field(default_factory=lambda: f"process{next(_NUMBERS)}-{secrets.token_hex(4)}")
    tasks: list[MeasurementTask] = field(default_factory=list)
    interrupted: bool = False
    closed: bool = False
    on_task: Callable[[], None] = lambda: None

    def facts(self, setting: Setting) -> WorkerFacts:
        return WorkerFacts(process_id=self.process_id, runtime=self.runtime, notes=self.notes)

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        assert self.process_id not in excluded_processes
        if self.gone is not None:
            raise self.gone
        if task.setting.batch in self.reference_failures:
            raise ReferenceNetworkError(task, self.reference_failures[task.setting.batch])
        if self.meeting is not None:
            self.meeting.wait()
            self.meeting = None
        self.on_task()
        self.tasks.append(task)
        started = f"2026-01-02T03:04:{len(self.tasks) % 60:02d}.000+00:00"
        outcome = {"process_id": self.process_id, "started_utc": started, "duration_s": 0.5}
        failure = self.failing.get(task.subject.network_id)
        if failure is not None:
            return TaskResult(**outcome, failure=failure)  # type: ignore[arg-type]
        wobble = math.exp(self.noise * math.sin(len(self.tasks) + hash(self.process_id) % 7))
        ours = steady(round(duration_us(task.subject.network_id) * 1000 * wobble), task.pairs)
        return TaskResult(**outcome, samples=ours, reference=steady(1_000_000, task.pairs))  # type: ignore[arg-type]

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True


def duration_us(network_id: str) -> int:
    return 1000 + sum(int(letter, 36) for letter in network_id if letter.isalnum())
