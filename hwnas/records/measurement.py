"""Measurements: raw samples of one network on one device, with all that it takes to know what they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA = "hwnas.measurement/1"
"""The form of a measurement that this version writes and reads."""

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
    """How it is run; rows of different settings are never compared silently."""

    device: str
    runtime: str
    """'onnxruntime', 'torch', 'torch-compile', 'torch-graph' or 'tensorrt'."""
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    """Of the CPU; a GPU runtime has one host thread."""
    exporter: str = "composed"
    """How the runtime got the network: 'composed', 'dynamo', 'dynamo-dynamic' or 'module'; graphs fuse differently."""


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
class Parity:
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
    parity: Parity | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None
    failure: Failure | None = None
