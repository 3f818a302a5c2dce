"""Metrics that cost nothing to evaluate: MACs, parameters, and what predictors say of a population."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.metrics import Metric
from hwnas.predict import intervals
from hwnas.predict.predictor import Prediction, Predictor
from hwnas.search.objective import Estimate, Metrics, concatenated, exact
from hwnas.space.space import AnySpace, Genomes, Mask
from hwnas.workload import Workload, Workloads

_CHUNK = 1024
"""Rows that are evaluated at once: few enough that the arrays stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class MetricPredictor:
    """A predictor under the metric that a search asks for."""

    metric: Metric
    """Complete."""
    predictor: Predictor

    @property
    def batch(self) -> int | None:
        """The batch to predict at."""
        return self.metric.deployment.fixed_batch

    def of_population(self, workloads: Workloads, *, confidence: float) -> Prediction:
        """What it says of a population."""
        return self.predictor.predict(workloads, confidence=confidence, batch=self.batch)

    def of_network(self, workload: Workload, *, confidence: float) -> Prediction:
        """What it says of one network of any kind."""
        return self.predictor.predict([workload], confidence=confidence, batch=self.batch)


@dataclass(frozen=True, kw_only=True)
class CheapMetrics:
    """All cheap metrics of canonical genomes: the callable that a search takes."""

    space: AnySpace
    predictors: tuple[MetricPredictor, ...] = ()
    confidence: float = 0.9

    def __call__(self, genomes: Genomes) -> Metrics:
        """MACs, parameters, and each predicted metric with its interval."""
        parts = [self._metrics(self.space.workloads(chunk)) for chunk in _chunks(genomes)]
        return concatenated(parts)

    def outside(self, genomes: Genomes) -> Mapping[str, Mask]:
        """Which networks are unlike all that a predictor was fitted to, by metric."""
        found: dict[str, list[NDArray[np.bool_]]] = {str(item.metric): [] for item in self.predictors}
        for chunk in _chunks(genomes):
            workloads = self.space.workloads(chunk)
            for item in self.predictors:
                prediction = item.of_population(workloads, confidence=self.confidence)
                found[str(item.metric)].append(prediction.outside)
        return {name: np.concatenate(masks) for name, masks in found.items()}

    def _metrics(self, workloads: Workloads) -> Metrics:
        metrics = {"macs": exact(workloads.macs), "params": exact(workloads.params)}
        for item in self.predictors:
            found = item.of_population(workloads, confidence=self.confidence)
            metrics[str(item.metric)] = Estimate(found.mean, found.lower, found.upper)
        return metrics


def supported_confidence(predictors: tuple[MetricPredictor, ...], wanted: float) -> float:
    """The confidence that every predictor has enough networks for: what is wanted, or the most that there is."""
    counts = [item.predictor.card.data.num_networks for item in predictors]
    return min([wanted, *(intervals.supported_confidence(count, wanted=wanted) for count in counts)])


def require_confidence(predictors: tuple[MetricPredictor, ...], wanted: float) -> None:
    """A confidence that somebody asked for must be supported by every predictor."""
    for item in predictors:
        intervals.require_confident(item.predictor.card.data.num_networks, confidence=wanted)


def _chunks(genomes: Genomes) -> Iterator[Genomes]:
    for start in range(0, max(len(genomes), 1), _CHUNK):
        yield genomes[start : start + _CHUNK]
