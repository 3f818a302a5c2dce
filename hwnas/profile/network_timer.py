"""Time networks against the reference network, in this process."""

import gc
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hwnas.devices import Device, detect, match
from hwnas.devices.datasheets import normalised
from hwnas.devices.memory import memory_limit
from hwnas.errors import HwnasError, InputError, MissingError
from hwnas.metrics import QUANTISED
from hwnas.profile.core_watch import CoreWatch
from hwnas.profile.parity import Logits, expected_logits, parity_tolerance, require_agreement, require_parity
from hwnas.profile.reference_graphs import reference_graph
from hwnas.profile.runners.nvml import LimitWatch, Nvml, open_nvml
from hwnas.profile.runners.runner import (
    Array,
    EngineSession,
    GraphRunner,
    MeasurementError,
    QueuedSession,
    Runner,
    RuntimeSession,
    exporter_for,
    load_runner,
    working_clock,
)
from hwnas.profile.runners.this_machine import device_of, emulation_note, this_cpu
from hwnas.profile.timing import SamplePlan, no_progress, observe_under_load, plan_samples, time_pairs, warm_up
from hwnas.profile.worker_messages import GraphFiles, MeasurementTask, ReferenceNetworkError, TaskResult, WorkerFacts
from hwnas.records import DeviceState, Failure, OutputParity, Reason, Setting, Subject

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor, nn

Network: TypeAlias = "tuple[nn.Module, Tensor]"
"""A module in eval mode on the CPU, and the float32 images that it is run on."""

_ENERGY_SAMPLES = 8
"""Runs between two looks at the energy counter, as a multiple of those of a sample: tens of milliseconds."""

_REFERENCE_SEED = 0
"""The reference network has the same weights in every process."""

_OUT_OF_MEMORY = (
    "out of memory",
    "bad_alloc",
    "can't allocate memory",
    "failed to allocate",
    "cannot allocate memory",
    "status_alloc_failed",
    "device_allocation_failed",
    "cudaerrormemoryallocation",
)
_UNSUPPORTED = (
    "could not find an implementation",
    "no onnx function found",
    "no conversion rule found",
    "not implemented for",
    "not_implemented",
    "fallback to cpu ep has been explicitly disabled",
    "status_not_supported",
)
_GPU_ERRORS = (
    "cuda error",
    "cuda failure",
    "cuda runtime error",
    "cudnn error",
    "cudaerror",
    "cublas_status",
    "cudnn_status",
    "cufft_status",
    "device-side assert",
)
"""Phrases of errors of the GPU. Most of them leave a CUDA context in which whatever comes next fails too."""
_MAX_MESSAGE = 600
"""Characters of an error message that are kept: exporters write pages."""


