"""Predictors: a fitted model with its intervals, fitted range and card, in memory and on disk.

    FOLDER/card.json     the card: fitted data and accuracy
    FOLDER/card.md       the card as Markdown, with parity.svg
    FOLDER/model.json    the model: plain numbers, and XGBoost's own JSON

A card states the digest of the model and of itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.arguments import checked_arguments
from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.files import file_errors
from hwnas.frames import Frame, html_table, to_frame
from hwnas.metrics import MAX_BATCH, Metric
from hwnas.predict.arrays import Numbers, round_last_bits
from hwnas.predict.card import Card, CurvePoint, Ranked, load_card, require_seal
from hwnas.predict.features.conditions import Batch, Conditions
from hwnas.predict.features.counting import population_features, workload_features
from hwnas.predict.features.table import Features, with_outside, with_source_predictions
from hwnas.predict.fitted_range import FittedRange, require_inside
from hwnas.predict.intervals import Intervals, require_confident, supported_confidence
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import Fitted, counted_blocks, fitted_from_json, fitted_to_json, transfer_sources
from hwnas.predict.stored import StoredTable, read_stored
from hwnas.workload import Workload, Workloads

MODEL = "model.json"
"""File name of a model in the folder of its predictor."""

_MAX_READS = 5
_CHUNK = 4096
"""Networks predicted at once."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted values of networks in the unit of the metric, with an interval of the requested confidence each."""

    mean: Numbers
    lower: Numbers
    upper: Numbers
    more_is_better: bool
    outside: NDArray[np.bool_]
    """True for networks outside the fitted range, whose values and intervals are extrapolations."""

    @checked_arguments
    def to_frame(self, labels: Sequence[str] | None = None) -> Frame:
        """Return the predictions as a data frame, one row per network.

        Args:
            labels: Names of the networks, for a first column.

        Raises:
            InputError: There is not one label for each network.
        """
        if labels is not None and len(labels) != len(self.mean):
            raise InputError("there must be one label for each network", got=f"{len(labels)} for {len(self.mean)}")
        return to_frame({**({} if labels is None else {"network": list(labels)}), **self._columns()})

    def _columns(self) -> dict[str, list[object]]:
        columns = {"mean": self.mean, "lower": self.lower, "upper": self.upper, "outside": self.outside}
        return {name: values.tolist() for name, values in columns.items()}

    def _repr_html_(self) -> str:
        return html_table(self._columns(), title="Prediction")

    @property
    def unfavourable(self) -> Numbers:
        """The bound that a constraint with confidence is checked against: upper if less is better, else lower."""
        return self.lower if self.more_is_better else self.upper


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Held-out predictions of all models that were tried, kept to restate their scores in another metric."""

    target: Numbers
    by_model: Mapping[str, Numbers]
    """Predictions of each model, one row per repeat of the cross-validation."""
    by_count: Mapping[int, Numbers]
    """Predictions by number of fitted networks, for the learning curve."""
    families_out: Numbers | None = None
    """Predictions by the chosen model with the network's family left out."""

    def unlike(self, metric: Metric, *, batch: Numbers) -> Scores:
        """Return the scores of left-out families in the unit of the metric."""
        if self.families_out is None:
            raise ValueError("no family was left out")
        predicted, measured = (metric.from_target(values, batch=batch) for values in (self.families_out, self.target))
        return _scores(predicted, measured)

    def ranking(self, metric: Metric, *, batch: Numbers) -> tuple[Ranked, ...]:
        """Return the scores of all models in the unit of the metric, best first."""
        measured = metric.from_target(self.target, batch=batch)
        ranked = (
            Ranked(model=name, scores=_scores(metric.from_target(predicted, batch=batch), measured))
            for name, predicted in self.by_model.items()
        )
        return tuple(sorted(ranked, key=lambda model: model.scores.mape))

    def learning_curve(self, metric: Metric, *, batch: Numbers) -> tuple[CurvePoint, ...]:
        """Return the error by number of fitted networks, in the unit of the metric."""
        measured = metric.from_target(self.target, batch=batch)
        by_count = {
            count: _scores(metric.from_target(predicted, batch=batch), measured)
            for count, predicted in self.by_count.items()
        }
        return tuple(
            CurvePoint(count=count, mape=point.mape, spearman=point.spearman) for count, point in by_count.items()
        )


