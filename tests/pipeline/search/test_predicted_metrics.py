"""The cheap metrics of networks in several deployments."""

from dataclasses import replace

import numpy as np

from hwnas.metrics import Deployment
from hwnas.pipeline.search.predicted_metrics import CheapMetrics, MetricPredictor
from hwnas.space import SPACES
from hwnas.space.deployed import DeployedSpace
from tests.pipeline.search.workbench import FIRST, fitted

DEVICE = "toy-2c"


def test_each_row_is_predicted_by_the_predictor_of_its_deployment() -> None:
    networks = SPACES.get(FIRST)
    texts = ("onnxruntime/fp32", "torch/bf16")
    space = DeployedSpace.of(networks, [Deployment.parse(text) for text in texts])
    predictors = []
    for text in texts:
        predictor = fitted(FIRST, "throughput", DEVICE, deployment=text)
        metric = replace(predictor.card.metric, deployment=replace(predictor.card.metric.deployment, threads=None))
        predictors.append(MetricPredictor(metric=metric, predictor=predictor, deployment=Deployment.parse(text)))
    assert {str(item.column) for item in predictors} == {f"throughput@{DEVICE}/b1"}

    rows = space.sample(np.random.default_rng(0), 30)
    found = CheapMetrics(space=space, predictors=tuple(predictors))(rows)
    assert list(found) == ["macs", "params", f"throughput@{DEVICE}/b1"]
    assert found["macs"].mean.tolist() == networks.costs(rows[:, :-1]).macs.tolist()
    for index, item in enumerate(predictors):
        alone = CheapMetrics(space=networks, predictors=(replace(item, deployment=None),))
        own = rows[:, -1] == index
        assert 0 < own.sum() < len(rows)
        expected = alone(rows[own][:, :-1])[str(item.metric)]
        for values, ends in zip(found[f"throughput@{DEVICE}/b1"], expected, strict=True):
            assert values[own].tolist() == ends.tolist()
    # A value does not depend on the other rows.
    again = CheapMetrics(space=space, predictors=tuple(predictors))(rows[:1])
    assert again[f"throughput@{DEVICE}/b1"].mean[0] == found[f"throughput@{DEVICE}/b1"].mean[0]


def test_a_network_is_outside_the_range_of_its_own_predictor_alone() -> None:
    networks = SPACES.get(FIRST)
    texts = ("onnxruntime/fp32", "torch/bf16")
    space = DeployedSpace.of(networks, [Deployment.parse(text) for text in texts])
    predictors = tuple(
        MetricPredictor(metric=predictor.card.metric, predictor=predictor, deployment=Deployment.parse(text))
        for text in texts
        for predictor in [fitted(FIRST, "latency_ms", DEVICE, 9, deployment=text)]
    )
    rows = space.sample(np.random.default_rng(1), 200)
    outside = CheapMetrics(space=space, predictors=predictors, confidence=0.5).outside(rows)
    for index, item in enumerate(predictors):
        mask = outside[str(item.metric)]
        assert mask.any()
        assert (rows[mask, -1] == index).all()
