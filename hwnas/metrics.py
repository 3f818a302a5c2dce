"""Metrics of a network by name: what they count, in which unit, and which way is better.

    accuracy · macs · params                 of the network
    latency_ms · throughput · memory_mb · energy_j    of the network on a device

A device metric is written `throughput@h200/torch-graph/bf16/b64`: device, runtime, precision, batch. What is left
out is None, and is filled in by whoever knows what was profiled.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from hwnas.errors import InputError, unknown
from hwnas.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Goal = Literal["min", "max"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Every precision that is known by name; a runtime, an exporter or a datasheet has some of them."""

RUNTIMES: Registry[str] = Registry(
    "runtime",
    [
        ("tensorrt", "hwnas.profile.runners.tensorrt:TensorRtRunner"),
        ("torch-graph", "hwnas.profile.runners.torch:TorchGraphRunner"),
        ("onnxruntime", "hwnas.profile.runners.onnxruntime:OnnxRuntimeRunner"),
        ("torch-compile", "hwnas.profile.runners.torch:TorchCompileRunner"),
        ("torch", "hwnas.profile.runners.torch:TorchRunner"),
    ],
    hint="--runtime {}",
)
"""Where the runner of each is defined; it is imported when networks are timed with it."""

_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")
_BATCH = re.compile(r"b([1-9]\d*)")
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a metric counts; `units` are the suffixes that a bound may have, each with its factor."""

    name: str
    goal: Goal
    unit: str
    units: Mapping[str, float]
    on_device: bool = True
    most: float = float("inf")
    """No network has more of it; none has less than 0."""

    def parse(self, text: str) -> float:
        """The value behind a number with or without a unit: `8`, `8ms`, `1.4G`."""
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise InputError(f"a bound of {self.name} must be a number, with or without a unit", got=text)
        number, unit = match.groups()
        if unit not in self.units:
            known = [suffix for suffix in self.units if suffix]
            raise unknown(f"unit of {self.name}:", unit, known)
        return float(number) * self.units[unit]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, with the device that it is of; None is what nobody has said yet."""

    name: str
    device: str | None = None
    runtime: str | None = None
    precision: str | None = None
    batch: int | None = None

    @property
    def quantity(self) -> Quantity:
        """What it counts."""
        return METRICS.get(self.name)

    @property
    def maximised(self) -> bool:
        """Whether more of it is better."""
        return self.quantity.goal == "max"

    def completed(
        self,
        *,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        batch: int | None = None,
    ) -> "Metric":
        """The metric with what it leaves out; a metric of the network alone stays as it is."""
        if not self.quantity.on_device:
            return self
        return replace(
            self,
            device=self.device or device,
            runtime=self.runtime or runtime,
            precision=self.precision or precision,
            batch=self.batch or batch,
        )

    def __str__(self) -> str:
        batch = None if self.batch is None else f"b{self.batch}"
        parts = [part for part in (self.device, self.runtime, self.precision, batch) if part is not None]
        return "@".join([self.name, "/".join(parts)]) if parts else self.name


METRICS: Registry[Quantity] = Registry("metric")
"""All metrics that a search can ask for."""