@dataclass(frozen=True, kw_only=True)
class _CheckedSession:
    """A session whose outputs agree with torch's."""

    session: RuntimeSession
    parity: OutputParity
    export_s: float


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The reference network, warm, and the runner that it shares with the networks of its setting."""

    runner: Runner
    session: RuntimeSession


@dataclass(frozen=True, kw_only=True)
class _Loadable:
    """A network that can be brought into a runtime, with what its outputs must be."""

    load: Callable[[], RuntimeSession]
    expected: Logits
    tolerance: float | None
    """None for a quantised network."""


class NetworkTimer:
    """Times one network after another; the reference network stays loaded in between.

    Args:
        given_graphs: All tasks have files of graphs that were made elsewhere, so that torch is not needed here.
        on_stage: Called with the name of each stage, so that an observer knows where the process died.
        on_progress: Called after each run and each stage, so that an observer can tell slow from stuck.
    """

    def __init__(
        self,
        *,
        given_graphs: bool = False,
        on_stage: Callable[[str], None] = lambda stage: None,
        on_progress: Callable[[], None] = no_progress,
    ) -> None:
        self._given_graphs = given_graphs
        self._on_stage = on_stage
        self._on_progress = on_progress
        self._stage = ""
        self._references: dict[tuple[Setting, Subject], _Reference] = {}
        self._loading_reference = False
        self._nvml: Nvml | None = None
        self._core_watch = CoreWatch()
        self.process_id = secrets.token_hex(6)
        """Identifies this process in its measurements."""

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return what else decides the speed of networks in a setting: versions, providers, switches.

        Raises:
            MissingError: The runtime is not installed, or the device is not in this machine.
            InputError: The runtime does not support the setting.
        """
        runner = require_runner(setting)
        if not self._given_graphs:
            _require_writable_cache(setting)
        runtime = {str(name): str(value) for name, value in runner.facts(setting).items()}
        if isinstance(runner, GraphRunner) and not self._given_graphs:
            from hwnas.profile.runners.preparation import exporter_facts  # needs torch

            runtime = {**exporter_facts(), **runtime}
        notes: tuple[str, ...] = (emulation_note(setting, this_cpu()),)
        if device_of(setting).has_cuda:
            notes = (self._open_nvml(),)
        if self._nvml is not None:
            runtime, notes = {**runtime, **self._nvml.facts()}, (*notes, self._nvml.note())
        return WorkerFacts(process_id=self.process_id, runtime=runtime, notes=tuple(filter(None, notes)))

    def measure(self, task: MeasurementTask, *, network: "Network | None" = None) -> TaskResult:
        """Measure one network.

        Args:
            task: The network, its setting and the number of pairs.
            network: A module in eval mode and a batch of images to measure instead of the task's subject.

        Returns:
            Samples, or the failure if something went wrong with this network.

        Raises:
            ReferenceNetworkError: The reference network does not run in this setting, so no network can be measured.
            HwnasError: The runtime cannot be used in this setting.
        """
        if task.pairs < 1:
            raise InputError("a task must have at least one pair", got=task.pairs)
        started, begin = datetime.now(timezone.utc).isoformat(timespec="milliseconds"), time.perf_counter()
        reference = self._load_reference(task)
        result = TaskResult(process_id=self.process_id, started_utc=started, duration_s=0.0)
        try:
            result = self._time(task, reference, result, network)
        except Exception as error:  # of any type: runtimes raise their own, and it concerns this network alone
            result = replace(result, failure=classify_failure(error, stage=self._stage))
            _log.debug("%s failed", task.subject.network_id, exc_info=True)
        _clean_up()
        return replace(result, duration_s=time.perf_counter() - begin)

    def close(self) -> None:
        """Release the reference networks."""
        for reference in self._references.values():
            reference.session.close()
        self._references.clear()
        _clean_up()

    def _time(
        self, task: MeasurementTask, reference: _Reference, result: TaskResult, network: "Network | None"
    ) -> TaskResult:
        files, seed = task.graph_files, task.seed
        checked = self._prepare(reference.runner, task.subject, task.setting, seed=seed, network=network, files=files)
        with closing(checked.session) as session:
            self._enter("warm up")
            warm_up(session, progress=self._on_progress)
            plans = plan_samples(session, reference.session)
            _log.debug("%s: %s, reference: %s", task.subject.network_id, *plans)
            self._enter("time")
            before, watch = self._device_state(), LimitWatch(self._nvml)
            with self._watch_core(session, task.setting) as core_watch:
                timed = time_pairs(
                    session,
                    reference.session,
                    pairs=task.pairs,
                    plans=plans,
                    watch=core_watch,
                    progress=self._on_progress,
                )
            during = observe_under_load(session, plans[0], self._device_state)
            if task.engine_file is not None:
                _save_engine(session, Path(task.engine_file))
            return replace(
                result,
                samples=timed.samples,
                reference=timed.reference,
                export_s=checked.export_s,
                parity=checked.parity,
                before=before,
                during=during,
                limited=watch.limited(),
                after=self._device_state(),
                memory_mb=session.memory_mb(),
                energy_j=self._energy_j(session, plans[0]),
            )

    @contextmanager
    def _watch_core(self, session: RuntimeSession, setting: Setting) -> Iterator[CoreWatch | None]:
        """Watch the core of this thread while it does the work itself, and alone."""
        is_own = device_of(setting).kind == "cpu" and setting.threads == 1
        if not (is_own and working_clock(session.run_once) == "thread"):
            yield None
            return
        with self._core_watch.watching():
            yield self._core_watch

    def _energy_j(self, session: RuntimeSession, plan: SamplePlan) -> float | None:
        """Energy of a run on a GPU. Runs are queued, so that the GPU is as busy as while they were timed."""
        if self._nvml is None:
            return None
        self._on_progress()
        if plan.queued and isinstance(session, QueuedSession):
            runs = _ENERGY_SAMPLES * plan.runs
            return self._nvml.energy_j(lambda: session.run_queued(runs), runs=runs)
        return self._nvml.energy_j(session.run_once)

    def _prepare(
        self,
        runner: Runner,
        subject: Subject,
        setting: Setting,
        *,
        seed: int,
        network: "Network | None" = None,
        files: GraphFiles | None = None,
    ) -> _CheckedSession:
        """Build a network or read its graph, bring it into the runtime and compare its outputs with torch's."""
        with _within_free_memory(setting):
            self._enter("build")
            if files is None:
                loadable = _built(runner, network or _build(subject, setting, seed=seed), setting)
            else:
                loadable = _read(runner, files, setting)
            self._enter("prepare")
            begin = time.perf_counter()
            session = loadable.load()
            export_s = time.perf_counter() - begin
            self._enter("check")
            try:
                parity = _check(session, loadable, precision=setting.precision)
            except BaseException:
                session.close()
                raise
            _log.debug(
                "%s: prepared in %.2f s, largest difference %.1e of the largest logit%s",
                subject.network_id,
                export_s,
                parity.max_relative,
                "" if loadable.tolerance is None else f", {loadable.tolerance:.1e} is allowed",
            )
        return _CheckedSession(session=session, parity=parity, export_s=export_s)

    def _load_reference(self, task: MeasurementTask) -> _Reference:
        """The warm reference network of a task's setting, loaded on first use."""
        # The reference network has its own exporter, so that tasks of every exporter share one graph of it.
        setting = replace(task.setting, exporter=exporter_for(task.setting.runtime, task.reference))
        key = (setting, replace(task.reference, arch=None))  # an arch is not hashable; the network_id stands for it
        if key in self._references:
            return self._references[key]
        self._on_stage("reference")
        runner = require_runner(setting)
        if task.reference_files is None:
            _require_writable_cache(setting)
        self._loading_reference = True
        try:
            files = task.reference_files
            if files is None and isinstance(runner, GraphRunner):
                self._enter("build")
                files = reference_graph(task.reference, setting, seed=_REFERENCE_SEED)
            session = self._prepare(runner, task.reference, setting, seed=_REFERENCE_SEED, files=files).session
            try:
                warm_up(session, progress=self._on_progress)
            except BaseException:
                session.close()
                raise
        except Exception as error:
            failure = classify_failure(error, stage=self._stage)
            raise ReferenceNetworkError(task, failure) from error
        finally:
            self._loading_reference = False
        if device_of(setting).has_cuda:
            self._open_nvml()
        self._references[key] = _Reference(runner=runner, session=session)
        # Libraries and the reference network stay for good: the collection after each network need not visit them.
        gc.collect()
        gc.freeze()
        return self._references[key]

    def _enter(self, stage: str) -> None:
        self._stage = stage
        self._on_progress()
        # The observer blames the network for a crash in any stage but "reference", so the stages of the reference
        # network are not reported as such.
        if not self._loading_reference:
            self._on_stage(stage)

    def _device_state(self) -> DeviceState | None:
        return self._nvml.state() if self._nvml else None

    def _open_nvml(self) -> str:
        """Start to monitor the GPU; returns a note if that is not possible."""
        if self._nvml is not None:
            return ""
        self._nvml, note = open_nvml(first_gpu_uuid())
        return note


