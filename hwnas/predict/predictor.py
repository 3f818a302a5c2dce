"""A predictor: features in, mean and interval out, with the card that says how good it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.metrics import Metric
from hwnas.predict.arrays import Numbers, shortened
from hwnas.predict.card import Card, CurvePoint, Ranked
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.counting import population_features, workload_features
from hwnas.predict.features.table import Features, with_answers
from hwnas.predict.fitted_range import FittedRange, require_inside
from hwnas.predict.intervals import Intervals, require_confident, supported_confidence
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import Fitted, fitted_from_json, fitted_to_json
from hwnas.predict.models.model import Plain
from hwnas.workload import Workload, Workloads


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Figures of networks in the metric's unit, each with an interval of the confidence asked for."""

    mean: Numbers
    lower: Numbers
    upper: Numbers
    more_is_better: bool
    outside: NDArray[np.bool_]
    """Which networks are unlike all that were fitted: their figures are a guess, and their intervals too."""

    @property
    def unfavourable(self) -> Numbers:
        """The bound that a constraint held with confidence uses: upper where less is better, else lower."""
        return self.lower if self.more_is_better else self.upper


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What models answered for networks that they had not seen, while they were judged."""

    target: Numbers
    by_model: Mapping[str, Numbers]
    """An array per model, one row a repeat."""
    by_count: Mapping[int, Numbers]
    """With so many networks fitted: those of the learning curve."""

    def ranking(self, metric: Metric, *, batch: Numbers) -> tuple[Ranked, ...]:
        """The scores of all models in the metric's unit, the best first."""
        figures = metric.from_target(self.target, batch=batch)
        found = (
            Ranked(model=name, scores=_scores(metric.from_target(answers, batch=batch), figures))
            for name, answers in self.by_model.items()
        )
        return tuple(sorted(found, key=lambda ranked: ranked.scores.mape))

    def learning_curve(self, metric: Metric, *, batch: Numbers) -> tuple[CurvePoint, ...]:
        """The error by the number of networks, in the metric's unit."""
        figures = metric.from_target(self.target, batch=batch)
        found = {
            count: _scores(metric.from_target(answers, batch=batch), figures)
            for count, answers in self.by_count.items()
        }
        return tuple(
            CurvePoint(count=count, mape=point.mape, spearman=point.spearman) for count, point in found.items()
        )


def _scores(answers: Numbers, figures: Numbers) -> Scores:
    rows = np.atleast_2d(answers)
    return scores(rows.ravel(), np.tile(figures, len(rows)))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model of another device, and the conditions under which its features are made."""

    conditions: Conditions
    batch: int
    model: Fitted

    def answers(self, build: Callable[[Conditions], Features]) -> Numbers:
        """What it says of networks whose features `build` makes."""
        return self.model.predict(build(replace(self.conditions, batch=self.batch)))


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A fitted model with its intervals, its range, the conditions of its features, and its card."""

    card: Card
    conditions: Conditions
    model: Fitted
    intervals: Intervals
    fitted_range: FittedRange
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Models of other devices that this one leans on."""
    trial: Trial | None = field(default=None, repr=False, compare=False)
    """Of a predictor that was just fitted; it is not stored."""

    @property
    def usual_confidence(self) -> float:
        """Of its intervals where none is asked for: 0.9, or the most that its fitted networks support."""
        return supported_confidence(self.card.data.num_networks)

    def predict(self, features: Features, *, confidence: float | None = None, batch: int | None = None) -> Prediction:
        """Predict networks from features that were made under this predictor's conditions at `batch`.

        A confidence that is asked for must be supported; without one it is the usual one.
        """
        metric = self.card.metric
        count = np.full(len(features), float(metric.require_batch(batch)))
        confidence = self.usual_confidence if confidence is None else confidence
        require_confident(self.card.data.num_networks, confidence=confidence)
        mean = self.model.predict(features)
        low, high = self.intervals.bounds(mean, features, confidence=confidence)
        figures = [shortened(metric.from_target(values, batch=count)) for values in (mean, low, high)]
        return Prediction(
            mean=figures[0],
            lower=np.minimum(figures[1], figures[2]),
            upper=np.maximum(figures[1], figures[2]),
            more_is_better=metric.maximised,
            outside=self.fitted_range.is_outside(features),
        )

    def predict_workloads(
        self, workloads: Sequence[Workload], *, confidence: float | None = None, batch: int | None = None
    ) -> Prediction:
        """Predict networks from their operations."""
        return self.predict(self.features(workloads, batch=batch), confidence=confidence, batch=batch)

    def predict_population(
        self, workloads: Workloads, *, confidence: float | None = None, batch: int | None = None
    ) -> Prediction:
        """Predict a population of a space."""
        return self.predict(self.population(workloads, batch=batch), confidence=confidence, batch=batch)

    def features(self, workloads: Sequence[Workload], *, batch: int | None = None) -> Features:
        """The features of networks under this predictor's conditions; blocks of a space are not told in operations.

        A predictor that counts blocks answers for such networks as if it had never seen one of theirs.
        """
        return self._built(lambda conditions: workload_features(workloads, conditions), batch)

    def population(self, workloads: Workloads, *, batch: int | None = None) -> Features:
        """The features of a population of a space."""
        counts = self.card.data.count_names
        return self._built(lambda conditions: population_features(workloads, conditions, counts=counts), batch)

    def require_inside(self, features: Features, *, labels: Sequence[str] | None = None) -> None:
        """An error for the first network outside the fitted range, saying in what."""
        require_inside(self.fitted_range, features, labels=labels)

    def model_json(self) -> dict[str, Any]:
        """All but the card, as plain values."""
        return {
            "conditions": self.conditions.plain(),
            "model": fitted_to_json(self.model),
            "intervals": self.intervals.to_json(),
            "fitted_range": self.fitted_range.to_json(),
            "sources": {name: _source_json(source) for name, source in self.sources.items()},
        }

    @classmethod
    def from_json(cls, card: Card, data: Plain) -> Self:
        """The predictor that `model_json` wrote."""
        return cls(
            card=card,
            conditions=Conditions(**data["conditions"]),
            model=fitted_from_json(data["model"]),
            intervals=Intervals.from_json(data["intervals"]),
            fitted_range=FittedRange.from_json(data["fitted_range"]),
            sources={name: _source(source) for name, source in data["sources"].items()},
        )

    def _built(self, build: Callable[[Conditions], Features], batch: int | None) -> Features:
        answers = {name: source.answers(build) for name, source in self.sources.items()}
        return with_answers(build(self._at(batch)), answers)

    def _at(self, batch: int | None) -> Conditions:
        return replace(self.conditions, batch=self.card.metric.require_batch(batch))


def _source_json(source: Source) -> dict[str, Any]:
    return {"conditions": source.conditions.plain(), "batch": source.batch, "model": fitted_to_json(source.model)}


def _source(data: Plain) -> Source:
    return Source(
        conditions=Conditions(**data["conditions"]), batch=int(data["batch"]), model=fitted_from_json(data["model"])
    )