def _scores(predicted: Numbers, measured: Numbers) -> Scores:
    rows = np.atleast_2d(predicted)
    return scores(rows.ravel(), np.tile(measured, len(rows)))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A predictor of another device as input of a transfer: its model and the conditions of its features."""

    conditions: Conditions
    batch: int | None
    """The batch size at which the source was measured; None: several, so that it answers at that of the networks."""
    model: Fitted
    fitted_range: FittedRange | None = None
    """The range that the networks must be inside as well; None: any network."""

    def predict(self, build: Callable[[Conditions], Features], *, batch: Batch) -> Numbers:
        """Predict networks whose features `build` computes under the conditions of this source.

        Args:
            build: Computes the features.
            batch: Batch size of the networks.
        """
        return self.model.predict(self.features(build, batch=batch))

    def features(self, build: Callable[[Conditions], Features], *, batch: Batch) -> Features:
        """Return the features that `build` computes under the conditions of this source."""
        return build(replace(self.conditions, batch=self.batch or batch))

    def plain(self) -> dict[str, Any]:
        """Return plain values."""
        own_range = {} if self.fitted_range is None else {"fitted_range": self.fitted_range.to_json()}
        return {
            "conditions": self.conditions.plain(),
            "batch": self.batch,
            "model": fitted_to_json(self.model),
            **own_range,
        }


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A fitted model with its prediction intervals, fitted range, conditions of its features, and card."""

    card: Card
    conditions: Conditions
    model: Fitted
    intervals: Intervals
    fitted_range: FittedRange
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Models of other devices or batches whose predictions are inputs of this one."""
    batch: int | None = None
    """The batch size of its features, where they are those of another batch than the metric's; None: the metric's."""
    validation: Validation | None = field(default=None, repr=False, compare=False)
    """Held-out predictions of a predictor that was just fitted; not stored."""

    @property
    def default_confidence(self) -> float:
        """Default confidence of intervals: 0.9, or the highest that the number of fitted networks supports."""
        return supported_confidence(self.card.data.num_networks)

    @classmethod
    @checked_arguments
    def load(cls, folder: Path | str) -> Self:
        """Load a predictor from its folder, `predictors/DEVICE/NAME/METRIC`.

        Args:
            folder: The folder that `hwnas fit` wrote.

        Raises:
            InputError: The folder holds no predictor, one of another format, or one that is invalid or was changed.
        """
        folder = Path(folder)
        path = folder / MODEL
        with file_errors(folder):
            for _ in range(_MAX_READS):
                before = _identity(folder)
                card, model_text = load_card(folder), read_stored(path)
                if _identity(folder) == before:  # no fit has put another predictor in this place in between
                    break
        require_seal(card, model_text=model_text, source=str(folder))
        return cls.from_json(card, StoredTable(parse_json(model_text, source=str(path)), where=str(path)))

    @checked_arguments
    def predict(
        self,
        networks: Workloads | Workload | Sequence[Workload],
        *,
        confidence: float | None = None,
        batch: int | None = None,
    ) -> Prediction:
        """Predict the metric of networks, each with an interval.

        Args:
            networks: A population of a space (`space.workloads(genomes)`), or networks of any kind by their operations
                (`space.workload(arch)`, `hwnas.trace_workload(module, example_input)`, `hwnas.timm_workload(name)`),
                one or several.
            confidence: Of the intervals; by default 0.9, or the highest that the number of fitted networks supports.
            batch: The batch size, where the predictor was fitted to rows of different ones.

        Returns:
            Means and interval ends in the unit of the metric, and which networks lie outside the fitted range.

        Raises:
            InputError: The networks are no workloads, the confidence is not supported, or the batch size was not
                measured.
        """
        if isinstance(networks, Workloads):
            features = self.population(networks, batch=batch)
        else:
            features = self.features([networks] if isinstance(networks, Workload) else networks, batch=batch)
        return self.predict_features(features, confidence=confidence, batch=batch)

    def predict_features(
        self, features: Features, *, confidence: float | None = None, batch: int | None = None
    ) -> Prediction:
        """Predict networks from features that were computed under the conditions of this predictor at `batch`."""
        metric = self.card.metric
        count = float(metric.require_batch(batch))
        confidence = self.default_confidence if confidence is None else confidence
        require_confident(self.card.data.num_networks, confidence=confidence)
        # In parts that fit into the cache: twice as fast for many networks.
        starts = range(0, max(len(features), 1), _CHUNK)
        parts = [self._predict_part(features.take(slice(start, start + _CHUNK)), confidence, count) for start in starts]
        values, first, second, outside = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if not all(np.isfinite(array).all() for array in (values, first, second)):
            message = f"the predictor of {metric} must predict finite values"
            raise InputError(message, got=f"its model {self.card.model} overflows", hint="fit it again")
        return Prediction(
            mean=values,
            lower=np.minimum(first, second),
            upper=np.maximum(first, second),
            more_is_better=metric.maximised,
            outside=outside.astype(np.bool_),
        )

    def _predict_part(self, features: Features, confidence: float, batch: float) -> tuple[Numbers, ...]:
        """Return values, both ends of their intervals, and 1 for networks outside the fitted range."""
        metric, batches = self.card.metric, np.full(len(features), batch)
        # A model from elsewhere may overflow: its coefficients have bounds, their products with sizes do not.
        with np.errstate(all="ignore"):
            mean = self.model.predict(features)
            low, high = self.intervals.bounds(mean, features, confidence=confidence)
            values = [round_last_bits(metric.from_target(target, batch=batches)) for target in (mean, low, high)]
        return (*values, self.fitted_range.is_outside(features).astype(np.float64))

    def features(self, workloads: Sequence[Workload], *, batch: int | None = None) -> Features:
        """Return the features of networks given by their operations, under the conditions of this predictor.

        Operations do not say which blocks of a space they belong to, so block counts are 0: a predictor with a
        correction per block uses its mean alone.
        """
        return self._build_features(lambda conditions: workload_features(workloads, conditions), batch)

    def population(self, workloads: Workloads, *, batch: int | None = None) -> Features:
        """Return the features of a population of a space, under the conditions of this predictor."""
        counts = self.card.data.count_names
        return self._build_features(lambda conditions: population_features(workloads, conditions, counts=counts), batch)

    def require_inside(self, features: Features, *, labels: Sequence[str] | None = None) -> None:
        """Raise InputError for the first network outside the fitted range, with the reasons."""
        require_inside(self.fitted_range, features, labels=labels)

    def model_json(self) -> dict[str, Any]:
        """Return everything but the card as plain values, the content of `model.json`."""
        own_batch = {} if self.batch is None else {"batch": self.batch}
        return {
            **own_batch,
            "conditions": self.conditions.plain(),
            "model": fitted_to_json(self.model),
            "intervals": self.intervals.to_json(),
            "fitted_range": self.fitted_range.to_json(),
            "sources": {name: source.plain() for name, source in self.sources.items()},
        }

    @classmethod
    def from_json(cls, card: Card, data: StoredTable) -> Self:
        """Make a predictor from its card and what `model_json` returned."""
        data.require_keys("conditions", "model", "intervals", "fitted_range", "sources", optional=("batch",))
        model = fitted_from_json(data.table("model"))
        sources = {name: _source(source) for name, source in data.named_tables("sources")}
        _require_inputs(card, model, sources, where=data.where)
        return cls(
            card=card,
            conditions=Conditions.from_json(data.table("conditions")),
            model=model,
            intervals=Intervals.from_json(data.table("intervals")),
            fitted_range=FittedRange.from_json(data.table("fitted_range")),
            sources=sources,
            batch=data.whole_number("batch", low=1, high=MAX_BATCH) if "batch" in data else None,
        )

    def _build_features(self, build: Callable[[Conditions], Features], batch: int | None) -> Features:
        count = self.card.metric.require_batch(batch)
        with np.errstate(all="ignore"):  # what overflows is no finite feature, which is an error
            seen = {name: source.features(build, batch=count) for name, source in self.sources.items()}
            by_source = {name: source.model.predict(seen[name]) for name, source in self.sources.items()}
        outside = {
            name: source.fitted_range.is_outside(seen[name])
            for name, source in self.sources.items()
            if source.fitted_range is not None
        }
        conditions = replace(self.conditions, batch=self.batch or count)
        return with_outside(with_source_predictions(build(conditions), by_source), outside)


def _identity(folder: Path) -> int | None:
    return folder.stat().st_ino if folder.is_dir() else None


def _source(data: StoredTable) -> Source:
    data.require_keys("conditions", "batch", "model", optional=("fitted_range",))
    return Source(
        conditions=Conditions.from_json(data.table("conditions")),
        batch=data.whole_number("batch", low=1, high=MAX_BATCH) if data.value("batch") is not None else None,
        model=fitted_from_json(data.table("model")),
        fitted_range=FittedRange.from_json(data.table("fitted_range")) if "fitted_range" in data else None,
    )


def _require_inputs(card: Card, model: Fitted, sources: Mapping[str, Source], *, where: str) -> None:
    """Require that a model reads no column that its predictor does not make: it would silently be 0."""
    missing = {*transfer_sources(model)} - {*sources}
    nested = {name for source in sources.values() for name in transfer_sources(source.model)}
    if missing or nested:
        raise InputError(f"{where} must hold the sources that its models read", got=min(missing or nested))
    models = (model, *(source.model for source in sources.values()))
    uncounted = {name for fitted in models for name in counted_blocks(fitted)} - {*card.data.count_names}
    if uncounted:
        raise InputError(f"the card next to {where} must name the blocks that the model counts", got=min(uncounted))
