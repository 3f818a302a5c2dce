"""`hwnas predict`: predict metrics of networks on a device, with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.arguments import checked_arguments
from hwnas.config import require_valid
from hwnas.devices import DEVICES, Machine, resolve
from hwnas.errors import HwnasError, InputError, MissingError, unknown
from hwnas.frames import Columns, TabularResult
from hwnas.metrics import MEASURED_METRICS, UNSPECIFIED, Deployment, Metric
from hwnas.pipeline.predictors.targets import Target, parse_targets
from hwnas.pipeline.predictors.unmeasured import choose_unmeasured
from hwnas.pipeline.predictors.workloads import timm_workload
from hwnas.predict.features.table import Features
from hwnas.predict.intervals import DEFAULT_CONFIDENCE
from hwnas.predict.selector import ChosenPredictor, NoPredictorError, choose_interpolated, choose_predictor
from hwnas.space import SPACES


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of a prediction; None is filled in from the available predictors."""

    deployment: Deployment = UNSPECIFIED
    """By default the device of this machine."""
    metrics: tuple[str, ...] = ("latency_ms",)
    space: str | None = None
    confidence: float | None = None
    """None: 0.9, or the highest that all predictors support."""
    predictors: Path | None = None
    profiles: Path | None = None
    """Folder of the profiles that an unmeasured device is predicted from; None: the default search path."""
    allow_outside: bool = False
    """Predict networks outside the fitted range instead of raising an error; they are marked."""

    def __post_init__(self) -> None:
        require_valid(self)
        if not self.metrics:
            raise InputError("there must be a metric to predict", known=MEASURED_METRICS)
        for name in self.metrics:
            if name not in MEASURED_METRICS:
                raise unknown("metric", name, MEASURED_METRICS, hint="--metric {}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError("a confidence must be between 0 and 1", got=self.confidence, hint="--confidence 0.9")


@dataclass(frozen=True, kw_only=True)
class MetricPrediction:
    """A predicted value of a network."""

    label: str
    network_id: str
    metric: str
    unit: str
    mean: float
    lower: float
    upper: float
    outside: tuple[str, ...]
    """Reasons for which the network is outside the fitted range; empty if it is inside."""


@dataclass(frozen=True, kw_only=True)
class UsedPredictor:
    """A predictor that was used, with its origin."""

    metric: str
    path: Path
    note: str
    environment: Mapping[str, str]
    """Environment that its networks were measured in, which the predictions hold for."""
    sources: tuple[str, ...]
    measured: bool = True
    """False if the device was not measured, and the predictor was made from measurements of other devices."""


@dataclass(frozen=True, kw_only=True)
class NetworkPredictions(TabularResult):
    """Predictions of all networks, metric by metric, in the order in which they were given."""

    confidence: float
    """Confidence of all intervals."""
    predictions: tuple[MetricPrediction, ...]
    predictors: tuple[UsedPredictor, ...]
    notes: tuple[str, ...] = ()
    """Notes on unmeasured devices, and on defaults that the predictors did not support."""

    def _columns(self) -> Columns:
        names = ("label", "network_id", "metric", "unit", "mean", "lower", "upper")
        columns: dict[str, list[object]] = {name: [getattr(item, name) for item in self.predictions] for name in names}
        return {**columns, "outside": [bool(item.outside) for item in self.predictions]}

    @property
    def outside(self) -> tuple[MetricPrediction, ...]:
        """Predictions of networks outside the fitted range."""
        return tuple(item for item in self.predictions if item.outside)


@checked_arguments
def predict_networks(
    targets: Sequence[str], options: PredictOptions | None = None, *, machine: Machine | None = None
) -> NetworkPredictions:
    """Predict metrics of networks.

    Args:
        targets: Models of timm (`timm:NAME`), networks of spaces (`SPACE:ARCH`) and files of them (`.jsonl`).
        options: Metrics, device, confidence and folder of predictors.
        machine: The machine whose device is used by default; None: this one.

    Raises:
        InputError: A network is not valid, no predictor fits, or a single network is outside the fitted range and the
            options do not allow that.
        MissingError: There are no predictors for the device.
    """
    options = options or PredictOptions()
    parsed = parse_targets(targets, space=options.space)
    groups: dict[str | None, list[int]] = {}
    for row, target in enumerate(parsed.networks):
        groups.setdefault(target.space, []).append(row)
    by_metric = {name: {space: _choose(name, space, options, machine) for space in groups} for name in options.metrics}
    all_chosen = [chosen for by_space in by_metric.values() for chosen in by_space.values()]
    confidence = options.confidence or min(chosen.predictor.default_confidence for chosen in all_chosen)
    predictions: list[MetricPrediction] = []
    for by_space in by_metric.values():
        by_row: dict[int, MetricPrediction] = {}
        for space, rows in groups.items():
            networks = [parsed.networks[row] for row in rows]
            by_row.update(zip(rows, _predict_group(networks, by_space[space], space, confidence), strict=True))
        predictions += [by_row[row] for row in range(len(parsed.networks))]
    if len(parsed.networks) == 1 and not parsed.from_files and not options.allow_outside:
        for item in predictions:
            if item.outside:
                raise InputError(
                    f"{item.label} is outside the fitted range of the predictor of {item.metric}",
                    got="; ".join(item.outside[:3]),
                    hint="--allow-outside accepts an extrapolated value; or measure similar networks, and fit again",
                )
    used = {chosen.path: _used(chosen) for chosen in all_chosen}
    return NetworkPredictions(
        confidence=confidence,
        predictions=tuple(predictions),
        predictors=tuple(used.values()),
        notes=(
            *dict.fromkeys(
                note for item in all_chosen if item.predictor.card.is_unmeasured for note in item.predictor.card.notes
            ),
            *dict.fromkeys(item.predictor.card.notes[0] for item in all_chosen if item.predictor.card.is_interpolated),
            *(_notes(confidence, all_chosen) if options.confidence is None else ()),
        ),
    )


def require_all_inside(predicted: NetworkPredictions) -> None:
    """Raise InputError if networks are outside the fitted range."""
    outside = {item.label: item for item in predicted.outside}
    if outside:
        first = next(iter(outside.values()))
        raise InputError(
            f"{len(outside)} networks are outside the fitted range, {first.label} first",
            got="; ".join(first.outside[:3]),
            hint="--allow-outside accepts extrapolated values; or measure similar networks, and fit again",
        )


def _notes(confidence: float, all_chosen: Sequence[ChosenPredictor]) -> tuple[str, ...]:
    """Return a note if intervals have less than the default confidence."""
    if confidence >= DEFAULT_CONFIDENCE:
        return ()
    few = min(chosen.predictor.card.data.num_networks for chosen in all_chosen)
    return (f"intervals of {confidence:.0%}: {few} networks were fitted, too few for {DEFAULT_CONFIDENCE:.0%}",)


def _choose(name: str, space: str | None, options: PredictOptions, machine: Machine | None) -> ChosenPredictor:
    metric = Metric(name=name, deployment=options.deployment)
    try:
        return choose_predictor(metric, space=space, predictors=options.predictors, machine=machine)
    except (MissingError, NoPredictorError) as error:
        between = choose_interpolated(metric, space=space, predictors=options.predictors, machine=machine)
        if between is not None:
            return between
        if resolve(metric.deployment.device or "auto", machine=machine) not in DEVICES:
            raise  # nothing is known of the device that a prediction from others could be scaled by
        try:
            return choose_unmeasured(metric, profiles=options.profiles, machine=machine)
        except InputError as unmeasured:
            raise _neither(error, unmeasured) from error


def _neither(error: HwnasError, unmeasured: InputError) -> HwnasError:
    """Return the error that there is no predictor, with the reason for which other devices do not answer."""
    got = "" if unmeasured.got is None else f", got {unmeasured.got}"
    message = f"{error.message}; and from other devices: {unmeasured.message}{got}"
    return type(error)(message, got=error.got, known=error.known, hint=error.hint)


def _predict_group(
    networks: Sequence[Target], chosen: ChosenPredictor, space: str | None, confidence: float
) -> Iterator[MetricPrediction]:
    predictor = chosen.predictor
    features = _features(networks, chosen, space)
    batch = chosen.metric.deployment.fixed_batch
    prediction = predictor.predict_features(features, confidence=confidence, batch=batch)
    for row, target in enumerate(networks):
        reasons = predictor.fitted_range.reasons(features.take(slice(row, row + 1))) if prediction.outside[row] else ()
        yield MetricPrediction(
            label=target.label,
            network_id=target.network_id,
            metric=str(chosen.metric),
            unit=chosen.metric.quantity.unit,
            mean=float(prediction.mean[row]),
            lower=float(prediction.lower[row]),
            upper=float(prediction.upper[row]),
            outside=tuple(reasons),
        )


def _features(networks: Sequence[Target], chosen: ChosenPredictor, space: str | None) -> Features:
    predictor, batch = chosen.predictor, chosen.metric.deployment.fixed_batch
    if space is None:
        workloads = [timm_workload(target.model, image_size=target.image_size) for target in networks]
        return predictor.features(workloads, batch=batch)
    known: Any = SPACES.get(space)
    return predictor.population(known.workloads(known.encode([target.arch for target in networks])), batch=batch)


def _used(chosen: ChosenPredictor) -> UsedPredictor:
    card = chosen.predictor.card
    return UsedPredictor(
        metric=str(chosen.metric),
        path=chosen.path,
        note=chosen.note,
        environment=card.environment,
        sources=card.data.sources,
        measured=not card.is_unmeasured,
    )
