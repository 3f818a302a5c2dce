"""The protocol of the runtimes that networks are timed with, and their names.

A runner turns a module into a session; a session runs one fixed batch again and again. Sessions of several networks
live side by side in one process, so none may change what the others do.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.metrics import RUNTIMES
from hwnas.records import Reason, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether something can be done here, and if not, why and what to install."""

    available: bool
    reason: str = ""
    """Why not; empty where it is available."""
    extra: str | None = None
    """The extra of hwnas that would help: `pip install 'hwnas[EXTRA]'`."""


AVAILABLE = Availability(available=True)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One run of the batch, in nanoseconds."""

    wall_ns: int
    cpu_ns: int | None = None
    """CPU time of the calling thread; None where the work is done elsewhere."""
    device_ns: int | None = None
    """By the device's own clock; None on a CPU."""
    switches: int = 0
    """Involuntary context switches during the run."""


class MeasurementError(InputError):
    """A network cannot be measured; `reason` is the category under which that is recorded."""

    def __init__(self, reason: Reason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason: Reason = reason


@runtime_checkable
class RuntimeSession(Protocol):
    """One network, ready to run one fixed batch of images."""

    def run_once(self) -> Sample:
        """Run the batch, wait until it is done, and say how long it took."""

    def outputs(self) -> "Tensor":
        """The logits of the batch, in float32 on the CPU."""

    def memory_mb(self) -> float | None:
        """Memory that the network takes while it runs, weights included; None where it cannot be told."""

    def close(self) -> None:
        """Give back what the session holds; it is not used afterwards."""


@runtime_checkable
class Runner(Protocol):
    """A runtime."""

    @property
    def name(self) -> str:
        """Its name in `Setting.runtime`."""

    def available(self, device: Device) -> Availability:
        """Whether this runtime is installed here and can use that device of this machine."""

    def supports(self, setting: Setting) -> Availability:
        """Whether it can run in that setting, as far as can be told without a network."""

    def prepare(self, module: "nn.Module", images: "Tensor", setting: Setting) -> RuntimeSession:
        """A session of a module in eval mode on the CPU, for these float32 images.

        The module is not changed. What goes wrong is a `MeasurementError`, or another error, which the caller sorts
        by its type.
        """

    def facts(self, setting: Setting) -> Mapping[str, str]:
        """What else decides how fast it runs: versions, providers, switches; part of the environment."""


RUNNERS = RUNTIMES
"""Where each runner is defined; it is imported when it is asked for."""

DEFAULT_ORDER = ("tensorrt", "torch-graph", "onnxruntime", "torch")
"""The runtimes by preference; the first one that is available is the default."""


def load_runner(name: str) -> Runner:
    """The runner of that name; its class is called without arguments."""
    module, _, attribute = RUNNERS.get(name).partition(":")
    runner: Runner = getattr(import_module(module), attribute)()
    return runner


_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
"""Only Linux counts for one thread."""


def run_timed(run: Callable[[], object], *, threads: int) -> Sample:
    """Run once on the CPU.

    CPU time is that of this thread, which says nothing where others share the work; interruptions are then counted
    over the whole process.
    """
    who = _THREAD if threads == 1 else resource.RUSAGE_SELF
    switches = resource.getrusage(who).ru_nivcsw
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    run()
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    return Sample(
        wall_ns=wall,
        cpu_ns=cpu if threads == 1 else None,
        switches=resource.getrusage(who).ru_nivcsw - switches,
    )
