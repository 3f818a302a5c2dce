"""Workers that a command evaluates networks on: `--evaluate-on local:N|ray[:ADDRESS]`, or its own process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from hwnas.config import Between, require_valid, shown
from hwnas.devices import detect
from hwnas.devices.machine import usable_cores
from hwnas.errors import UsageError
from hwnas.pipeline.workers.messages import EvaluationTask

if TYPE_CHECKING:
    from hwnas.pipeline.workers.executor import WorkerPool
    from hwnas.train.executor import Executor

MAX_WORKERS = 1024

_SMALL_BATCH, _LARGE_BATCH = 4, 16
"""Networks that a worker gets at a time: more where the images are too many to keep and are read for each batch."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOn:
    """Workers that networks are evaluated on."""

    kind: Literal["local", "ray"]
    count: Annotated[int, Between(1, MAX_WORKERS)] | None = None
    """Number of local processes."""
    address: str | None = None
    """Address of a Ray cluster; None: that of `RAY_ADDRESS`, or one on this machine."""

    def __post_init__(self) -> None:
        require_valid(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `local:N`, `ray` or `ray:ADDRESS`.

        Raises:
            UsageError: The text is none of them.
        """
        kind, _, rest = text.partition(":")
        digits = rest.lstrip("0") if rest.isascii() and rest.isdecimal() else ""
        # The length is checked first: Python refuses to convert thousands of digits.
        if kind == "local" and 1 <= len(digits) <= len(str(MAX_WORKERS)) and int(digits) <= MAX_WORKERS:
            return cls(kind="local", count=int(digits))
        if kind == "ray" and (rest or text == "ray"):
            return cls(kind="ray", address=rest or None)
        message = f"networks are evaluated on local:N, with N from 1 to {MAX_WORKERS}, on ray or on ray:ADDRESS"
        raise UsageError(message, got=shown(text), hint="--evaluate-on local:2")


@contextmanager
def evaluation_workers(
    evaluate_on: EvaluateOn | None, task: EvaluationTask, *, keeps_images: bool
) -> "Iterator[Executor | None]":
    """Yield an executor on workers, and end them afterwards; without `evaluate_on`, yield None.

    Args:
        evaluate_on: The workers; each is started when it is first needed.
        task: What they open.
        keeps_images: The images are few enough for a worker to keep them.

    Raises:
        UsageError: Local workers would have more threads than there are cores.
        MissingError: Ray is not installed.
    """
    if evaluate_on is None:
        yield None
        return
    from hwnas.pipeline.workers.executor import WorkerExecutor

    executor = WorkerExecutor(_make_pool(evaluate_on, task), batch_size=_SMALL_BATCH if keeps_images else _LARGE_BATCH)
    try:
        yield executor
    finally:
        executor.close()


def _make_pool(evaluate_on: EvaluateOn, task: EvaluationTask) -> "WorkerPool":
    if evaluate_on.kind == "ray":
        from hwnas.pipeline.workers.ray_actors import RayActors, load_ray

        load_ray()
        return RayActors(task, address=evaluate_on.address)
    from hwnas.pipeline.workers.local import LocalWorkers

    assert evaluate_on.count is not None
    if task.device == "cuda":
        return LocalWorkers(task, count=evaluate_on.count, gpus=[gpu.uuid for gpu in detect().gpus])
    _require_cores(evaluate_on.count, task.threads, cores=usable_cores())
    return LocalWorkers(task, count=evaluate_on.count)


def _require_cores(count: int, threads: int, *, cores: int) -> None:
    """Refuse more threads than cores, unless each worker has one thread.

    The threads of a worker are those of the command: with others, the last bits of results would be others.
    """
    if threads > 1 and count * threads > cores:
        fewer, share = max(cores // threads, 1), max(cores // count, 1)
        raise UsageError(
            f"{count} workers of {threads} threads each must find as many cores",
            got=f"{cores} cores",
            hint=f"--evaluate-on local:{fewer}, or OMP_NUM_THREADS={share} where nothing was evaluated yet",
        )
