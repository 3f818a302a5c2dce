"""Where one network after another is measured beside the reference network, in this process."""

import gc
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from hwnas.errors import InputError, MissingError
from hwnas.profile.failures import failure_of
from hwnas.profile.memory import limited
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.nvml import Nvml, open_nvml
from hwnas.profile.parity import expected_logits, require_parity
from hwnas.profile.runners.prepared import device_of
from hwnas.profile.runners.runner import Runner, Session, load_runner
from hwnas.profile.task import Outcome, Task, WorkerFacts
from hwnas.profile.timing import time_pairs, warm_up
from hwnas.records import DeviceState, Parity, Setting, Subject

_REFERENCE_SEED = 0
"""The reference network has the same weights in every process."""


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A session whose outputs are those of torch."""

    session: Session
    parity: Parity
    export_s: float


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What stays between tasks of one setting."""

    setting: Setting
    subject: Subject
    runner: Runner
    reference: Session


class Bench:
    """Measures tasks one by one; the reference network's session stays from one to the next.

    `stage` is told what is being done, so that whoever watches knows where a process died.
    """

    def __init__(self, *, stage: Callable[[str], None] = lambda stage: None) -> None:
        self._tell = stage
        self._stage = ""
        self._place: _Place | None = None
        self._nvml: Nvml | None = None
        self.process_id = secrets.token_hex(6)
        """Names this process in what it measures."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """What decides how fast this process runs networks in a setting."""
        runner = require_runner(setting)
        notes = (self._open_nvml(),) if device_of(setting).kind == "gpu" else ()
        return WorkerFacts(process_id=self.process_id, runtime=runner.facts(setting), notes=tuple(filter(None, notes)))

    def measure(self, task: Task) -> Outcome:
        """The outcome of a task; an error is raised only where it is not the network's."""
        if task.pairs < 1:
            raise InputError("a task must have at least one pair", got=task.pairs)
        started, begin = datetime.now(UTC).isoformat(timespec="milliseconds"), time.perf_counter()
        place = self._set_up(task)
        outcome = Outcome(process_id=self.process_id, started_utc=started, duration_s=0.0)
        try:
            outcome = self._measured(task, place, outcome)
        except Exception as error:  # whatever it is, it is what became of this network, and is recorded as such
            outcome = replace(outcome, failure=failure_of(error, stage=self._stage))
        _clean_up()
        return replace(outcome, duration_s=time.perf_counter() - begin)

    def close(self) -> None:
        """Give back what stays between tasks."""
        if self._place is not None:
            self._place.reference.close()
        self._place = None
        _clean_up()

    def _measured(self, task: Task, place: _Place, outcome: Outcome) -> Outcome:
        with self._ready(place.runner, task.subject, task.setting, seed=task.seed) as ready:
            self._enter("warm up")
            warm_up(ready.session)
            place.reference.run_once()
            self._enter("time")
            before = self._state()
            timed = time_pairs(ready.session, place.reference, pairs=task.pairs, setting=task.setting)
            return replace(
                outcome,
                samples=timed.samples,
                reference=timed.reference,
                export_s=ready.export_s,
                parity=ready.parity,
                before=before,
                after=self._state(),
                memory_mb=ready.session.memory_mb(),
                energy_j=self._nvml.energy_j(ready.session.run_once) if self._nvml else None,
            )

    @contextmanager
    def _ready(self, runner: Runner, subject: Subject, setting: Setting, *, seed: int) -> Iterator[_Ready]:
        """A session that gives torch's outputs, for as long as it is needed."""
        ready = self._prepared(runner, subject, setting, seed=seed)
        try:
            yield ready
        finally:
            ready.session.close()

    def _prepared(self, runner: Runner, subject: Subject, setting: Setting, *, seed: int) -> _Ready:
        with _within_memory(setting):
            self._enter("build")
            module = build_subject(subject, seed=seed)
            images = seeded_images(subject, batch=setting.batch, seed=seed)
            expected = expected_logits(module, images)
            self._enter("prepare")
            begin = time.perf_counter()
            session = runner.prepare(module, images, setting)
            export_s = time.perf_counter() - begin
            self._enter("check")
            try:
                parity = require_parity(session.outputs(), expected, precision=setting.precision)
            except BaseException:
                session.close()
                raise
        return _Ready(session=session, parity=parity, export_s=export_s)

    def _set_up(self, task: Task) -> _Place:
        """The place for a task's setting; another one is cleared away first."""
        place = self._place
        if place is not None and (place.setting, place.subject) == (task.setting, task.reference):
            return place
        self.close()
        self._tell("reference")
        runner = require_runner(task.setting)
        try:
            ready = self._prepared(runner, task.reference, task.setting, seed=_REFERENCE_SEED)
            warm_up(ready.session)
        except Exception as error:
            found = failure_of(error, stage=self._stage)
            message = f"the reference network {task.reference.network_id} must run on {task.setting.runtime}"
            raise InputError(message, got=f"{found.reason}: {found.message}") from error
        if device_of(task.setting).kind == "gpu":
            self._open_nvml()
        self._place = _Place(setting=task.setting, subject=task.reference, runner=runner, reference=ready.session)
        return self._place

    def _enter(self, stage: str) -> None:
        self._stage = stage
        if self._place is not None:
            self._tell(stage)

    def _state(self) -> DeviceState | None:
        return self._nvml.state() if self._nvml else None

    def _open_nvml(self) -> str:
        """Look at the GPU from now on; a note if that cannot be."""
        if self._nvml is not None:
            return ""
        self._nvml, note = open_nvml(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return note


def require_runner(setting: Setting) -> Runner:
    """The runner of a setting, if it works here and in this setting."""
    runner, device = load_runner(setting.runtime), device_of(setting)
    here = runner.available(device)
    if not here.available:
        hint = f"pip install 'hwnas[{here.extra}]'" if here.extra else None
        raise MissingError(f"{setting.runtime} cannot be used on {device.name}: {here.reason}", hint=hint)
    able = runner.supports(setting)
    if not able.available:
        raise InputError(able.reason, got=f"{setting.runtime} in {setting.precision}")
    return runner


def _within_memory(setting: Setting) -> AbstractContextManager[None]:
    # CUDA reserves address space far beyond what it uses: there, the device's own limit is the one that holds.
    return limited() if device_of(setting).kind == "cpu" else nullcontext()


def _clean_up() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