def _build(subject: Subject, setting: Setting, *, seed: int) -> Network:
    from hwnas.profile.networks import build_subject, seeded_images  # needs torch

    return build_subject(subject, seed=seed), seeded_images(subject, batch=setting.batch, seed=seed)


def _built(runner: Runner, network: Network, setting: Setting) -> _Loadable:
    module, images = network
    expected, tolerance = expected_logits(module, images), None
    if setting.precision not in QUANTISED:
        tolerance = parity_tolerance(module, images, precision=setting.precision, runtime=setting.runtime)
    return _Loadable(load=lambda: runner.prepare(module, images, setting), expected=expected, tolerance=tolerance)


def _read(runner: Runner, files: GraphFiles, setting: Setting) -> _Loadable:
    if not isinstance(runner, GraphRunner):
        raise InputError(f"{setting.runtime} must take ONNX graphs to measure one that was made elsewhere")
    images: Array = np.load(files.images, allow_pickle=False)
    expected: Array = np.load(files.expected, allow_pickle=False)
    graph = Path(files.graph).read_bytes()
    return _Loadable(load=lambda: runner.load(graph, images, setting), expected=expected, tolerance=files.tolerance)


def _check(session: RuntimeSession, network: _Loadable, *, precision: str) -> OutputParity:
    if network.tolerance is None:
        return require_agreement(session.outputs(), network.expected, precision=precision)
    return require_parity(session.outputs(), network.expected, precision=precision, tolerance=network.tolerance)


