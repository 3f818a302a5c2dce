"""Measurements: raw samples of one network on one device, and everything needed to assess them."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hwnas.config import Between, FileName, UtcTime, from_mapping, parse_json, require_schema, shown, to_mapping
from hwnas.errors import InputError
from hwnas.metrics import ANY_BATCH, Deployment

SCHEMA = "hwnas.measurement/2"
"""Schema that this version writes and reads."""

MEASURE_AGAIN = "measure again, or read it with the version of hwnas that wrote it"
"""Remedy for a profile of another schema."""

ImageSize = Annotated[int, Between(1, 16_384)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
Seconds = Annotated[float, Between(0, 1e9)]

_MAX_NS = 10**15
"""Longest run, about eleven days."""

Reason = Literal["export", "unsupported", "nan", "mismatch", "memory", "crash", "timeout"]
"""Categories of failures."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The measured network: one of a space, or a timm model."""

    source: Literal["space", "timm"]
    name: str
    """Name of the space or the model."""
    network_id: str
    """Identifies the extracted network; a timm model is `timm:NAME`, with `@SIZE` for another size than its own."""
    arch: Mapping[str, Any] | None = None
    """Canonical arch of a network of a space."""
    arch_id: str | None = None
    image_size: ImageSize
    channels: Annotated[int, Between(1, 1024)] = 3
    num_classes: Annotated[int, Between(1, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Deployment and exporter of a measurement. Measurements of different settings are never mixed silently."""

    deployment: Deployment
    """All of its parts are set; a GPU runtime has one host thread."""
    exporter: FileName = "composed"
    """How the runtime got the network: 'composed', 'dynamo', 'dynamo-dynamic' or 'module'. It can affect fusion."""

    def __post_init__(self) -> None:
        missing = [name for name, value in vars(self.deployment).items() if value in (None, ANY_BATCH)]
        if missing:
            raise InputError(f"a measurement must specify {', '.join(missing)}", got=str(self.deployment))

    # The parts of the deployment, with the types of a complete one.

    @property
    def device(self) -> str:
        """The name of the device."""
        return str(self.deployment.device)

    @property
    def runtime(self) -> str:
        """One of `hwnas.metrics.RUNTIMES`."""
        return str(self.deployment.runtime)

    @property
    def precision(self) -> str:
        """One of `hwnas.metrics.PRECISIONS`."""
        return str(self.deployment.precision)

    @property
    def batch(self) -> int:
        """Images in one run."""
        return self.deployment.fixed_batch or 1

    @property
    def threads(self) -> int:
        """Threads of the CPU."""
        return self.deployment.threads or 1


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Times of all runs in order, in nanoseconds.

    For a network that takes less than a few milliseconds, a sample is the mean of several consecutive runs.
    """

    runs_per_sample: Annotated[int, Between(1, 1_000_000)] = 1
    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...] = ()
    """CPU time of the running thread; empty if other threads or a GPU do the work."""
    device_ns: tuple[int, ...] = ()
    """Time by the device's own clock; empty on a CPU."""
    host_ns: tuple[int, ...] | None = None
    """Time that the host took to queue a run on the device; None on a CPU and in profiles of earlier versions."""
    switches: tuple[int, ...] = ()
    """Involuntary context switches during each sample."""
    loop_ns: tuple[int, ...] = ()
    """Time of a fixed loop on the core of each sample, the longer of before and after it; empty if it was not timed."""
    quickest_loop_ns: Annotated[int, Between(1, _MAX_NS)] | None = None
    """Shortest time of that loop in the process until then: on a core that nothing slows down."""

    def __post_init__(self) -> None:
        # Not by the types of the fields: a profile has millions of times, and this is the quickest check of them.
        clocks = (self.wall_ns, self.cpu_ns, self.device_ns, self.host_ns or (), self.loop_ns)
        if not self.wall_ns or not {len(times) for times in (*clocks, self.switches)} <= {0, len(self.wall_ns)}:
            lengths = ", ".join(str(len(times)) for times in (*clocks, self.switches))
            raise InputError("samples must have a time of each clock for each run", got=f"{lengths} times")
        for times in clocks:
            if times and not (min(times) > 0 and max(times) <= _MAX_NS):
                wrong = next(time for time in times if not 0 < time <= _MAX_NS)
                raise InputError(f"the time of a run must be between 1 and {_MAX_NS:.0e} ns", got=shown(wrong))
        if self.switches and min(self.switches) < 0:
            raise InputError("the number of context switches must be at least 0", got=min(self.switches))
        if bool(self.loop_ns) != (self.quickest_loop_ns is not None):
            raise InputError("samples must have the times of the loop and the shortest of all, or neither")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Failure of a measurement: its category and message."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """State of the device before, during or after a measurement; None for what the device does not report."""

    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    """Power that the driver allows."""
    throttle: tuple[str, ...] = ()
    """Reasons why clocks are lower than they could be."""
    other_processes: int | None = None
    """Processes other than those of hwnas that compute on the device."""


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """Differences between the outputs of a runtime and those of torch on the same images."""

    max_absolute: Annotated[float, Between(0, sys.float_info.max)]
    max_relative: Annotated[float, Between(0, sys.float_info.max)]
    """Relative to the largest logit."""
    top1_agreement: Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement of a network in strict pairs with the reference network: raw samples, or a failure."""

    schema: str = SCHEMA
    subject: Subject
    setting: Setting
    environment_id: str
    """Digest of the environment in the manifest. Rows of different environments are never mixed silently."""
    process_id: str
    """Identifies the worker process. A repeat for the noise floor is measured in another one."""
    gpu: str | None = None
    """The driver's UUID of the GPU, or of the slice of one; None on a CPU, and in rows of earlier versions."""
    host: FileName | None = None
    """The machine that measured, where several may measure for one campaign; None: the one of the campaign."""
    seed: Seed
    started_utc: UtcTime
    duration_s: Seconds
    export_s: Seconds | None = None
    samples: Samples | None = None
    reference: Samples | None = None
    memory_mb: float | None = None
    energy_j: float | None = None
    """Per run of the batch."""
    parity: OutputParity | None = None
    before: DeviceState | None = None
    during: DeviceState | None = None
    """State while the network ran."""
    after: DeviceState | None = None
    limited: Mapping[str, float] | None = None
    """Share of the time of the runs in which each limit held the clocks down (0.1 is a tenth), by throttle reason."""
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.failure is None and (self.samples is None or self.reference is None):
            raise InputError("a measurement must have samples of the network and the reference network, or a failure")


def to_line(measurement: Measurement) -> str:
    """Return a measurement as one line of JSON, without a line break."""
    return json.dumps(to_mapping(measurement), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_line(text: str, *, source: str) -> Measurement:
    """Parse a line of JSON.

    Args:
        text: The line.
        source: Name of the line in error messages.

    Raises:
        InputError: The line is not a measurement of this schema.
    """
    data = parse_json(text, source=source)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must hold a measurement", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source, hint=MEASURE_AGAIN)
    return from_mapping(Measurement, data, where=f"{source}: measurement")
