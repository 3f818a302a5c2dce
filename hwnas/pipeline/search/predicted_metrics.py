"""The cheap metrics of a population: MACs, parameters, and what predictors predict."""

from collections.abc import Iterator, Mapping, Sequence
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
"""Rows that are evaluated at once: few enough that the arrays fit into the cache of a CPU."""


@dataclass(frozen=True, kw_only=True)
class MetricPredictor:
    """A predictor and the complete metric that it predicts in a search."""

    metric: Metric
    predictor: Predictor

    def predict(self, workloads: Workloads | Sequence[Workload], *, confidence: float) -> Prediction:
        """Predict the metric of networks, at its batch."""
        return self.predictor.predict(workloads, confidence=confidence, batch=self.metric.deployment.fixed_batch)


@dataclass(frozen=True, kw_only=True)
class CheapMetrics:
    """Evaluates all cheap metrics of canonical genomes."""

    space: AnySpace
    predictors: tuple[MetricPredictor, ...] = ()
    confidence: float = 0.9

    def __call__(self, genomes: Genomes) -> Metrics:
        """Return MACs, parameters, and each predicted metric with its interval."""
        parts = []
        for chunk in _chunks(genomes):
            workloads = self.space.workloads(chunk)
            metrics = {"macs": exact(workloads.macs), "params": exact(workloads.params)}
            for item in self.predictors:
                found = item.predict(workloads, confidence=self.confidence)
                metrics[str(item.metric)] = Estimate(found.mean, found.lower, found.upper)
            parts.append(metrics)
        return concatenated(parts)

    def outside(self, genomes: Genomes) -> Mapping[str, Mask]:
        """Return by metric which networks are unlike all that the predictor was fitted to."""
        found: dict[str, list[NDArray[np.bool_]]] = {str(item.metric): [] for item in self.predictors}
        for chunk in _chunks(genomes):
            workloads = self.space.workloads(chunk)
            for item in self.predictors:
                prediction = item.predict(workloads, confidence=self.confidence)
                found[str(item.metric)].append(prediction.outside)
        return {name: np.concatenate(masks) for name, masks in found.items()}


def supported_confidence(predictors: tuple[MetricPredictor, ...], wanted: float) -> float:
    """Return the requested confidence, or the highest that every predictor has enough networks for."""
    counts = [item.predictor.card.data.num_networks for item in predictors]
    return min([wanted, *(intervals.supported_confidence(count, wanted=wanted) for count in counts)])


def require_confidence(predictors: tuple[MetricPredictor, ...], wanted: float) -> None:
    """Require that every predictor has enough networks for a confidence."""
    for item in predictors:
        intervals.require_confident(item.predictor.card.data.num_networks, confidence=wanted)


def _chunks(genomes: Genomes) -> Iterator[Genomes]:
    for start in range(0, max(len(genomes), 1), _CHUNK):
        yield genomes[start : start + _CHUNK]
