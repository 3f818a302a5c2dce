"""The cheap metrics of a population: MACs, parameters, and what predictors predict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.metrics import Deployment, Metric
from hwnas.predict import intervals
from hwnas.predict.predictor import Prediction, Predictor
from hwnas.search.objective import Estimate, Metrics, concatenated, exact
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes, Mask
from hwnas.workload import Workload, Workloads

_CHUNK = 1024
"""Rows that are evaluated at once: few enough that the arrays fit into the cache of a CPU."""


@dataclass(frozen=True, kw_only=True)
class MetricPredictor:
    """A predictor and the complete metric that it predicts in a search."""

    metric: Metric
    predictor: Predictor
    deployment: Deployment | None = None
    """The searched deployment whose candidates it predicts; None: it predicts all candidates."""

    @property
    def column(self) -> Metric:
        """The metric of the search: it leaves open what is searched, so that all deployments have it."""
        if self.deployment is None:
            return self.metric
        searched = {name: None for name, value in vars(self.deployment).items() if value is not None}
        return replace(self.metric, deployment=replace(self.metric.deployment, **searched))

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
        """Return MACs, parameters, and each predicted metric with its interval.

        In a search over deployments the value of a row is predicted by the predictor of its own deployment.
        """
        return concatenated([self._metrics(chunk) for chunk in _chunks(genomes)])

    def outside(self, genomes: Genomes) -> Mapping[str, Mask]:
        """Return by metric of a predictor which networks are unlike all that it was fitted to."""
        found = {str(item.metric): np.zeros(len(genomes), dtype=np.bool_) for item in self.predictors}
        for start, chunk in zip(range(0, max(len(genomes), 1), _CHUNK), _chunks(genomes), strict=True):
            for item, rows, prediction in self._predictions(chunk, self.space.workloads(chunk)):
                found[str(item.metric)][start + np.flatnonzero(rows)] = prediction.outside
        return found

    def _metrics(self, genomes: Genomes) -> Metrics:
        workloads = self.space.workloads(genomes)
        metrics = {"macs": exact(workloads.macs), "params": exact(workloads.params)}
        for item, rows, found in self._predictions(genomes, workloads):
            column = metrics.setdefault(str(item.column), Estimate(*np.full((3, len(genomes)), np.nan)))
            for values, predicted in zip(column, (found.mean, found.lower, found.upper), strict=True):
                values[rows] = predicted
        return metrics

    def _predictions(
        self, genomes: Genomes, workloads: Workloads
    ) -> Iterator[tuple[MetricPredictor, Mask, Prediction]]:
        """Yield each predictor that has rows to predict, with these rows and their predictions."""
        selected: dict[Deployment | None, tuple[Mask, Workloads]] = {}
        selected[None] = np.ones(len(genomes), dtype=np.bool_), workloads
        for item in self.predictors:
            if item.deployment is not None and item.deployment not in selected:
                assert isinstance(self.space, DeployedSpace), "a predictor of a deployment that is not searched"
                rows = self.space.in_deployment(genomes, item.deployment)
                selected[item.deployment] = rows, self.space.workloads(genomes[rows])
            rows, chosen = selected[item.deployment]
            if item.deployment is None or rows.any():
                yield item, rows, item.predict(chosen, confidence=self.confidence)


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
