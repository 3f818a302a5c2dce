"""The protocol of runners, which bring networks into a runtime and time them, and what all runners share.

A runner turns a module into a session; a session runs one fixed batch repeatedly. Sessions of several networks coexist
in one process, so a session must not change global state.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from hwnas.devices import Device
from hwnas.errors import InputError, MissingError
from hwnas.metrics import QUANTISED, RUNTIMES, Deployment
from hwnas.records import Reason, Setting, Subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

RUNTIME_PREFERENCE = ("tensorrt", "tensorrt-rtx", "torch-graph", "openvino", "onnxruntime", "torch")
"""Runtimes by preference; the first available one is the default."""

Clock = Literal["thread", "process", "wall"]
"""The clock of a run on one thread: the CPU time of the calling thread, that of the process where the runtime hands the
batch to a thread of its own, or the wall time alone where a device without a clock does the work."""

Array: TypeAlias = "NDArray[np.float32]"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Availability of a device, a runtime or a precision, with the reason and the remedy if it is missing."""

    available: bool
    reason: str = ""
    """Empty if it is available."""
    extra: str | None = None
    """The extra of hwnas to install: `pip install 'hwnas[EXTRA]'`."""


AVAILABLE = Availability(available=True)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Times of one run of the batch, in nanoseconds."""

    wall_ns: int
    cpu_ns: int | None = None
    """CPU time of the one thread that does the work; None if several threads or a device do it."""
    device_ns: int | None = None
    """Time by the device's own clock; None on a CPU."""
    host_ns: int | None = None
    """Time that the host takes to queue the run on a device; None where that is not timed on its own."""
    switches: int = 0
    """Involuntary context switches during the run."""


