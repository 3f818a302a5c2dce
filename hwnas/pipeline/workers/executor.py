"""The executor that has workers evaluate networks, and gives what a lost worker was at to another one.

Networks are sent in batches whose size does not depend on the number of workers. A row depends on its network alone, so
it is the same whichever worker makes it, and with whichever networks it was sent.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hwnas.config import from_mapping, shown, to_mapping
from hwnas.errors import HwnasError, InputError
from hwnas.pipeline.workers.messages import BatchRows, ComputeFacts, NetworkBatch
from hwnas.profile.worker_messages import WorkerError
from hwnas.space.arch import Arch
from hwnas.train.evaluator import require_figures
from hwnas.train.executor import EvaluationCallback, Measure, Row

_log = logging.getLogger(__name__)

Answer = Mapping[str, Any]

_LOSSES_OF_BATCH = 2
"""Lost workers after which the networks of a batch are sent one at a time, to find the one that ends workers."""

_LOSSES_OF_NETWORK = 3
"""Lost workers after which a network is given up."""

_FAILED_STARTS = 3
"""Workers in a row that fail to start, after which no other is started."""


class WorkerLostError(Exception):
    """A worker ended before it answered: it crashed, was killed, or its machine is gone.

    Args:
        message: What is known of its end.
        started: False if it did not come to its first batch.
    """

    def __init__(self, message: str, *, started: bool = True) -> None:
        super().__init__(message)
        self.started = started


class WorkerPool(Protocol):
    """Workers, each of which answers one request at a time."""

    def submit(self, request: Mapping[str, Any], *, waiting: int) -> "Future[Any] | None":
        """Send a request to a worker that is free; None: none is, although some may be starting.

        Args:
            request: The request.
            waiting: The number of requests that wait for a worker, with this one.

        Raises:
            WorkerLostError: A worker that was to start has failed.
        """

    def starting(self) -> "Collection[Future[Any]]":
        """Return what to wait for besides answers: workers that are starting."""

    def answer(self, future: "Future[Any]") -> Answer:
        """Return the answer to a request that is done.

        Raises:
            WorkerLostError: The worker ended before it answered.
        """

    def close(self) -> None:
        """End all workers, in the middle of their work too."""


@dataclass(frozen=True)
class _Attempt:
    """Networks to send, and how many workers were lost while they had them."""

    archs: tuple[tuple[str, Arch], ...]
    losses: int = 0

    def request(self, measure: Measure) -> dict[str, Any]:
        archs = tuple(arch.to_mapping() for _, arch in self.archs)
        return {"batch": to_mapping(NetworkBatch(archs=archs, measure=measure))}

    def after(self, loss: WorkerLostError) -> "list[_Attempt]":
        """Return what to send after a worker was lost.

        Raises:
            InputError: It is one network, and several workers were lost with it.
        """
        if not loss.started:
            return [self]
        again = replace(self, losses=self.losses + 1)
        if len(self.archs) > 1:
            return [again] if again.losses < _LOSSES_OF_BATCH else [_Attempt((item,)) for item in self.archs]
        if again.losses >= _LOSSES_OF_NETWORK:
            message = f"network {self.archs[0][0]} ends the workers that evaluate it, {again.losses} of them so far"
            raise InputError(message, got=loss)
        return [again]


class WorkerExecutor:
    """Evaluates networks on the workers of a pool.

    Args:
        pool: The workers.
        batch_size: Networks that a worker gets at a time.
    """

    def __init__(self, pool: WorkerPool, *, batch_size: int) -> None:
        self._pool, self._batch_size = pool, batch_size
        self._unwanted: list[Future[Any]] = []
        """Batches that were running when the reader of an evaluation went away."""
        self._failed_starts = 0

    def evaluate(
        self, archs: Mapping[str, Arch], measure: Measure, *, progress: EvaluationCallback | None = None
    ) -> Iterator[tuple[str, Row]]:
        """Yield the id and the row of each network, as `Executor.evaluate` does."""
        self._await_unwanted()
        waiting = deque(_Attempt(chunk) for chunk in _chunks(list(archs.items()), self._batch_size))
        running: dict[Future[Any], _Attempt] = {}
        done = 0
        try:
            while waiting or running:
                self._send(waiting, running, measure)
                wait([*running, *self._pool.starting()], return_when=FIRST_COMPLETED)
                for future in [future for future in running if future.done()]:
                    attempt = running.pop(future)
                    try:
                        answer = self._pool.answer(future)
                    except WorkerLostError as loss:
                        waiting.extendleft(reversed(self._after_loss(attempt, loss)))
                        continue
                    self._failed_starts = 0
                    rows = _rows(answer, attempt, measure)
                    done += len(rows)
                    if progress is not None:
                        progress(done, 0)
                    yield from rows
        except GeneratorExit:
            # Not awaited here: the reader may be a command that is ended, and closes the workers next.
            self._unwanted.extend(running)
            raise

    def close(self) -> None:
        """End all workers."""
        self._pool.close()

    def _send(self, waiting: deque[_Attempt], running: dict[Future[Any], _Attempt], measure: Measure) -> None:
        """Send batches to all workers that are free."""
        while waiting:
            try:
                future = self._pool.submit(waiting[0].request(measure), waiting=len(waiting))
            except WorkerLostError as loss:
                self._note_failed_start(loss)
                continue
            if future is None:
                return
            running[future] = waiting.popleft()

    def _after_loss(self, attempt: _Attempt, loss: WorkerLostError) -> list[_Attempt]:
        """Return what to send again."""
        if loss.started:
            _log.warning("a worker was lost with %d networks: %s", len(attempt.archs), loss)
            self._failed_starts = 0
        else:
            self._note_failed_start(loss)
        return attempt.after(loss)

    def _note_failed_start(self, loss: WorkerLostError) -> None:
        self._failed_starts += 1
        _log.warning("a worker has failed to start: %s", loss)
        if self._failed_starts >= _FAILED_STARTS:
            raise InputError("a worker must be able to start", got=loss) from loss

    def _await_unwanted(self) -> None:
        """Wait for batches whose rows are no longer wanted: a worker answers one request after the other."""
        unwanted, self._unwanted = self._unwanted, []
        wait(unwanted)
        for future in unwanted:
            with suppress(WorkerLostError, HwnasError):
                self._pool.answer(future)


class SameFacts:
    """Facts of the first worker, which all others must share, so that results do not depend on who made them."""

    def __init__(self) -> None:
        self._facts: ComputeFacts | None = None
        self._lock = threading.Lock()

    def require(self, answer: Answer) -> None:
        """Check the answer of a worker to its task.

        Raises:
            InputError: The worker differs from the first one.
            HwnasError: It could not open its task.
        """
        if "error" in answer:
            raise from_mapping(WorkerError, answer["error"], where="error").rebuilt()
        facts = from_mapping(ComputeFacts, answer.get("facts"), where="facts")
        with self._lock:
            first = self._facts = self._facts or facts
        if facts != first:
            message = "all workers must have the same versions and devices, or their results would differ in last bits"
            raise InputError(message, got=f"{_describe(first)}; and {_describe(facts)}")


def _describe(facts: ComputeFacts) -> str:
    return f"hwnas {facts.hwnas}, torch {facts.torch}, {facts.device}"


def _chunks(items: Sequence[tuple[str, Arch]], size: int) -> Iterator[tuple[tuple[str, Arch], ...]]:
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def _rows(answer: Answer, attempt: _Attempt, measure: Measure) -> list[tuple[str, Row]]:
    """Return the rows of an answer by id, checked like those of a file: they come from elsewhere."""
    if "error" in answer:
        raise from_mapping(WorkerError, answer["error"], where="error").rebuilt()
    rows = from_mapping(BatchRows, answer.get("result"), where="result").rows
    if len(rows) != len(attempt.archs):
        raise InputError(f"a worker must answer with {len(attempt.archs)} rows", got=len(rows))
    for row in rows:
        _require_row(row, measure)
    return [(arch_id, row) for (arch_id, _), row in zip(attempt.archs, rows, strict=True)]


def _require_row(row: Row, measure: Measure) -> None:
    if measure.name == "accuracy":
        require_figures(row, source="the answer of a worker")
        if measure.keep_hits and not row.get("hits"):
            raise InputError("a worker must answer which images are classified correctly", got="no hits")
    elif type(row.get("value")) is not float or not math.isfinite(row["value"]):
        raise InputError("a worker must answer with finite numbers", got=shown(row.get("value")))
