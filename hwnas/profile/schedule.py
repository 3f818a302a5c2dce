"""The order in which the worker pairs of a campaign take its tasks, and who takes over when a GPU fails."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from hwnas.profile.crew import WorkerPair
from hwnas.profile.plan import PlannedTask


class Schedule:
    """Tasks that are still to be measured, and the worker pairs that can measure them.

    Tasks are taken in their order by whichever pair is free. A repeat may thus be measured on another GPU than the
    first measurement: the noise floor includes the differences between GPUs, as the measurements of different networks
    do.

    Args:
        pairs: The worker pairs.
        is_pending: Returns True if a task is still to be measured.
    """

    def __init__(self, pairs: Sequence[WorkerPair], is_pending: Callable[[PlannedTask], bool]) -> None:
        self._pairs = list(pairs)
        self._is_pending = is_pending
        self._queue: list[PlannedTask] = []
        self._running: dict[WorkerPair, PlannedTask] = {}
        self._unable: defaultdict[int, set[WorkerPair]] = defaultdict(set)
        """Pairs on which the reference network does not run, by batch."""
        self._crashed: defaultdict[tuple[int, str], set[WorkerPair]] = defaultdict(set)
        """Pairs on which a network crashed."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs that can still measure."""
        return len(self._pairs)

    @property
    def num_left(self) -> int:
        """Number of tasks that no pair has taken yet."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Number of tasks that are being measured."""
        return len(self._running)

    def unfinished(self) -> list[PlannedTask]:
        """Return the tasks that are measured now or later."""
        return [*self._running.values(), *self._queue]

    def replace(self, tasks: Iterable[PlannedTask]) -> None:
        """Set the tasks to measure, but for those of batches that no pair can measure."""
        self._queue = [task for task in tasks if self._is_pending(task) and self._able(task.setting.batch)]

    def next(self, pair: WorkerPair) -> PlannedTask | None:
        """Give a pair the next task that it can measure; None if there is none, or the pair is busy."""
        if pair in self._running:
            return None
        taken = {_key(task) for task in self._running.values()}
        index = 0
        while index < len(self._queue):
            task = self._queue[index]
            if not self._is_pending(task):  # a repeat whose first measurement failed
                del self._queue[index]
            elif _key(task) not in taken and pair in self._candidates(task):
                self._running[pair] = task
                return self._queue.pop(index)
            else:
                taken.add(_key(task))  # its repeat has to wait as well
                index += 1
        return None

    def finish(self, pair: WorkerPair) -> PlannedTask:
        """Return the task that a pair has ended, whatever came of it."""
        return self._running.pop(pair)

    def put_back(self, task: PlannedTask) -> None:
        """Make a task the next one again."""
        self._queue.insert(0, task)

    def try_elsewhere(self, pair: WorkerPair, task: PlannedTask) -> bool:
        """Put a task that crashed on a pair back for the others; return False if it crashed on all of them."""
        self._crashed[_key(task)].add(pair)
        if not set(self._able(task.setting.batch)) - self._crashed[_key(task)]:
            return False
        self.put_back(task)
        return True

    def exclude(self, pair: WorkerPair, *, batch: int | None = None) -> None:
        """Give a pair no more tasks of a batch; None: no more tasks at all."""
        if batch is None:
            self._pairs.remove(pair)
        else:
            self._unable[batch].add(pair)

    def remove_unmeasurable(self) -> tuple[int, ...]:
        """Remove the tasks that no pair can measure, and return their batches."""
        batches = sorted({task.setting.batch for task in self._queue})
        unmeasurable = tuple(batch for batch in batches if not self._able(batch))
        self._queue = [task for task in self._queue if task.setting.batch not in unmeasurable]
        return unmeasurable

    def _able(self, batch: int) -> list[WorkerPair]:
        return [pair for pair in self._pairs if pair not in self._unable[batch]]

    def _candidates(self, task: PlannedTask) -> list[WorkerPair]:
        """The pairs that may take a task: those on which it has not crashed, if there are any left."""
        able = self._able(task.setting.batch)
        return [pair for pair in able if pair not in self._crashed[_key(task)]] or able


def _key(task: PlannedTask) -> tuple[int, str]:
    return task.setting.batch, task.subject.network_id
