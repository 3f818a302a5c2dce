"""`hwnas predict`: what networks would take on a device, with intervals, or why that cannot be said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.devices import Machine
from hwnas.errors import InputError, unknown
from hwnas.pipeline.predicting.measured import METRICS
from hwnas.pipeline.predicting.targets import Target, parse_targets
from hwnas.pipeline.predicting.workloads import timm_workload
from hwnas.pipeline.predictors import ChosenPredictor, choose_predictor
from hwnas.predict.features.table import Features
from hwnas.predict.metric import UNITS
from hwnas.search.metric import Metric
from hwnas.space import SPACES


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is asked of the networks; None is filled in from the predictors that are there."""

    device: str = "auto"
    metrics: tuple[str, ...] = ("latency_ms",)
    space: str | None = None
    runtime: str | None = None
    precision: str | None = None
    batch: int | None = None
    confidence: float = 0.9
    predictors: Path | None = None
    allow_outside: bool = False
    """Whether networks unlike all fitted ones are answered for without an error; they are marked all the same."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise unknown("metric", name, METRICS, hint="--metric {}")
        if not 0 < self.confidence < 1:
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
    figures: tuple[PredictedFigure, ...]
    predictors: tuple[UsedPredictor, ...]

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
    figures: list[PredictedFigure] = []
    used: dict[Path, UsedPredictor] = {}
    for name in options.metrics:
        answers: dict[int, PredictedFigure] = {}
        for space, rows in _by_space(asked.networks).items():
            chosen = _chosen(name, space, options, machine)
            used[chosen.path] = _used(chosen)
            networks = [asked.networks[row] for row in rows]
            answers.update(zip(rows, _answered(networks, chosen, space, options), strict=True))
        figures += [answers[row] for row in range(len(asked.networks))]
    if len(asked.networks) == 1 and not asked.from_files and not options.allow_outside:
        _require_inside(figures)
    return Predicted(confidence=options.confidence, figures=tuple(figures), predictors=tuple(used.values()))


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


def _by_space(networks: Sequence[Target]) -> dict[str | None, list[int]]:
    groups: dict[str | None, list[int]] = {}
    for row, target in enumerate(networks):
        groups.setdefault(target.space, []).append(row)
    return groups


def _chosen(name: str, space: str | None, options: PredictOptions, machine: Machine | None) -> ChosenPredictor:
    metric = Metric(
        name=name,
        device=options.device,
        runtime=options.runtime,
        precision=options.precision,
        batch=options.batch,
    )
    return choose_predictor(metric, space=space, predictors=options.predictors, machine=machine)


def _answered(
    networks: Sequence[Target], chosen: ChosenPredictor, space: str | None, options: PredictOptions
) -> Iterator[PredictedFigure]:
    predictor = chosen.predictor
    features = _features(networks, chosen, space)
    batch = chosen.metric.batch
    answer = predictor.predict(features, confidence=options.confidence, batch=batch)
    for row, target in enumerate(networks):
        reasons = predictor.fitted_range.reasons(features.take(slice(row, row + 1))) if answer.outside[row] else ()
        yield PredictedFigure(
            label=target.label,
            network_id=target.network_id,
            metric=str(chosen.metric),
            unit=UNITS[predictor.card.metric.name],
            mean=float(answer.mean[row]),
            lower=float(answer.lower[row]),
            upper=float(answer.upper[row]),
            outside=tuple(reasons),
        )


def _features(networks: Sequence[Target], chosen: ChosenPredictor, space: str | None) -> Features:
    predictor, batch = chosen.predictor, chosen.metric.batch
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