class MeasurementError(InputError):
    """A network cannot be measured.

    Args:
        reason: The category under which the failure is recorded.
        message: The problem.
        hint: The remedy.
    """

    def __init__(self, reason: Reason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason: Reason = reason


@runtime_checkable
class RuntimeSession(Protocol):
    """One network, ready to run one fixed batch of images."""

    def run_once(self) -> Sample:
        """Run the batch, wait until it is done and return its times."""

    def outputs(self) -> "Tensor | Array":
        """Return the logits of the batch, in float32 on the CPU."""

    def memory_mb(self) -> float | None:
        """Return the memory that the network takes while it runs, weights included; None if it is not known."""

    def close(self) -> None:
        """Release everything that the session holds. It is not used afterwards."""


@runtime_checkable
class QueuedSession(RuntimeSession, Protocol):
    """A session that can queue several runs on a device and wait for all of them at once."""

    def run_queued(self, runs: int, *, delay_ns: int = 0, while_running: Callable[[], object] = lambda: None) -> Sample:
        """Queue runs, wait until they are done and return the mean times of one.

        Args:
            runs: Number of runs.
            delay_ns: Time for which the device waits before the first run, so that runs are queued when it starts.
            while_running: Called when all runs are queued, before waiting for them.
        """


@runtime_checkable
class EngineSession(RuntimeSession, Protocol):
    """A session of an engine that was built for it and can be kept in a file."""

    def save_engine(self, path: Path) -> None:
        """Write the engine that the session runs."""


class RuntimeChecks(Protocol):
    """The part of a runner that is asked before anything is measured, also about the runtimes of another machine."""

    def available(self, device: Device) -> Availability:
        """Check if the runtime is installed and can use this device of the machine."""

    def supports(self, setting: Setting) -> Availability:
        """Check if the runtime can run in a setting (precision, threads), as far as is known without a network."""


@runtime_checkable
class Runner(Protocol):
    """A runtime, such as ONNX Runtime or TensorRT.

    Register a runner of your own with `RUNTIMES.add(NAME, "MODULE:CLASS")`; its class is called without arguments.
    """

    @property
    def name(self) -> str:
        """The name under which it is registered, as in `--runtime NAME`."""

    def available(self, device: Device) -> Availability:
        """Check if the runtime is installed and can use this device of the machine."""

    def supports(self, setting: Setting) -> Availability:
        """Check if the runtime can run in a setting (precision, threads), as far as is known without a network."""

    def prepare(self, module: "nn.Module", images: "Tensor", setting: Setting) -> RuntimeSession:
        """Bring a network into the runtime.

        Args:
            module: The network, in eval mode on the CPU. It must not be modified.
            images: The batch, in float32 on the CPU.
            setting: Device, precision, threads and exporter.

        Returns:
            A session that runs this batch.

        Raises:
            MeasurementError: The network cannot be measured. Any other exception is sorted by its type and message.
        """

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """Return everything else that affects speed: versions, providers, switches.

        The facts become part of the environment of a profile. Measurements with different facts are never mixed.
        """


@runtime_checkable
class GraphRunner(Runner, Protocol):
    """A runtime of ONNX graphs, which are made on one machine and may be loaded on another that has no torch."""

    def graph(self, module: "nn.Module", images: "Tensor", setting: Setting) -> bytes:
        """Export a module, as `prepare` does, to the graph that `load` takes."""

    def load(self, graph: bytes, images: Array, setting: Setting) -> RuntimeSession:
        """Bring a graph into the runtime, as `prepare` does with a module."""


_on_progress: ContextVar[Callable[[], None]] = ContextVar("on_progress", default=lambda: None)


@contextlib.contextmanager
def report_progress(on_progress: Callable[[], None]) -> Iterator[None]:
    """Have runners call a function while they prepare a network, so that an observer can tell slow from stuck.

    Args:
        on_progress: The function; it may be called from any thread.
    """
    token = _on_progress.set(on_progress)
    try:
        yield
    finally:
        _on_progress.reset(token)


def progress_callback() -> Callable[[], None]:
    """Return the function to call at each step of a long preparation. Ask for it in the thread that prepares."""
    return _on_progress.get()


def load_runner(name: str) -> Runner:
    """Import and create the runner of a name.

    Raises:
        UnknownNameError: No runner has that name.
    """
    module, _, attribute = RUNTIMES.get(name).partition(":")
    runner: Runner = getattr(import_module(module), attribute)()
    return runner


def exporter_for(runtime: str, subject: Subject) -> str:
    """Return how a runtime gets a network: as a module, as a graph composed from blocks, or as a graph by dynamo."""
    if runtime.startswith("torch"):
        return "module"
    return "composed" if subject.source == "space" else "dynamo"


def needs_cuda(device: Device) -> Availability:
    """Return the availability of CUDA on a device that is no GPU of NVIDIA."""
    return Availability(available=False, reason=f"CUDA needs an NVIDIA GPU, and {device.name} is none")


def graph_precision(deployment: Deployment | None) -> str:
    """Return the precision of the graph that a deployment runs: some runtimes lower one in float32 by themselves."""
    if deployment is None or deployment.precision in (None, "tf32"):
        return "fp32"
    lowers = deployment.runtime is not None and getattr(load_runner(deployment.runtime), "lowers_precision", False)
    return "fp32" if lowers and deployment.precision not in QUANTISED else str(deployment.precision)


def default_runtime(device: Device, *, find: "Callable[[str], RuntimeChecks]" = load_runner) -> str:
    """Return the preferred runtime that is available for a device.

    Args:
        device: A device of this machine, or of the machine that `find` asks.
        find: Returns what can be asked about a runtime.

    Raises:
        MissingError: No runtime is available.
    """
    reasons = []
    for name in RUNTIME_PREFERENCE:
        availability = find(name).available(device)
        if availability.available:
            return name
        _log.debug("runtime %s cannot be used: %s", name, availability.reason)
        reasons.append(f"{name}: {availability.reason}")
    message = f"no runtime can use {device.name} on {'this' if find is load_runner else 'that'} machine"
    raise MissingError(message, got="; ".join(reasons), hint="hwnas doctor")


def supporting_runtimes(
    setting: Setting, device: Device, *, find: "Callable[[str], RuntimeChecks]" = load_runner
) -> tuple[str, ...]:
    """Return the available runtimes that can run in a setting, whose own runtime is disregarded, by preference."""
    names = []
    for name in RUNTIME_PREFERENCE:
        runner = find(name)
        candidate = replace(setting, deployment=replace(setting.deployment, runtime=name))
        if runner.available(device).available and runner.supports(candidate).available:
            names.append(name)
    return tuple(names)


def run_timed(run: Callable[[], object], *, threads: int, clock: Clock = "thread") -> Sample:
    """Time one run on the CPU.

    CPU time is that of the thread that does the work. It is left out if several threads share the work; context
    switches are then counted over the whole process, to find the undisturbed runs.

    Args:
        run: Runs the batch once.
        threads: Number of threads of the runtime.
        clock: The clock of a run on one thread, as `working_clock` returns it.
    """
    import resource  # not on Windows, where profiles can still be read and searched

    per_thread = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # only Linux counts per thread
    who = per_thread if threads == 1 and clock == "thread" else resource.RUSAGE_SELF
    cpu_time_ns = time.process_time_ns if clock == "process" else time.thread_time_ns
    switches = resource.getrusage(who).ru_nivcsw
    wall, cpu = time.perf_counter_ns(), cpu_time_ns()
    run()
    cpu, wall = cpu_time_ns() - cpu, time.perf_counter_ns() - wall
    return Sample(
        wall_ns=wall,
        cpu_ns=cpu if threads == 1 and clock != "wall" else None,
        switches=resource.getrusage(who).ru_nivcsw - switches,
    )


def working_clock(run: Callable[[], object]) -> Clock:
    """Return the clock of a runtime with one thread: 'thread' if the caller's thread does the work, else 'process'."""
    thread, process = time.thread_time_ns(), time.process_time_ns()
    run()
    thread, process = time.thread_time_ns() - thread, time.process_time_ns() - process
    # A runtime that only waits in the calling thread leaves under 1 % of the work there.
    return "thread" if 2 * thread >= process else "process"
