"""Metrics of a network by name, and the deployments that they are measured in.

    accuracy · macs · params                          of the network alone
    knn_accuracy · divergence                         of the network, if it is inside a pretrained model
    latency_ms · throughput · memory_mb · energy_j    of the network in a deployment

A metric is written `throughput@h200/torch-graph/bf16/b64`: its name, then device, runtime, precision, batch and
threads (`t4`). What is left out is None, and is filled in from what was profiled.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from hwnas.arguments import checked_arguments
from hwnas.config import Between, FileName, require_valid
from hwnas.errors import InputError, UsageError, nearest, unknown
from hwnas.files import require_file_name
from hwnas.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Goal = Literal["min", "max"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int8-dynamic"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All precisions that are known by name; a runtime, an exporter or a datasheet has some of them."""

QUANTISED: tuple[Precision, ...] = ("fp8", "int8", "int8-dynamic")
"""Precisions that may change the accuracy of a network; in all others it is taken to be that of fp32. The scales of
'int8' are from calibration images, 'int8-dynamic' computes those of activations in each run."""

PRECISION_PREFERENCE: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32", "int8", "int8-dynamic", "fp8")
"""The order in which predictors are preferred where no precision is specified."""


def unknown_precision(name: str) -> UsageError:
    """Make the error for the name of no precision."""
    near = nearest(name, PRECISIONS)
    return UsageError(
        f"precision {name!r} is not known",
        got=name,
        known=PRECISIONS,
        hint=None if near is None else f"--precision {near}",
        correction=None if near is None else (name, near),
    )


def _require_runtime(name: str, location: str) -> None:
    require_file_name(name, what="the name of a runtime")
    module, colon, attribute = location.partition(":") if isinstance(location, str) else ("", "", "")
    if not (colon and module and attribute.isidentifier()):
        raise InputError(f"runtime {name} must be registered as MODULE:CLASS", got=ascii(location)[:200])


RUNTIMES: Registry[str] = Registry(
    "runtime",
    [
        ("tensorrt", "hwnas.profile.runners.tensorrt:TensorRtRunner"),
        ("tensorrt-rtx", "hwnas.profile.runners.tensorrt:TensorRtRtxRunner"),
        ("torch-graph", "hwnas.profile.runners.torch:TorchGraphRunner"),
        ("openvino", "hwnas.profile.runners.openvino:OpenVinoRunner"),
        ("onnxruntime", "hwnas.profile.runners.onnxruntime:OnnxRuntimeRunner"),
        ("torch-compile", "hwnas.profile.runners.torch:TorchCompileRunner"),
        ("torch", "hwnas.profile.runners.torch:TorchRunner"),
    ],
    hint="--runtime {}",
    check=_require_runtime,
)
"""Location of each runner class, imported when networks are timed with it."""

ANY_BATCH: Literal["any"] = "any"
"""The batch of figures whose rows have different batches, such as those of a published table."""

MAX_BATCH = 65_536
MAX_THREADS = 1024

