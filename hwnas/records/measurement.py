"""Measurements: raw samples of one network on one device, with all that it takes to know what they are worth."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.metrics import ANY_BATCH, Deployment

SCHEMA = "hwnas.measurement/2"
"""The form of a measurement that this version writes and reads."""

MEASURE_AGAIN = "measure again, or read it with the version of hwnas that wrote it"
"""What to do with a profile in another form."""

Reason = Literal["export", "unsupported", "nan", "mismatch", "memory", "crash", "timeout"]
"""Why a network could not be measured."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network that is measured: one of a space, or a model of timm."""

    source: Literal["space", "timm"]
    name: str
    """The space or the model."""
    network_id: str
    """Names the extracted network; of a timm model `timm:NAME`, with `@SIZE` where the image size is not its own."""
    arch: Mapping[str, Any] | None = None
    """The canonical arch of a network of a space."""
    arch_id: str | None = None
    image_size: int
    channels: int = 3
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a network is run; rows of different settings are never compared silently."""

    deployment: Deployment
    """Complete; a GPU runtime has one host thread."""
    exporter: str = "composed"
    """How the runtime got the network: 'composed', 'dynamo', 'dynamo-dynamic' or 'module'; graphs fuse differently."""

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
    """Every timed run in order, in nanoseconds; `switches` counts involuntary context switches in the run.

    Of a network that takes less than a few milliseconds, a sample is the mean of several runs in a row.
    """

    runs_per_sample: int = 1
    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...] = ()
    """CPU time of the running thread; empty where it says nothing (several threads, a GPU)."""
    device_ns: tuple[int, ...] = ()
    """By the device's own clock; empty on a CPU."""
    switches: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there are no samples."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What the device said of itself around a measurement; None where it does not tell."""

    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttle: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """How the runtime's outputs compare with torch's on the same images."""

    max_absolute: float
    max_relative: float
    top1_agreement: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One network measured once, in strict pairs with the reference network: raw samples or a failure."""

    schema: str = SCHEMA
    subject: Subject
    setting: Setting
    environment_id: str
    """Digest of the environment in the manifest; rows of different environments are never mixed silently."""
    process_id: str
    """Names the worker process: networks measured again for the noise floor are measured in another one."""
    seed: int
    started_utc: str
    duration_s: float
    export_s: float | None = None
    samples: Samples | None = None
    reference: Samples | None = None
    memory_mb: float | None = None
    energy_j: float | None = None
    """Per run of the batch."""
    parity: OutputParity | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None
    failure: Failure | None = None


def to_line(measurement: Measurement) -> str:
    """One line without its line break; samples are plain lists of whole nanoseconds."""
    return json.dumps(to_mapping(measurement), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_line(text: str, *, source: str) -> Measurement:
    """The measurement in a line; `source` names the line in messages."""
    data = parse_json(text, source=source)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must hold a measurement", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source, hint=MEASURE_AGAIN)
    subject = parse_subject(data.get("subject"), where=f"{source}: subject")
    plain = {**data, "subject": to_mapping(replace(subject, arch=None))}
    measurement = replace(from_mapping(Measurement, plain, where=source), subject=subject)
    for samples in filter(None, (measurement.samples, measurement.reference)):
        _require_whole(samples, source=source)
    return measurement


def parse_subject(data: object, *, where: str) -> Subject:
    """A subject from its plain values; its arch is kept as it is."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where} must be a table of named values", got=shown(data))
    arch = data.get("arch")
    if arch is not None and not isinstance(arch, Mapping):
        raise InputError(f"{where}.arch must be a table of named values", got=shown(arch))
    plain: dict[str, Any] = {name: value for name, value in data.items() if name != "arch"}
    return replace(from_mapping(Subject, plain, where=where), arch=arch)


def _require_whole(samples: Samples, *, source: str) -> None:
    """Every clock has a time for each run, or for none."""
    lengths = [len(values) for values in (samples.wall_ns, samples.cpu_ns, samples.device_ns, samples.switches)]
    if not samples.wall_ns or not set(lengths) <= {0, lengths[0]}:
        raise InputError(f"{source} must have a time for each run", got=", ".join(map(str, lengths)))


def require_schema(
    got: object, *, expected: str, source: str, hint: str = "read it with the version of hwnas that wrote it"
) -> None:
    """A file must have the form that this version reads."""
    if got != expected:
        raise InputError(f"{source} has another form", got=shown(got), known=[expected], hint=hint)
