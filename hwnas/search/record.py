"""The result of a search, in one file of its run: specification, front, verification, reference networks, winners.

    RUN/search.json     a `SearchRecord`, written when the search ends and again when its front is verified
    RUN/study.sqlite    every candidate

Metrics are named by their full text, `throughput@h200/torch-graph/bf16/b64`. Paths are those of the searching machine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from hwnas.config import Between, FileName, UtcTime, from_mapping, load_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.runs import missing_run
from hwnas.search.pareto import HypervolumeBounds
from hwnas.search.spec import MAX_SEED, Confidence, SearchSpec, require_inside

SCHEMA = "hwnas.search/2"
"""The schema of records that this version writes and reads."""

RECORD_FILE = "search.json"

NETWORKS = "networks"
"""The folder of a run that holds the exported winners."""

Count = Annotated[int, Between(0, 10**12)]
Share = Annotated[float, Between(0, 1)]
Seconds = Annotated[float, Between(0, 10**12)]
Correlation = Annotated[float, Between(-1.000001, 1.000001)]

History = tuple[tuple[Count, Count, float], ...]
"""After each generation: candidates, evaluations, hypervolume."""


@dataclass(frozen=True, kw_only=True)
class SupernetHealth:
    """Held-out accuracy of the extremes of the space; if they are alike, the supernet does not separate networks."""

    smallest: Share
    largest: Share


ReferenceKind = Literal["known", "original", "uniform", "resolution", "patch", "smaller"]
"""A well-known network; or in a search of an elastic space its model, a cut of the model that is alike in all blocks,
the model on smaller images or with larger patches, or timm's next smaller model of its kind."""


@dataclass(frozen=True, kw_only=True)
class ReferenceNetwork:
    """A network to compare the front with."""

    name: str
    macs: Count
    params: Count
    metrics: Mapping[str, float]
    """Its known device metrics, and what the search evaluated in place of accuracy."""
    measured: bool
    """True if they were measured with the front; else they are predicted."""
    accuracy: Share | None
    """On the same images; None if it has no weights that were trained on them."""
    predicted: tuple[str, ...] = ()
    """Metrics that are predicted while others were measured."""
    deployment: str | None = None
    """The searched deployment that its metrics are of; None where a search has no choice of deployments."""
    kind: ReferenceKind = "known"
    network_id: str | None = None
    """The id that it is measured under; None in records of earlier versions, which have well-known networks alone."""
    note: str = ""
    """Weights that it was evaluated with, or why it has none; empty where its name says that."""

    @property
    def label(self) -> str:
        """Its name in a plot, where the model is another point."""
        return self.name.removeprefix("original at ")

    def value(self, metric: str) -> float | None:
        """Return the value of a metric by its full text, if it is known."""
        own = {"macs": self.macs, "params": self.params, "accuracy": self.accuracy}
        return own[metric] if metric in own else self.metrics.get(metric)


@dataclass(frozen=True, kw_only=True)
class MetricCheck:
    """A metric of a network, predicted and measured."""

    predicted: float | None
    lower: float | None
    upper: float | None
    measured: float | None
    measured_lower: float | None
    """With `measured_upper`, the 95 % interval of the runs; None where the metric has none."""
    measured_upper: float | None
    stable: bool | None
    """True if the measurement is stable; None where that was not assessed."""
    verdict: str
    """Why it is not stable; empty if it is."""

    @property
    def is_inside(self) -> bool:
        """True if the measured value lies inside the predicted interval."""
        if self.lower is None or self.upper is None or self.measured is None:
            return False
        return self.lower <= self.measured <= self.upper


@dataclass(frozen=True, kw_only=True)
class VerifiedMember:
    """A network of the searched front after its measurement."""

    arch_id: FileName
    """Followed by the deployment where the search chooses among several, as all ids of candidates in a record are."""
    network_id: str
    metrics: Mapping[str, MetricCheck]
    violated: tuple[str, ...]
    """Constraints that the measured values violate."""
    failure: str | None
    """Why it could not be measured."""
    on_front: bool
    """True if it is on the front of measured values."""


