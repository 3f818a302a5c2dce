"""Where one network after another is measured beside the reference network, in this process."""

import gc
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from hwnas.devices import Device, match
from hwnas.devices.datasheets import normalised
from hwnas.devices.memory import memory_limit
from hwnas.errors import HwnasError, InputError, MissingError
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.parity import expected_logits, parity_tolerance, require_parity
from hwnas.profile.plan import exporter_for
from hwnas.profile.runners.cuda import Nvml, open_nvml
from hwnas.profile.runners.preparation import device_of
from hwnas.profile.runners.runner import MeasurementError, Runner, RuntimeSession, load_runner
from hwnas.profile.timing import no_progress, runs_per_sample, time_pairs, warm_up
from hwnas.profile.worker_messages import MeasurementTask, TaskResult, WorkerFacts
from hwnas.records import DeviceState, Failure, OutputParity, Reason, Setting, Subject

Network = tuple[nn.Module, Tensor]
"""A module in eval mode on the CPU, and the float32 images that it is run on."""

_REFERENCE_SEED = 0
"""The reference network has the same weights in every process."""


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A session whose outputs are those of torch."""

    session: RuntimeSession
    parity: OutputParity
    export_s: float


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What stays between tasks of one setting, whatever exports their networks."""

    runner: Runner
    reference: RuntimeSession


