"""Networks, pools and tasks of the tests of workers."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from hwnas.pipeline.workers.executor import Answer, WorkerLostError
from hwnas.pipeline.workers.messages import EvaluationTask
from hwnas.train.executor import Measure

TASK = EvaluationTask(
    supernet="/runs/supernet",
    digest="0",
    data=None,
    data_fingerprint="0",
    device="cpu",
    threads=1,
    matmul_backend="default",
)
VALUE = Measure(name="divergence")


@dataclass(frozen=True)
class Widths:
    """A network, as far as an executor looks at it."""

    widths: tuple[int, ...]
    sleep_s: float = 0.0

    def to_mapping(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "sleep_s": self.sleep_s}


def networks(*widths: int, sleep_s: float = 0.0) -> dict[str, Any]:
    """Networks by id, each of one width; one of width 0 has none, which ends workers."""
    return {f"n{number}": Widths((width,) if width else (), sleep_s) for number, width in enumerate(widths)}


def task(**changes: Any) -> EvaluationTask:
    return replace(TASK, **changes)


class CalledPool:
    """Workers that are functions: requests are answered when they are waited for, in whichever order they were sent.

    Args:
        workers: Each answers a request, or raises WorkerLostError; a lost one is replaced by itself.
    """

    def __init__(self, workers: Iterable[Callable[[Mapping[str, Any]], Answer]]) -> None:
        self.workers = list(workers)
        self.sent: list[int] = []
        self.closed = False
        self._busy: dict[Future[Any], tuple[Any, Mapping[str, Any]]] = {}

    def submit(self, request: Mapping[str, Any], *, waiting: int) -> "Future[Any] | None":
        busy = [worker for worker, _ in self._busy.values()]
        free = [worker for worker in self.workers if worker not in busy]
        if not free:
            return None
        future: Future[Any] = Future()
        future.set_result(None)
        self._busy[future] = (free[-1], json.loads(json.dumps(request)))
        self.sent.append(len(request["batch"]["archs"]))
        return future

    def starting(self) -> "Collection[Future[Any]]":
        return ()

    def answer(self, future: "Future[Any]") -> Answer:
        worker, request = self._busy.pop(future)
        found: Answer = json.loads(json.dumps(worker(request)))
        return found

    def close(self) -> None:
        self.closed = True


def loses(worker: Callable[[Mapping[str, Any]], Answer], *calls: int) -> Callable[[Mapping[str, Any]], Answer]:
    """A worker that is lost at some of its calls, the first of which is 1."""
    count = 0

    def call(request: Mapping[str, Any]) -> Answer:
        nonlocal count
        count += 1
        if count in calls:
            raise WorkerLostError(f"lost at call {count}")
        return worker(request)

    return call