@dataclass(frozen=True, kw_only=True)
class VerifiedProfile:
    """A profile of the campaign that verified the front, one for each batch."""

    path: str
    """Relative to the run."""
    batch: Annotated[int, Between(1, 10**6)]
    noise_floor: float | None
    """The mean error of a perfect predictor; None if too few networks were measured twice."""
    num_networks: Count
    num_unstable: Count
    """Unstable measurements, of `num_measurements`."""
    num_failed: Count
    drift: float | None
    problems: tuple[str, ...]
    num_measurements: Count = 0
    """Measurements of all networks, two of each repeated one; 0 in records of earlier versions."""

    def __post_init__(self) -> None:
        require_inside(Path(self.path), what="path")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of measuring the front, or why it was not measured."""

    status: Literal["verified", "partly", "skipped", "failed"]
    """`partly`: some metrics were measured, those in `unmeasured` were not."""
    reason: str
    """Why all or some of it was skipped or failed; empty if all was measured."""
    device: str | None
    """The device that was measured on, or would have been."""
    runtime: str | None
    profiles: tuple[VerifiedProfile, ...]
    members: tuple[VerifiedMember, ...]
    """In the order of the searched front."""
    mape: Mapping[str, float]
    """Mean absolute relative error of the predictions by metric; 0.01 is one percent."""
    spearman: Mapping[str, Correlation | None]
    kendall: Mapping[str, Correlation | None]
    coverage: Mapping[str, Share]
    """The share of measured values inside the predicted intervals."""
    confidence: Confidence | None
    """The confidence of those intervals."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Metrics that were not measured while others were, and why."""

    @property
    def has_measurements(self) -> bool:
        """True if at least one metric was measured."""
        return self.status in ("verified", "partly")

    @property
    def checks(self) -> dict[str, list[MetricCheck]]:
        """Return predicted and measured values by metric, over the networks of all deployments."""
        found: dict[str, list[MetricCheck]] = {}
        for member in self.members:
            for name, check in member.metrics.items():
                if check.predicted is not None and check.measured:
                    found.setdefault(name, []).append(check)
        return found

    @property
    def mean_error(self) -> float | None:
        """Mean relative error of the predictions, of several metrics the largest."""
        return max((_mean_error(checks) for checks in self.checks.values()), default=None)

    def covers(self, metric: str) -> bool:
        """Return True if a metric was measured."""
        return self.has_measurements and metric not in self.unmeasured


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A least-squares repair of a network that was cut from a model, and its effect on held-out images."""

    data: str
    """The dataset."""
    images: Count
    """Training images that the network was repaired on, without their labels."""
    heldout_images: Count
    kept: bool
    """False if the network was worse after the repair, so that it has the weights from before."""
    model_accuracy: Share | None
    """Accuracy of the model; None, as the two below, if the images do not have its classes."""
    accuracy_before: Share | None
    accuracy: Share | None
    """After the repair, as all values without `_before`."""
    agreement_before: Share
    """Share of images whose most likely class is the model's."""
    agreement: Share
    divergence_before: float
    """Mean Kullback-Leibler divergence from the model."""
    divergence: float