def first_gpu_uuid(environ: Mapping[str, str] = os.environ) -> str:
    """Return the UUID of CUDA's first GPU, or of its slice, by which NVML knows it."""
    named = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if named.startswith("MIG-"):
        return named
    import torch

    reported = torch.cuda.get_device_name(0)
    if " MIG " in reported:  # torch knows the UUID of no slice
        slices = [gpu.uuid for gpu in detect().gpus if normalised(gpu.reported) == normalised(reported)]
        return next((uuid for uuid in slices if uuid.startswith("MIG-")), "MIG-unknown")
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def require_runner(setting: Setting) -> Runner:
    """Return the runner of a setting.

    Raises:
        MissingError: The runtime is not installed, or CUDA's first GPU is not the device of the setting.
        InputError: The runtime does not support the setting.
    """
    runner, device = load_runner(setting.runtime), device_of(setting)
    availability = runner.available(device)
    if not availability.available:
        hint = f"pip install 'hwnas[{availability.extra}]'" if availability.extra else None
        raise MissingError(f"{setting.runtime} cannot be used on {device.name}: {availability.reason}", hint=hint)
    if device.has_cuda:
        _require_first_gpu(device)
    support = runner.supports(setting)
    if not support.available:
        raise InputError(support.reason, got=f"{setting.runtime} in {setting.precision}")
    return runner


def classify_failure(error: Exception, *, stage: str) -> Failure:
    """Convert an error to a failure of the network: a category and a message of one line.

    Args:
        error: The error.
        stage: The stage in which it was raised.
    """
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, HwnasError):
        message = error.message if error.got is None else f"{error.message}, got {error.got}"
    message = " ".join(message.split())
    reason = _failure_reason(error, stage=stage)
    if reason == "crash":
        message = f"in stage: {stage}: {message}"
    if len(message) > _MAX_MESSAGE:
        message = f"{message[: _MAX_MESSAGE - 1]}…"
    return Failure(reason=reason, message=message)


def _failure_reason(error: Exception, *, stage: str) -> Reason:
    """The category of an error: by its type, else by phrases of the runtimes, which have no types for them."""
    text = str(error).casefold()
    if isinstance(error, MeasurementError):
        return error.reason
    if isinstance(error, (MemoryError, *_torch_errors("OutOfMemoryError"))) or any(
        phrase in text for phrase in _OUT_OF_MEMORY
    ):
        return "memory"
    if isinstance(error, (NotImplementedError, MissingError)) or any(phrase in text for phrase in _UNSUPPORTED):
        return "unsupported"
    if isinstance(error, _torch_errors("AcceleratorError")) or any(phrase in text for phrase in _GPU_ERRORS):
        return "crash"
    return "export" if stage in ("build", "prepare") else "crash"


def _torch_errors(name: str) -> tuple[type[Exception], ...]:
    """The class of an error of torch, if torch is loaded."""
    torch = sys.modules.get("torch")
    return () if torch is None else (getattr(torch, name),)


def _require_first_gpu(device: Device) -> None:
    """Require that CUDA's first GPU, which all runners use, is of the requested model."""
    import torch

    if torch.cuda.get_device_properties(0).is_integrated:
        return  # CUDA reports the chip, while the device is named after its board; there is no second GPU
    reported = torch.cuda.get_device_name(0)
    known = match(reported)
    if device.name == known.name if known else normalised(reported) in map(normalised, device.reported):
        return
    hint = "CUDA_VISIBLE_DEVICES=UUID of that GPU (nvidia-smi -L), or CUDA_DEVICE_ORDER=PCI_BUS_ID"
    raise MissingError(f"the first GPU of CUDA must be the device {device.name}", got=reported, hint=hint)


def _require_writable_cache(setting: Setting) -> None:
    """Require room for graph templates up front; without it, every network would fail for the same reason."""
    if setting.exporter == "composed" and not setting.runtime.startswith("torch"):
        from hwnas.data_paths import cache_folder
        from hwnas.export.templates import require_writable

        require_writable(cache_folder())


def _save_engine(session: RuntimeSession, path: Path) -> None:
    if not isinstance(session, EngineSession):
        raise InputError("the runtime must build an engine that can be saved", got=type(session).__name__)
    session.save_engine(path)


def _within_free_memory(setting: Setting) -> AbstractContextManager[None]:
    # CUDA reserves address space far beyond what it uses, so a limit would refuse it; the device has its own limit.
    return memory_limit() if device_of(setting).kind == "cpu" else nullcontext()


def _clean_up() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # raised again by a context that an error of the GPU has broken
            torch.cuda.empty_cache()