class NetworkTimer:
    """Measures tasks one by one; the reference network's session of each setting stays until all are closed.

    `stage` is told what is being done, so that whoever watches knows where a process died; `progress` is called after
    each run and each step, so that slow is told from stuck.
    """

    def __init__(
        self, *, stage: Callable[[str], None] = lambda stage: None, progress: Callable[[], None] = no_progress
    ) -> None:
        self._tell = stage
        self._progress = progress
        self._stage = ""
        self._places: dict[tuple[Setting, Subject], _Place] = {}
        self._at_reference = False
        self._nvml: Nvml | None = None
        self.process_id = secrets.token_hex(6)
        """Names this process in what it measures."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """What decides how fast this process runs networks in a setting."""
        runner = require_runner(setting)
        _require_cache(setting)
        notes = (self._open_nvml(),) if device_of(setting).kind == "gpu" else ()
        return WorkerFacts(process_id=self.process_id, runtime=runner.facts(setting), notes=tuple(filter(None, notes)))

    def measure(self, task: MeasurementTask, *, network: Network | None = None) -> TaskResult:
        """Measure the network of a task in pairs with the reference network.

        Args:
            task: The network, how it is run, and how many pairs.
            network: A module in eval mode and a batch of images to measure in place of the task's subject.

        Returns:
            Samples, or the failure of this network.

        Raises:
            HwnasError: The runtime or the reference network cannot be used at all.
        """
        if task.pairs < 1:
            raise InputError("a task must have at least one pair", got=task.pairs)
        started, begin = datetime.now(UTC).isoformat(timespec="milliseconds"), time.perf_counter()
        place = self._set_up(task)
        outcome = TaskResult(process_id=self.process_id, started_utc=started, duration_s=0.0)
        try:
            outcome = self._measured(task, place, outcome, network)
        except Exception as error:  # whatever it is, it is what became of this network, and is recorded as such
            outcome = replace(outcome, failure=classify_failure(error, stage=self._stage))
        _clean_up()
        return replace(outcome, duration_s=time.perf_counter() - begin)

    def close(self) -> None:
        """Give back what stays between tasks."""
        for place in self._places.values():
            place.reference.close()
        self._places.clear()
        _clean_up()

    def _measured(
        self, task: MeasurementTask, place: _Place, outcome: TaskResult, network: Network | None
    ) -> TaskResult:
        with self._ready(place.runner, task.subject, task.setting, seed=task.seed, network=network) as ready:
            self._enter("warm up")
            warm_up(ready.session, progress=self._progress)
            runs = (runs_per_sample(ready.session), runs_per_sample(place.reference))
            self._enter("time")
            before = self._state()
            timed = time_pairs(
                ready.session,
                place.reference,
                pairs=task.pairs,
                setting=task.setting,
                runs=runs,
                progress=self._progress,
            )
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
    def _ready(
        self, runner: Runner, subject: Subject, setting: Setting, *, seed: int, network: Network | None
    ) -> Iterator[_Ready]:
        """A session that gives torch's outputs, for as long as it is needed."""
        ready = self._prepared(runner, subject, setting, seed=seed, network=network)
        try:
            yield ready
        finally:
            ready.session.close()

    def _prepared(
        self, runner: Runner, subject: Subject, setting: Setting, *, seed: int, network: Network | None = None
    ) -> _Ready:
        with _within_memory(setting):
            self._enter("build")
            if network is None:
                module = build_subject(subject, seed=seed)
                images = seeded_images(subject, batch=setting.batch, seed=seed)
            else:
                module, images = network
            expected = expected_logits(module, images)
            tolerance = parity_tolerance(module, images, precision=setting.precision)
            self._enter("prepare")
            begin = time.perf_counter()
            session = runner.prepare(module, images, setting)
            export_s = time.perf_counter() - begin
            self._enter("check")
            try:
                precision = setting.precision
                parity = require_parity(session.outputs(), expected, precision=precision, tolerance=tolerance)
            except BaseException:
                session.close()
                raise
        return _Ready(session=session, parity=parity, export_s=export_s)

    def _set_up(self, task: MeasurementTask) -> _Place:
        """The place for a task's setting.

        The reference network has the exporter that is its own, so that it is one graph for tasks of every exporter.
        """
        setting = replace(task.setting, exporter=exporter_for(task.setting.runtime, task.reference))
        key = (setting, replace(task.reference, arch=None))  # its network_id says what the arch does
        if key in self._places:
            return self._places[key]
        self._tell("reference")
        runner = require_runner(setting)
        _require_cache(setting)
        self._at_reference = True
        try:
            reference = self._warm_reference(runner, task.reference, setting)
        except Exception as error:
            found = classify_failure(error, stage=self._stage)
            message = f"the reference network {task.reference.network_id} must run on {setting.runtime}"
            raise InputError(message, got=f"{found.reason}: {found.message}") from error
        finally:
            self._at_reference = False
        if device_of(setting).kind == "gpu":
            self._open_nvml()
        self._places[key] = _Place(runner=runner, reference=reference)
        _set_aside()
        return self._places[key]

    def _warm_reference(self, runner: Runner, subject: Subject, setting: Setting) -> RuntimeSession:
        session = self._prepared(runner, subject, setting, seed=_REFERENCE_SEED).session
        try:
            warm_up(session, progress=self._progress)
        except BaseException:
            session.close()
            raise
        return session

    def _enter(self, stage: str) -> None:
        self._stage = stage
        self._progress()
        if not self._at_reference:  # until the network's turn comes, all that happens is the reference network's
            self._tell(stage)

    def _state(self) -> DeviceState | None:
        return self._nvml.state() if self._nvml else None

    def _open_nvml(self) -> str:
        """Look at the GPU from now on; a note if that cannot be."""
        if self._nvml is not None:
            return ""
        self._nvml, note = open_nvml(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return note


def _set_aside() -> None:
    """Libraries and reference networks stay: what cleans up after each network need not look through them again."""
    gc.collect()
    gc.freeze()


def require_runner(setting: Setting) -> Runner:
    """The runner of a setting, if it works here and in this setting."""
    runner, device = load_runner(setting.runtime), device_of(setting)
    here = runner.available(device)
    if not here.available:
        hint = f"pip install 'hwnas[{here.extra}]'" if here.extra else None
        raise MissingError(f"{setting.runtime} cannot be used on {device.name}: {here.reason}", hint=hint)
    if device.kind == "gpu":
        _require_first_gpu(device)
    able = runner.supports(setting)
    if not able.available:
        raise InputError(able.reason, got=f"{setting.runtime} in {setting.precision}")
    return runner


def _require_first_gpu(device: Device) -> None:
    """The GPU that every runner uses, CUDA's first one, must be of the model that was asked for."""
    if torch.cuda.get_device_properties(0).is_integrated:
        return  # CUDA names the chip, and the device is named after its board; there is no second one
    reported = torch.cuda.get_device_name(0)
    found = match(reported)
    if device.name == found.name if found else normalised(reported) in map(normalised, device.reported):
        return
    hint = "CUDA_VISIBLE_DEVICES=UUID of that GPU (nvidia-smi -L), or CUDA_DEVICE_ORDER=PCI_BUS_ID"
    raise MissingError(f"the first GPU of CUDA must be the device {device.name}", got=reported, hint=hint)


def _require_cache(setting: Setting) -> None:
    """Templates must find room where they are kept: else every network would fail for the same reason."""
    if setting.exporter == "composed" and not setting.runtime.startswith("torch"):
        from hwnas.export.templates import cache_folder, require_writable

        require_writable(cache_folder())


def _within_memory(setting: Setting) -> AbstractContextManager[None]:
    # CUDA reserves address space far beyond what it uses: there, the device's own limit is the one that holds.
    return memory_limit() if device_of(setting).kind == "cpu" else nullcontext()


def _clean_up() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_MEMORY = ("out of memory", "bad_alloc", "can't allocate memory", "failed to allocate", "cannot allocate memory")
_UNSUPPORTED = (
    "could not find an implementation",
    "no onnx function found",
    "not implemented for",
    "not_implemented",
    "fallback to cpu ep has been explicitly disabled",
)
_LENGTH = 600
"""Characters of a message that are kept: exporters write pages."""


def classify_failure(error: Exception, *, stage: str) -> Failure:
    """The category of an error and its message; `stage` is what was being done."""
    return Failure(reason=_reason(error, stage=stage), message=_shortened(_text(error)))


def _reason(error: Exception, *, stage: str) -> Reason:
    text = str(error).casefold()
    if isinstance(error, MeasurementError):
        return error.reason
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _MEMORY):
        return "memory"
    if isinstance(error, (NotImplementedError, MissingError)) or any(words in text for words in _UNSUPPORTED):
        return "unsupported"
    return "export" if stage in ("build", "prepare") else "crash"


def _text(error: Exception) -> str:
    if not isinstance(error, HwnasError):
        return f"{type(error).__name__}: {error}"
    return error.message if error.got is None else f"{error.message}, got {error.got}"


def _shortened(text: str) -> str:
    lines = " ".join(text.split())
    return lines if len(lines) <= _LENGTH else f"{lines[: _LENGTH - 1]}…"
