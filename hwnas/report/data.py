"""The data of a report as plain frozen values, gathered by one module and drawn by others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.runs import Manifest
from hwnas.search.objective import Metrics
from hwnas.search.record import MetricCheck, ReferenceNetwork, SearchRecord
from hwnas.space.space import AnySpace, Genomes, Mask

Role = Literal["objective", "constraint", "other"]

LANDMARK_PIXELS = 224
"""The image size of the reference networks."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """One metric of a search as it is shown."""

    key: str
    """Its full text, by which values are found."""
    name: str
    unit: str
    where: str
    """Device, runtime, precision and batch; empty for what is the same everywhere."""
    maximised: bool
    role: Role
    predicted: bool
    """True if the search's values are predictions with intervals."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All candidates, row by row; an unknown value is NaN."""

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
    """One network of the searched front."""

    row: int
    """Its candidate."""
    arch_id: str
    network_id: str
    arch: Mapping[str, Any]
    params: int
    macs: int
    metrics: Mapping[str, MetricCheck]
    """By the key of the metric; measured values are None where it was not verified."""
    violated: tuple[str, ...]
    """Constraints that the measured values violate."""
    failure: str | None
    measured: bool
    unmeasured: tuple[str, ...]
    """Metrics of devices that are predicted although others were measured."""
    on_measured_front: bool | None
    """None where the front was not measured."""
    kit: str | None
    """The folder of the exported network, relative to the run."""

    def value(self, key: str) -> float | None:
        """The best known value of a metric: measured, else as the search saw it."""
        check = self.metrics[key]
        return check.predicted if check.measured is None else check.measured

    def cautious(self, metric: MetricInfo) -> float | None:
        """A metric as it was measured, else the unfavourable end of what was predicted."""
        check = self.metrics[metric.key]
        end = check.lower if metric.maximised else check.upper
        return self.value(metric.key) if check.measured is not None or end is None else end


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a search after a generation."""

    candidates: int
    evaluations: int
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class RunData:
    """One search run."""

    name: str
    path: Path
    manifest: Manifest
    record: SearchRecord | None
    """None while the search goes on."""
    space: AnySpace
    metrics: tuple[MetricInfo, ...]
    constraints: tuple[str, ...]
    candidates: Candidates
    front: tuple[Member, ...]
    """The best of the first objective first."""
    history: tuple[Progress, ...]
    outside: Mapping[str, Sequence[int]]
    """By metric, the places in the front outside what its predictor was fitted to, where that could be told."""
    hashes: Mapping[str, str]
    """SHA-256 of the files that the report was made of."""

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
        """Metrics of devices that were not measured while others were, and why."""
        verification = None if self.record is None else self.record.verification
        return {} if verification is None else verification.unmeasured

    @property
    def objectives(self) -> tuple[MetricInfo, ...]:
        """The metrics that were made better."""
        return tuple(metric for metric in self.metrics if metric.role == "objective")

    @property
    def landmarks(self) -> tuple[ReferenceNetwork, ...]:
        """Well-known networks for comparison, if they have the same image size as the run."""
        return () if self.record is None or not self.comparable else self.record.reference_networks

    @property
    def landmarks_note(self) -> str | None:
        """Why the reference networks of the run are not shown."""
        if self.record is None or self.comparable or not self.record.reference_networks:
            return None
        names = " and ".join(landmark.name for landmark in self.record.reference_networks)
        sizes = f"images of {LANDMARK_PIXELS} pixels, these networks of {self.pixels}"
        return f"Nothing is compared with {names}, which take {sizes}."

    @property
    def pixels(self) -> int:
        """The image size of the networks."""
        return int(self.space.config.image_size)

    @property
    def comparable(self) -> bool:
        """True if the reference networks have the same image size; otherwise their costs are not comparable."""
        return self.pixels == LANDMARK_PIXELS

    @property
    def baseline(self) -> ReferenceNetwork | None:
        """The network that figures are relative to: DeiT-Ti, else the first landmark."""
        named = {slug(landmark.name): landmark for landmark in reversed(self.landmarks)}
        return named.get("deit_ti") or (self.landmarks[0] if self.landmarks else None)

    def metric(self, key: str) -> MetricInfo:
        """The metric of a key."""
        return next(metric for metric in self.metrics if metric.key == key)


def slug(name: str) -> str:
    """A name as part of a column: letters, digits and underscores."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.casefold()).strip("_")


def landmark_value(landmark: ReferenceNetwork, metric: MetricInfo) -> float | None:
    """A metric of a landmark, where it is known."""
    own = {"macs": landmark.macs, "params": landmark.params, "accuracy": landmark.accuracy}
    return own[metric.name] if metric.name in own else landmark.metrics.get(metric.key)
