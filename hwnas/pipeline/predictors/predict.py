"""`hwnas predict`: what networks would take on a device, with intervals, or why that cannot be said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.devices import Machine
from hwnas.errors import InputError, unknown
from hwnas.metrics import MEASURED_METRICS, UNSPECIFIED, Deployment, Metric
from hwnas.pipeline.predictors.targets import Target, parse_targets
from hwnas.pipeline.predictors.workloads import timm_workload
from hwnas.predict.features.table import Features
from hwnas.predict.intervals import USUAL_CONFIDENCE
from hwnas.predict.selector import ChosenPredictor, choose_predictor
from hwnas.space import SPACES


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of a prediction; None is filled in from the available predictors."""

    deployment: Deployment = UNSPECIFIED
    """Without a device, this machine's."""
    metrics: tuple[str, ...] = ("latency_ms",)
    space: str | None = None
    confidence: float | None = None
    """None: 0.9, or the most that every predictor supports."""
    predictors: Path | None = None
    allow_outside: bool = False
    """Predict networks outside the fitted range instead of raising an error; they are marked."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in MEASURED_METRICS:
                raise unknown("metric", name, MEASURED_METRICS, hint="--metric {}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError("a confidence must be between 0 and 1", got=self.confidence, hint="--confidence 0.9")


@dataclass(frozen=True, kw_only=True)
class PredictedFigure:
    """One figure of one network."""

    label: str
    network_id: str
    metric: str
    unit: str
    mean: float
    lower: float
    upper: float
    outside: tuple[str, ...]
    """Why the network is unlike all fitted ones; empty where it is not."""


@dataclass(frozen=True, kw_only=True)
class UsedPredictor:
    """The predictor that answered, and what it is from."""

    metric: str
    path: Path
    note: str
    environment: Mapping[str, str]
    """In which its networks were measured: the answer holds for that."""
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The answers, in the order of the question, metric by metric."""

    confidence: float
    """Of all intervals."""
    figures: tuple[PredictedFigure, ...]
    predictors: tuple[UsedPredictor, ...]
    notes: tuple[str, ...] = ()
    """Defaults taken because the predictors support nothing else."""

    @property
    def outside(self) -> tuple[PredictedFigure, ...]:
        """Those whose network is unlike all fitted ones."""
        return tuple(figure for figure in self.figures if figure.outside)


def predict_networks(
    targets: Sequence[str], options: PredictOptions | None = None, *, machine: Machine | None = None
) -> Predicted:
    """Predict models of timm (`timm:NAME`), networks of spaces (`SPACE:ARCH`) and files of them (`.jsonl`).

    A single network outside what the predictor was fitted to is an error, unless the options allow it.
    """
    options = options or PredictOptions()
    asked = parse_targets(targets, space=options.space)
    groups = _by_space(asked.networks)
    by_metric = {name: {space: _chosen(name, space, options, machine) for space in groups} for name in options.metrics}
    every = [chosen for by_space in by_metric.values() for chosen in by_space.values()]
    confidence = options.confidence or min(chosen.predictor.usual_confidence for chosen in every)
    figures: list[PredictedFigure] = []
    for by_space in by_metric.values():
        answers: dict[int, PredictedFigure] = {}
        for space, rows in groups.items():
            networks = [asked.networks[row] for row in rows]
            answers.update(zip(rows, _answered(networks, by_space[space], space, confidence), strict=True))
        figures += [answers[row] for row in range(len(asked.networks))]
    if len(asked.networks) == 1 and not asked.from_files and not options.allow_outside:
        _require_inside(figures)
    used = {chosen.path: _used(chosen) for chosen in every}
    return Predicted(
        confidence=confidence,
        figures=tuple(figures),
        predictors=tuple(used.values()),
        notes=_notes(confidence, every) if options.confidence is None else (),
    )


def require_all_inside(predicted: Predicted) -> None:
    """An error that counts the networks outside what the predictors were fitted to, if there are any."""
    outside = {figure.label: figure for figure in predicted.outside}
    if outside:
        first = next(iter(outside.values()))
        raise InputError(
            f"{len(outside)} networks lie outside what the predictor was fitted to, {first.label} first",
            got="; ".join(first.outside[:3]),
            hint="--allow-outside takes their figures as guesses; or measure networks like them, and fit again",
        )


def _notes(confidence: float, every: Sequence[ChosenPredictor]) -> tuple[str, ...]:
    """Why intervals are of less than the usual confidence, if they are."""
    if confidence >= USUAL_CONFIDENCE:
        return ()
    few = min(chosen.predictor.card.data.num_networks for chosen in every)
    return (f"intervals of {confidence:.0%}: {few} networks were fitted, too few for {USUAL_CONFIDENCE:.0%}",)


def _by_space(networks: Sequence[Target]) -> dict[str | None, list[int]]:
    groups: dict[str | None, list[int]] = {}
    for row, target in enumerate(networks):
        groups.setdefault(target.space, []).append(row)
    return groups


def _chosen(name: str, space: str | None, options: PredictOptions, machine: Machine | None) -> ChosenPredictor:
    metric = Metric(name=name, deployment=options.deployment)
    return choose_predictor(metric, space=space, predictors=options.predictors, machine=machine)


def _answered(
    networks: Sequence[Target], chosen: ChosenPredictor, space: str | None, confidence: float
) -> Iterator[PredictedFigure]:
    predictor = chosen.predictor
    features = _features(networks, chosen, space)
    batch = chosen.metric.deployment.fixed_batch
    answer = predictor.predict_features(features, confidence=confidence, batch=batch)
    for row, target in enumerate(networks):
        reasons = predictor.fitted_range.reasons(features.take(slice(row, row + 1))) if answer.outside[row] else ()
        yield PredictedFigure(
            label=target.label,
            network_id=target.network_id,
            metric=str(chosen.metric),
            unit=chosen.metric.quantity.unit,
            mean=float(answer.mean[row]),
            lower=float(answer.lower[row]),
            upper=float(answer.upper[row]),
            outside=tuple(reasons),
        )


def _features(networks: Sequence[Target], chosen: ChosenPredictor, space: str | None) -> Features:
    predictor, batch = chosen.predictor, chosen.metric.deployment.fixed_batch
    if space is None:
        workloads = [timm_workload(target.model, image_size=target.image_size) for target in networks]
        return predictor.features(workloads, batch=batch)
    found: Any = SPACES.get(space)
    return predictor.population(found.workloads(found.encode([target.arch for target in networks])), batch=batch)


def _used(chosen: ChosenPredictor) -> UsedPredictor:
    card = chosen.predictor.card
    return UsedPredictor(
        metric=str(chosen.metric),
        path=chosen.path,
        note=chosen.note,
        environment=card.environment,
        sources=card.data.sources,
    )


def _require_inside(figures: Sequence[PredictedFigure]) -> None:
    for figure in figures:
        if figure.outside:
            raise InputError(
                f"{figure.label} lies outside what the predictor of {figure.metric} was fitted to",
                got="; ".join(figure.outside[:3]),
                hint="--allow-outside takes the figure as a guess; or measure networks like it, and fit again",
            )