for _quantity in (
    Quantity(name="accuracy", goal="max", unit="", units={"": 1.0, "%": 0.01}, on_device=False, most=1.0),
    Quantity(name="energy_j", goal="min", unit="J", units={"": 1.0, "J": 1.0, "mJ": 1e-3}),
    Quantity(name="latency_ms", goal="min", unit="ms", units={"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3}),
    Quantity(name="macs", goal="min", unit="", units=_COUNTS, on_device=False),
    Quantity(
        name="memory_mb",
        goal="min",
        unit="MB",
        units={"": 1.0, "MB": 1.0, "GB": 1e3, "MiB": 2**20 / 1e6, "GiB": 2**30 / 1e6},
    ),
    Quantity(name="params", goal="min", unit="", units=_COUNTS, on_device=False),
    Quantity(
        name="throughput",
        goal="max",
        unit="images/s",
        units={"": 1.0, "k": 1e3, "K": 1e3, "images/s": 1.0, "img/s": 1.0},
    ),
):
    METRICS.add(_quantity.name, _quantity)


def parse_metric(text: str, *, what: str = "metric") -> Metric:
    """The metric that a text names; `what` is what messages call it."""
    name, at, rest = text.strip().partition("@")
    if name not in METRICS:
        raise unknown(what, name, METRICS)
    quantity = METRICS.get(name)
    if not at:
        return Metric(name=quantity.name)
    if not quantity.on_device:
        raise InputError(f"{quantity.name} is the same on every device", got=text, hint=quantity.name)
    device, *parts = rest.split("/")
    if not device or _part(device) is not None:
        raise InputError(f"after {name}@ a device must be named", got=text, hint=f"{name}@h200")
    return _with_parts(Metric(name=quantity.name, device=device), parts, text=text)


def _with_parts(metric: Metric, parts: list[str], *, text: str) -> Metric:
    found: dict[str, str] = {}
    for part in parts:
        kind = _part(part)
        if kind is None:
            raise unknown(f"in {text!r} the part", part, [*RUNTIMES, *get_args(Precision), "b1"])
        if kind in found:
            raise InputError(f"a metric has one {kind}", got=text)
        found[kind] = part
    batch = int(found["batch"][1:]) if "batch" in found else None
    return replace(metric, runtime=found.get("runtime"), precision=found.get("precision"), batch=batch)


def _part(text: str) -> str | None:
    """Which part of a device metric a text is; None: none that is known."""
    if text in RUNTIMES:
        return "runtime"
    if text in get_args(Precision):
        return "precision"
    return "batch" if _BATCH.fullmatch(text) else None


MetricName = Literal["latency_ms", "throughput", "memory_mb", "energy_j"]

UNITS = {"latency_ms": "ms", "throughput": "images/s", "memory_mb": "MB", "energy_j": "J"}
"""The unit of each metric."""

_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class DeviceMetric:
    """A metric and its setting, written `throughput@h200/torch-graph/bf16/b64`."""

    name: MetricName = "latency_ms"
    device: str
    runtime: str
    precision: str = "fp32"
    batch: int | None = 1
    """None: it was measured at batches that differ from network to network."""

    def __str__(self) -> str:
        batch = "b*" if self.batch is None else f"b{self.batch}"
        return f"{self.name}@{self.device}/{self.runtime}/{self.precision}/{batch}"

    @property
    def more_is_better(self) -> bool:
        """Whether a greater figure is the better one."""
        return self.name == "throughput"

    def to_target(self, figures: "NDArray[np.float64]", *, batch: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Figures as models fit them: those of one run of a batch, less being better."""
        return _MS_PER_S * batch / figures if self.name == "throughput" else figures

    def from_target(self, target: "NDArray[np.float64]", *, batch: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Figures from what models predict."""
        return _MS_PER_S * batch / target if self.name == "throughput" else target

    def require_batch(self, batch: int | None) -> int:
        """The batch to predict at: the measured one, or the one asked for where several were measured."""
        if self.batch is None:
            if batch is None:
                raise InputError(f"{self} needs a batch: its rows have different ones", hint="--batch 256")
            return batch
        if batch is not None and batch != self.batch:
            raise InputError(f"{self} was measured at another batch", got=batch, known=[self.batch])
        return self.batch


def indistinct_supernet_warning(smallest: float, largest: float, *, num_images: int) -> str | None:
    """Warn if the smallest and the largest network of a supernet are statistically indistinguishable.

    Args:
        smallest: Top-1 accuracy of the smallest network, from 0 to 1.
        largest: Top-1 accuracy of the largest network on the same images.
        num_images: Number of held-out images.

    Returns:
        The warning, or None if the largest network is more accurate by over two standard errors.
    """
    # Two-proportion z-test with the pooled variance 2p(1-p)/n. Both networks see the same images, so their errors are
    # positively correlated and the true standard error is smaller: the test errs on the side of warning.
    pooled = (smallest + largest) / 2
    margin = 2 * math.sqrt(2 * pooled * (1 - pooled) / num_images)
    if largest - smallest > margin:
        return None
    accuracies = f"top-1 is {smallest:.2%} for the smallest and {largest:.2%} for the largest network"
    worse = smallest - largest > margin
    reason = "the largest is worse" if worse else f"two standard errors are {100 * margin:.1f} points"
    return (
        f"the supernet hardly separates its networks: {accuracies} on {num_images:,} held-out images, and {reason}; "
        "train for more --epochs or with another --recipe before a search"
    )