@dataclass(frozen=True, kw_only=True)
class ExportedWinner:
    """One of the best networks, exported to a folder of the run."""

    arch_id: FileName
    """The id of the candidate, as in `SearchRecord.front`."""
    network_id: str
    folder: str
    """Relative to the run."""
    why: str
    """The rule by which it was chosen."""
    files: tuple[str, ...]
    """Relative to `folder`; the weights of a retrained network are those of its training."""
    test_accuracy: Share | None
    """Test accuracy of the retrained network, evaluated once; None if it was not retrained."""
    failure: str | None
    """Why it could not be exported."""
    file_accuracy: Share | None = None
    """Held-out accuracy of the exported graph in its runtime, if its precision changes accuracy."""
    float_accuracy: Share | None = None
    """The same of the network in float32, on the same images."""
    repair: Repair | None = None
    """Its repair; None if none was requested or nothing was cut."""

    def __post_init__(self) -> None:
        require_inside(Path(self.folder), what="folder")
        for file in self.files:
            require_inside(Path(file), what="files")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values over several seeds, with mean and standard deviation."""

    mean: float
    std: float
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SeedRuns:
    """The same search with several seeds; the front and the study of the run are those of the first seed."""

    seeds: tuple[Annotated[int, Between(0, 2 * MAX_SEED)], ...]
    hypervolume: Spread


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """Everything a report needs in addition to the study."""

    schema: str = SCHEMA
    created_utc: UtcTime
    spec: SearchSpec
    stop: str
    """Why the search ended: evaluations, minutes, stalled or exhausted."""
    evaluations: Count
    candidates: Count
    satisfiable: str
    elapsed_s: Seconds
    """Seconds of the search alone."""
    bounds: HypervolumeBounds
    """In minimised objectives; `reference` is the reference point of the hypervolume."""
    history: History
    random_history: History | None
    """Of a random search with the same budget."""
    supernet_health: SupernetHealth | None
    predictor_cards: Mapping[str, Mapping[str, Any]]
    """The card of each predictor as plain values, by metric."""
    front: tuple[FileName, ...]
    """The ids of the searched front, the best of the first objective first."""
    measured_front: tuple[FileName, ...] | None
    """The front of measured values, of predicted ones where a metric was not measured; None where none was."""
    reference_networks: tuple[ReferenceNetwork, ...]
    verification: Verification | None
    winners: tuple[ExportedWinner, ...]
    seeds: SeedRuns | None
    notes: tuple[str, ...]
    float_accuracies: Mapping[str, Share] = field(default_factory=dict)
    """Accuracy in float32, by the id of the network, of networks on the front whose precision changes accuracy."""
    steps_s: Mapping[str, Seconds] = field(default_factory=dict)
    """Seconds of each step: `search`, with all that is compared with it, `measuring` and `exporting`."""

    def __post_init__(self) -> None:
        if not len(self.bounds.ideal) == len(self.bounds.reference) == len(self.spec.objectives):
            got = f"{len(self.bounds.ideal)} for {len(self.spec.objectives)} objectives"
            raise InputError("bounds must have a number for each objective", got=got)
        _require_order("history", self.history, self.candidates)
        _require_order("random_history", self.random_history or (), 10**12)
        if len(set(self.front)) < len(self.front) or len(self.front) > self.candidates:
            raise InputError("front must name candidates, each once", got=f"{len(self.front)} names")


def _require_order(name: str, history: History, candidates: int) -> None:
    """Require that counts of candidates increase from generation to generation, up to the last candidate."""
    counts = [count for count, _, _ in history]
    if any(after <= before for before, after in zip([0, *counts], counts, strict=False)):
        raise InputError(f"{name} must have increasing numbers of candidates", got=shown(counts))
    if counts and counts[-1] > candidates:
        raise InputError(f"{name} must end with the {candidates} candidates of the search", got=counts[-1])
    evaluated = [count for _, count, _ in history]
    reached = [value for _, _, value in history]
    if any(count > total for count, total in zip(evaluated, counts, strict=True)):
        raise InputError(f"{name} must have no more evaluations than candidates", got=shown(evaluated))
    if not all(0 <= value <= 1.000001 for value in reached):
        raise InputError(f"{name} must have shares of the hypervolume", got=shown(reached))


def write_record(run: Path, record: SearchRecord) -> None:
    """Write the record of a run, in place of an earlier one."""
    text = json.dumps(to_mapping(record), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(run / RECORD_FILE, text + "\n")


def read_record(run: Path) -> SearchRecord:
    """Read the record of a run.

    Raises:
        InputError: The search of the run has not ended, or the record is of another schema.
    """
    path = run / RECORD_FILE
    if not run.is_dir():
        raise missing_run(run)
    if not path.is_file():
        hint = f"hwnas search --resume {run}"
        raise InputError(f"{run} must be the run of a search that has ended", got=f"no file {RECORD_FILE}", hint=hint)
    data = load_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        got = shown(data.get("schema") if isinstance(data, dict) else data)
        hint = "read it with the version of hwnas that wrote it, or start a new search"
        raise InputError(f"{path} must be a record of schema {SCHEMA}", got=got, hint=hint)
    return from_mapping(SearchRecord, data, where=str(path))


def _mean_error(checks: Sequence[MetricCheck]) -> float:
    return sum(abs((check.predicted or 0.0) / (check.measured or 1.0) - 1) for check in checks) / len(checks)