_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*", re.ASCII)
_BATCH = re.compile(r"b([1-9][0-9]{0,18}|any)")
_THREADS = re.compile(r"t([1-9][0-9]{0,18})")
_MAX_BOUND = 60
"""Most characters of a bound, which a regular expression with several variable parts reads."""
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Device, runtime, precision, batch size and threads; None for what is not specified."""

    device: FileName | None = None
    runtime: FileName | None = None
    """One of `RUNTIMES`."""
    precision: FileName | None = None
    """One of `PRECISIONS`."""
    batch: Annotated[int, Between(1, MAX_BATCH)] | Literal["any"] | None = None
    """`ANY_BATCH`: it differs from row to row, and a predictor fitted to such rows answers for each batch."""
    threads: Annotated[int, Between(1, MAX_THREADS)] | None = None
    """CPU threads; None if unknown."""

    def __post_init__(self) -> None:
        require_valid(self)

    @classmethod
    @checked_arguments
    def parse(cls, text: str, *, source: str | None = None) -> "Deployment":
        """Read the form that `str` writes; all parts are optional, and those after the device have any order.

        Args:
            text: `h200/torch-graph/bf16/b64`.
            source: What error messages quote in place of `text`.
        """
        source = source or text
        device, *parts = text.split("/")
        if _kind_of_part(device) is not None:
            device, parts = "", [device, *parts]
        by_kind: dict[str, str] = {}
        for part in parts:
            kind = _kind_of_part(part)
            if kind is None:
                raise unknown(f"in {source!r} the part", part, [*RUNTIMES, *PRECISIONS, "b1", "t1"])
            if kind in by_kind:
                raise InputError(f"a deployment has one {kind}", got=source)
            by_kind[kind] = part
        batch, threads = by_kind.get("batch"), by_kind.get("threads")
        return cls(
            device=device or None,
            runtime=by_kind.get("runtime"),
            precision=by_kind.get("precision"),
            batch=ANY_BATCH if batch == f"b{ANY_BATCH}" else int(batch[1:]) if batch else None,
            threads=int(threads[1:]) if threads else None,
        )

    @property
    def slug(self) -> str:
        """The name of a folder under that of its device: `onnxruntime-fp32-b1-t1`."""
        return "-".join(self._parts())

    @property
    def fixed_batch(self) -> int | None:
        """The batch; None where it is not specified or differs from row to row."""
        return self.batch if isinstance(self.batch, int) else None

    def matches(self, other: "Deployment") -> bool:
        """Return True if `other` is all that this deployment specifies; one of any batch is of each."""
        wanted = replace(self, batch=None) if other.batch == ANY_BATCH else self
        return all(value in (None, getattr(other, name)) for name, value in vars(wanted).items())

    def completed(self, other: "Deployment") -> "Deployment":
        """The deployment with what it does not specify taken from another one."""
        return Deployment(**{name: vars(other)[name] if value is None else value for name, value in vars(self).items()})

    def _parts(self) -> list[str]:
        batch = None if self.batch is None else f"b{self.batch}"
        threads = None if self.threads is None else f"t{self.threads}"
        return [part for part in (self.runtime, self.precision, batch, threads) if part is not None]

    def __str__(self) -> str:
        return "/".join([*([] if self.device is None else [self.device]), *self._parts()])


UNSPECIFIED = Deployment()

DEFAULT_DEPLOYMENT = Deployment(precision="fp32", batch=1, threads=1)
"""Defaults of a measurement."""


def _kind_of_part(text: str) -> str | None:
    """Return the kind of a part of a deployment that is no device, or None if it is not known."""
    if text in RUNTIMES:
        return "runtime"
    if text in PRECISIONS:
        return "precision"
    if _BATCH.fullmatch(text):
        return "batch"
    return "threads" if _THREADS.fullmatch(text) else None


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """The quantity behind a metric; `units` are the suffixes of bounds with their factors."""

    name: str
    goal: Goal
    unit: str
    units: Mapping[str, float]
    on_device: bool = True
    largest: float = float("inf")
    """Largest possible value; the smallest is 0."""
    uninformed: Callable[[int], float] | None = None
    """From the number of classes, the value of a network that gives all images the same answer; None: it is unknown."""

    @property
    def is_share(self) -> bool:
        """True if values are shares, which are shown in percent."""
        return self.largest == 1

    def parse(self, text: str) -> float:
        """Return the value of a number with or without a unit: `8`, `8ms`, `1.4G`.

        Raises:
            UnknownNameError: There is no such unit; its hint is the number with the nearest one.
            InputError: It is no number.
        """
        match = _NUMBER.fullmatch(text) if len(text) <= _MAX_BOUND else None
        if match is None:
            raise InputError(f"a bound of {self.name} must be a number, with or without a unit", got=text)
        number, unit = match.groups()
        if unit not in self.units:
            known = [suffix for suffix in self.units if suffix]
            raise unknown(f"unit of {self.name}:", unit, known, hint=f"{number}{{}}")
        return float(number) * self.units[unit]


METRICS: Registry[Quantity] = Registry("metric")
"""All metrics that a search can ask for."""

for _quantity in (
    Quantity(name="accuracy", goal="max", unit="", units={"": 1.0, "%": 0.01}, on_device=False, largest=1.0),
    Quantity(
        name="divergence",
        goal="min",
        unit="nats",
        units={"": 1.0, "nats": 1.0},
        on_device=False,
        uninformed=lambda num_classes: math.log(
            max(2, num_classes)
        ),  # equal shares, and a model that is always certain
    ),
    Quantity(name="energy_j", goal="min", unit="J", units={"": 1.0, "J": 1.0, "mJ": 1e-3}),
    Quantity(name="knn_accuracy", goal="max", unit="", units={"": 1.0, "%": 0.01}, on_device=False, largest=1.0),
    Quantity(name="latency_ms", goal="min", unit="ms", units={"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3}),
    Quantity(name="mAP", goal="max", unit="", units={"": 1.0, "%": 0.01}, on_device=False, largest=1.0),
    Quantity(name="mIoU", goal="max", unit="", units={"": 1.0, "%": 0.01}, on_device=False, largest=1.0),
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

QualityMetric = Literal["accuracy", "knn_accuracy", "divergence", "mAP", "mIoU"]
QUALITIES: tuple[QualityMetric, ...] = get_args(QualityMetric)
"""The metrics that networks are evaluated for with the weights of a supernet; a search has at most one. `accuracy` is
that of the classifier, `knn_accuracy` that of the nearest training images by the features, and `divergence` the mean
KL divergence of the classes from those of the pretrained model. Networks for detection have COCO's mean average
precision, `mAP`, those for segmentation the mean intersection over union, `mIoU`."""

TASK_QUALITIES: tuple[QualityMetric, ...] = ("mAP", "mIoU")
"""The metrics of networks for detection and for segmentation, which have no other."""

MeasuredMetric = Literal["latency_ms", "throughput", "memory_mb", "energy_j"]
MEASURED_METRICS: tuple[MeasuredMetric, ...] = get_args(MeasuredMetric)
"""The metrics of a deployment, which profiles measure and predictors are fitted to."""

TIMED_METRICS: tuple[MeasuredMetric, ...] = ("latency_ms", "throughput")
"""The measured metrics that follow from the time of a run."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and the deployment that it is of."""

    name: str
    deployment: Deployment = UNSPECIFIED
    """Empty for a metric of the network alone."""

    def __post_init__(self) -> None:
        if not self.quantity.on_device and self.deployment != UNSPECIFIED:
            raise InputError(f"{self.name} is the same on every device", got=str(self), hint=self.name)

    @property
    def quantity(self) -> Quantity:
        """The quantity that is measured."""
        return METRICS.get(self.name)

    @property
    def maximised(self) -> bool:
        """True if more of it is better."""
        return self.quantity.goal == "max"

    def matches(self, other: "Metric") -> bool:
        """Return True if `other` has the same name and all that this metric specifies of its deployment."""
        return self.name == other.name and self.deployment.matches(other.deployment)

    def completed(self, deployment: Deployment) -> "Metric":
        """The metric with what its deployment does not specify; one of the network alone is unchanged."""
        return replace(self, deployment=self.deployment.completed(deployment)) if self.quantity.on_device else self

    def with_device(self, device: str) -> "Metric":
        """The same metric on another device."""
        return replace(self, deployment=replace(self.deployment, device=device))

    def shown(self, value: float) -> str:
        """Return a value with its unit, as messages show it."""
        return f"{value:.2%}" if self.quantity.is_share else f"{value:,.6g} {self.quantity.unit}".rstrip()

    def to_target(self, figures: "NDArray[np.float64]", *, batch: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Convert figures to what models fit: those of one run of a batch, less being better."""
        return _MS_PER_S * batch / figures if self.name == "throughput" else figures

    def from_target(self, target: "NDArray[np.float64]", *, batch: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Convert what models predict to figures."""
        return _MS_PER_S * batch / target if self.name == "throughput" else target

    def require_batch(self, batch: int | None) -> int:
        """Return the batch to predict at: the measured one, or `batch` where several were measured."""
        measured = self.deployment.fixed_batch
        if measured is None:
            if batch is None:
                raise InputError(f"{self} needs a batch: its rows have different ones", hint="--batch 256")
            return batch
        if batch is not None and batch != measured:
            raise InputError(f"{self} was measured at another batch", got=batch, known=[measured])
        return measured

    def __str__(self) -> str:
        deployment = str(self.deployment)
        return f"{self.name}@{deployment}" if deployment else self.name


def parse_metric(text: str, *, what: str = "metric") -> Metric:
    """Parse the name of a metric: `accuracy`, `latency_ms@cpu`, `throughput@h200/torch-graph/bf16/b64`.

    Args:
        text: The name, with a deployment where the metric has one.
        what: What error messages call it.

    Raises:
        InputError: There is no such metric, or a part of the deployment is not known.
    """
    name, at, rest = text.strip().partition("@")
    if name not in METRICS:
        raise unknown(what, name, METRICS)
    quantity = METRICS.get(name)
    if not at:
        return Metric(name=quantity.name)
    if not quantity.on_device:
        raise InputError(f"{quantity.name} is the same on every device", got=text, hint=quantity.name)
    deployment = Deployment.parse(rest, source=text)
    if deployment.device is None:
        raise InputError(f"after {name}@ a device must be named", got=text, hint=f"{name}@h200")
    return Metric(name=quantity.name, deployment=deployment)


INDISTINCT_SUPERNET = "the supernet hardly separates its networks"
"""Beginning of a warning."""


def indistinct_supernet_warning(
    smallest: float, largest: float, *, num_images: int, command: str | None = None
) -> str | None:
    """Warn if the smallest and the largest network of a supernet are statistically indistinguishable.

    Args:
        smallest: Top-1 accuracy of the smallest network, from 0 to 1.
        largest: Top-1 accuracy of the largest network on the same images.
        num_images: Number of held-out images.
        command: The command that trains the supernet for longer, if it is known.

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
    longer = "for more --epochs" if command is None else f"for longer ({command})"
    return (
        f"{INDISTINCT_SUPERNET}: {accuracies} on {num_images:,} held-out images, and {reason}; "
        f"train {longer} or with another --recipe before a search"
    )
