"""The data of a report as frozen values, which `gather` reads from runs, and the formatting of metric values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.metrics import parse_metric
from hwnas.predict.card import Card
from hwnas.report.training import TrainingCurve
from hwnas.runs import Manifest
from hwnas.search.objective import Metrics
from hwnas.search.record import MetricCheck, ReferenceNetwork, SearchRecord
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes, Mask

Role = Literal["objective", "constraint", "other"]

_ACCURACIES = {"accuracy": "accuracy", "knn_accuracy": "accuracy of nearest images", "mAP": "mAP", "mIoU": "mIoU"}

COSTS = ("macs", "params")
"""Metrics of the network alone that are no measure of its quality."""

REFERENCE_PIXELS = 224
"""Image size of the well-known reference networks."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A metric of a search, described for display."""

    key: str
    """Full name with deployment; the key of its values."""
    name: str
    unit: str
    where: str
    """Device, runtime, precision and batch; empty for a metric that does not depend on them."""
    maximised: bool
    role: Role
    predicted: bool
    """True if the search used predictions with intervals."""
    largest: float = 0.0
    """The largest value of a candidate, which decides on the unit of an axis."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All candidates of a search, one per row; an unknown value is NaN."""

    genomes: Genomes
    used: Mask
    """Genes that the network of a row uses."""
    metrics: Metrics
    generations: NDArray[np.intp]
    feasible: Mask
    """Rows that violate no constraint, as far as their values are known."""
    on_front: Mask

    def __len__(self) -> int:
        return len(self.genomes)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network on the front of a search."""

    row: int
    """Row of the network in the candidates."""
    arch_id: str
    """Followed by the deployment where the search chose among several."""
    network_id: str
    deployment: str | None
    """The deployment that the search chose for the network; None where there was no choice."""
    arch: Mapping[str, Any]
    params: int
    macs: int
    metrics: Mapping[str, MetricCheck]
    """By metric key; measured values are None if the network was not verified."""
    violated: tuple[str, ...]
    """Constraints that the measured values violate."""
    failure: str | None
    measured: bool
    unmeasured: tuple[str, ...]
    """Metrics of devices that are predicted although others were measured."""
    on_measured_front: bool | None
    """None if the front was not measured."""
    exported_to: str | None
    """Folder of the exported network, relative to the run."""
    float_accuracy: float | None = None
    """Accuracy in float32, where networks of the front run in a precision that changes accuracy."""

    @property
    def stands(self) -> bool:
        """True if it is on the front after verification: measured values neither dominate it nor violate a limit."""
        return self.failure is None and not self.violated and self.on_measured_front is not False

    def value(self, key: str) -> float | None:
        """Return the measured value of a metric, or else the value that the search used."""
        check = self.metrics[key]
        return check.predicted if check.measured is None else check.measured


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """State of a search after a generation."""

    candidates: int
    evaluations: int
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class RunData:
    """A search run as a report shows it."""

    name: str
    path: Path
    manifest: Manifest
    record: SearchRecord | None
    """None if the search has not finished."""
    space: AnySpace
    metrics: tuple[MetricInfo, ...]
    constraints: tuple[str, ...]
    candidates: Candidates
    front: tuple[Member, ...]
    """The searched front, sorted by the first objective, best first; those that `stands` are the measured front."""
    history: tuple[HistoryPoint, ...]
    outside: Mapping[str, Sequence[int]]
    """By metric, front indices outside the fitted range of its predictor; only metrics that could be checked."""
    cards: Mapping[str, Card]
    """By metric, the cards of the predictors that the search used."""
    hashes: Mapping[str, str]
    """SHA-256 of the files that the report was made from."""
    trainings: tuple[TrainingCurve, ...] = ()
    """Loss of the supernet and of retrained networks, where their runs are still in place."""

    @property
    def finished(self) -> bool:
        """True if the search has finished."""
        return self.record is not None

    @property
    def verified(self) -> bool:
        """True if the front was measured on all devices of the search."""
        verification = None if self.record is None else self.record.verification
        return verification is not None and verification.status == "verified"

    @property
    def measured(self) -> bool:
        """True if the front was measured on at least one device."""
        verification = None if self.record is None else self.record.verification
        return verification is not None and verification.has_measurements

    @property
    def unmeasured(self) -> Mapping[str, str]:
        """Device metrics that were not measured although others were, with the reason."""
        verification = None if self.record is None else self.record.verification
        return {} if verification is None else verification.unmeasured

    @property
    def objectives(self) -> tuple[MetricInfo, ...]:
        """The metrics that the search optimised."""
        return tuple(metric for metric in self.metrics if metric.role == "objective")

    @property
    def references(self) -> tuple[ReferenceNetwork, ...]:
        """Reference networks for comparison: well-known ones only if they have the same image size as the run."""
        return () if self.record is None else comparable_networks(self.record, self.space)

    @property
    def references_note(self) -> str | None:
        """The reason why the reference networks of the run are not shown, or None."""
        networks = () if self.record is None else self.record.reference_networks
        hidden = [item for item in networks if item not in self.references]
        if not hidden:
            return None
        # In a search over deployments a reference network occurs once in each, with its name in front.
        bare = (item.name.removesuffix(f" {item.deployment}") for item in hidden)
        names = " and ".join(dict.fromkeys(bare))
        own = self.space.config.image_size
        pixels = sorted({own, *getattr(self.space.config, "image_sizes", ())})  # each network may choose its own
        taken = str(own) if len(pixels) == 1 else f"{pixels[0]} to {pixels[-1]}"
        sizes = f"images of {REFERENCE_PIXELS} pixels, these networks of {taken}"
        return f"Nothing is compared with {names}, which take {sizes}."

    @property
    def baseline(self) -> ReferenceNetwork | None:
        """The reference network that values are relative to: the model of an elastic space, DeiT-Ti, or the first."""
        for is_baseline in (lambda item: item.kind == "original", lambda item: slug(item.name) == "deit_ti"):
            found = next(filter(is_baseline, self.references), None)
            if found is not None:
                return found
        return next(iter(self.references), None)

    @property
    def deployments(self) -> tuple[str, ...]:
        """The deployments that the search chose among; empty if there was no choice."""
        return tuple(map(str, self.space.deployments)) if isinstance(self.space, DeployedSpace) else ()

    @property
    def has_float_accuracies(self) -> bool:
        """True if networks of the front run in a precision that changes accuracy, and theirs in float32 is known."""
        return self.record is not None and bool(self.record.float_accuracies)

    def predicted_by(self, metric: str) -> tuple[str, str | None]:
        """Return the key and the deployment of the values that the predictor of a metric gives."""
        if self.record is None or self.record.spec.deployments is None:
            return metric, None
        parsed = parse_metric(metric)
        return str(self.record.spec.column_of(parsed)), str(self.record.spec.deployment_of(parsed))

    def metric(self, key: str) -> MetricInfo:
        """Return the metric with a key."""
        return next(metric for metric in self.metrics if metric.key == key)


def comparable_networks(record: SearchRecord, space: AnySpace) -> tuple[ReferenceNetwork, ...]:
    """Return the reference networks of a search; well-known ones only if they take images of the same size."""
    comparable = space.config.image_size == REFERENCE_PIXELS
    return tuple(item for item in record.reference_networks if comparable or item.kind != "known")


def slug(name: str) -> str:
    """Return a name as part of a column name: letters, digits and underscores."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.casefold()).strip("_")


def shown(metric: MetricInfo, value: float | None) -> str:
    """Format a value with its unit: `75.1 %`, `1.26 G MACs`, `8.31 ms`."""
    if value is None:
        return "unknown"
    if metric.name in _ACCURACIES:
        return f"{100 * value:.1f} % {_ACCURACIES[metric.name]}"
    if metric.name in ("macs", "params"):
        return f"{counted(value)} {'MACs' if metric.name == 'macs' else 'parameters'}"
    if metric.name == "divergence":
        return f"a divergence of {three_digits(value)} {metric.unit}"
    return f"{three_digits(value)} {metric.unit}"


def counted(value: float) -> str:
    """Format a count with a prefix: `1.26 G`."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return three_digits(value / factor) + prefix
    return f"{value:g}"


def three_digits(value: float) -> str:
    """Format with at least three digits, without an exponent where possible."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return "unknown" if share is None else f"{100 * share:.{digits}f} %"
