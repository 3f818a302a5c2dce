"""Messages between a campaign and its worker processes: tasks, results and facts, as lines of JSON.

They travel over a socket that a worker process inherits, and not over its standard streams: extensions and libraries
may print to those at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwnas.errors import HwnasError, InputError, MissingError, UnknownNameError, UsageError
from hwnas.profile.reference import REFERENCE
from hwnas.profile.timing import PAIRS
from hwnas.records import DeviceState, Failure, Measurement, OutputParity, Samples, Setting, Subject

if TYPE_CHECKING:
    from typing import Self

CHANNEL_VARIABLE = "HWNAS_WORKER_CHANNEL"
"""Environment variable of a worker process: the number of the inherited descriptor of its socket."""


class ReferenceNetworkError(InputError):
    """The reference network does not run in the setting of a task, so that no network can be measured in it.

    Args:
        task: The task.
        failure: The failure of the reference network.
    """

    def __init__(self, task: "MeasurementTask", failure: Failure) -> None:
        message = f"the reference network {task.reference.network_id} must run on {task.setting.runtime}"
        super().__init__(f"{message} with batch {task.setting.batch}", got=f"{failure.reason}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """Files of a network whose graph was made elsewhere: where it is measured, nothing is built or exported."""

    graph: str
    """Path of the ONNX graph."""
    images: str
    """Path of the batch, as numpy saves a float32 array."""
    expected: str
    """Path of torch's logits of the first images, as numpy saves a float32 array."""
    tolerance: float | None
    """Largest difference allowed relative to the largest logit; None for a quantised network."""


@dataclass(frozen=True, kw_only=True)
class MeasurementTask:
    """One network to measure in strict pairs with the reference network."""

    subject: Subject
    setting: Setting
    seed: int
    """Of weights and images."""
    pairs: int = PAIRS
    reference: Subject = REFERENCE
    engine_file: str | None = None
    """Path to write the engine to that the network was timed with."""
    graph_files: GraphFiles | None = None
    """Files of the network; None: it is built and exported in the process that measures it."""
    reference_files: GraphFiles | None = None
    """Files of the reference network, if there are those of the network."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Samples of a task, or its failure."""

    process_id: str
    """Identifies the worker process."""
    started_utc: str
    duration_s: float
    samples: Samples | None = None
    reference: Samples | None = None
    export_s: float | None = None
    """Time from the module to a session that can run."""
    memory_mb: float | None = None
    energy_j: float | None = None
    parity: OutputParity | None = None
    before: DeviceState | None = None
    during: DeviceState | None = None
    after: DeviceState | None = None
    limited: Mapping[str, float] | None = None
    failure: Failure | None = None

    def to_measurement(
        self, task: MeasurementTask, *, environment_id: str, gpu: str | None = None, host: str | None = None
    ) -> Measurement:
        """Return the row to record."""
        return Measurement(
            subject=task.subject,
            setting=task.setting,
            seed=task.seed,
            environment_id=environment_id,
            gpu=gpu,
            host=host,
            **vars(self),
        )


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Facts about a worker process that belong to the environment of its measurements."""

    process_id: str
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Versions, providers and switches of the runtime."""
    notes: tuple[str, ...] = ()
    """Anything that cannot be recorded on this machine, with the reason."""


@dataclass(frozen=True, kw_only=True)
class WorkerError:
    """An error of hwnas that was raised in a worker process."""

    kind: str
    """Name of its class."""
    message: str
    got: str | None = None
    hint: str | None = None
    failure: Failure | None = None
    """The failure of the reference network, if that is the error."""

    @classmethod
    def of(cls, error: HwnasError) -> "Self":
        """Return the message about an error that was raised in this process."""
        return cls(
            kind=type(error).__name__,
            message=error.message,
            got=None if error.got is None else str(error.got),
            hint=error.hint,
            failure=error.failure if isinstance(error, ReferenceNetworkError) else None,
        )

    def rebuilt(self) -> HwnasError:
        """Return the error that was raised in the worker process, except for that of a reference network."""
        kinds = {kind.__name__: kind for kind in (MissingError, UnknownNameError, UsageError)}
        return kinds.get(self.kind, InputError)(self.message, got=self.got, hint=self.hint)
