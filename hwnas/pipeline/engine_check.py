"""Compare latencies with those of trtexec on the same engines (`hwnas profile --check-with trtexec`)."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hwnas.errors import InputError, UsageError
from hwnas.profile.crew import Measurer
from hwnas.profile.plan import Plan
from hwnas.profile.reference import REFERENCE
from hwnas.profile.runners.runner import exporter_for
from hwnas.profile.trtexec import TrtexecSummary, find_trtexec, run_trtexec
from hwnas.profile.worker_messages import MeasurementTask
from hwnas.progress import Reporter

RUNTIME = "tensorrt"
"""The runtime whose engines trtexec runs."""


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """One engine, timed by hwnas and by trtexec."""

    network_id: str
    batch: int
    device_ms: float
    """Median device time of hwnas's runs."""
    trtexec: TrtexecSummary

    @property
    def ratio(self) -> float:
        """Time of hwnas over that of trtexec."""
        return self.device_ms / self.trtexec.compute_ms

    def describe(self) -> str:
        """Describe both times on one line."""
        by_trtexec = f"{self.trtexec.compute_ms:.4g} ms by trtexec {self.trtexec.version}".rstrip()
        times = f"{self.device_ms:.4g} ms by hwnas, {by_trtexec} (medians), ratio {self.ratio:.3f}"
        return "; ".join((f"{self.network_id} at batch {self.batch}: {times}", *self.trtexec.warnings))


def require_checkable(runtime: str) -> Path:
    """Return the path of trtexec, if it can time what a runtime runs.

    Raises:
        MissingError: trtexec is not installed.
        UsageError: The runtime builds no engines of TensorRT.
    """
    if runtime != RUNTIME:
        raise UsageError(f"trtexec times engines of {RUNTIME}", got=runtime, hint=f"--runtime {RUNTIME}")
    return find_trtexec()


def check_engines(
    plan: Plan, program: Path, *, start: Callable[[], Measurer], gpu: str | None, reporter: Reporter
) -> tuple[EngineCheck, ...]:
    """Time the engines of a few networks with hwnas and then, with the GPU free again, with trtexec.

    Args:
        plan: A plan for `RUNTIME`. Of each batch size, the reference network and the plan's first network are checked.
        program: Path of trtexec.
        start: Starts a process that measures on the GPU.
        gpu: UUID of the GPU; None for the first one.
        reporter: Receives a line for each engine.

    Raises:
        InputError: A network or an engine does not run.
    """
    checks = []
    for task in _tasks(plan):
        with TemporaryDirectory(prefix="hwnas-") as folder:
            engine = Path(folder, "network.engine")
            with closing(start()) as worker:
                result = worker.measure(replace(task, engine_file=str(engine)))
            if result.failure is not None or result.samples is None or not result.samples.device_ns:
                got = "no device times" if result.failure is None else result.failure.message
                raise InputError(f"{task.subject.network_id} must run to be checked with trtexec", got=got)
            check = EngineCheck(
                network_id=task.subject.network_id,
                batch=task.setting.batch,
                device_ms=float(np.median(result.samples.device_ns)) / 1e6,
                trtexec=run_trtexec(program, engine, gpu=gpu),
            )
        checks.append(check)
        reporter.message(check.describe())
    return tuple(checks)


def _tasks(plan: Plan) -> Sequence[MeasurementTask]:
    tasks: dict[int, dict[str, MeasurementTask]] = {}
    for planned in plan.tasks:
        setting = replace(planned.setting, exporter=exporter_for(RUNTIME, REFERENCE))
        reference = MeasurementTask(subject=REFERENCE, setting=setting, seed=plan.seed, pairs=plan.pairs)
        first = replace(reference, subject=planned.subject, setting=planned.setting)
        tasks.setdefault(planned.setting.batch, {task.subject.network_id: task for task in (reference, first)})
    return [task for batch in sorted(tasks) for task in tasks[batch].values()]
