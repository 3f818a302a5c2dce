import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwnas.metrics import parse_metric
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.pipeline.search.verify import MeasuredMetric, compare_with_measured
from hwnas.profile.results import NetworkResult
from hwnas.profile.statistics import Verdict
from hwnas.search.objective import Estimate, exact, parse_constraint, parse_objective
from hwnas.search.problem import Problem
from hwnas.search.verification import FrontMember, agreement, measured_front
from hwnas.space import SPACES
from tests.pipeline.search.workbench import fitted

SPACE = SPACES.get("autoformer-micro")
METRIC = "latency_ms@some-cpu-4c/onnxruntime/fp32/b1"
GENOMES = SPACE.sample(np.random.default_rng(0), 4)
CANDIDATES = SPACE.candidates(GENOMES)


def member(place: int, *, accuracy: float, predicted: float) -> FrontMember:
    around = Estimate(*(np.array([predicted * share]) for share in (1.0, 0.9, 1.1)))
    return FrontMember(
        candidate=replace(CANDIDATES[place], arch_id=f"arch{place}", network_id=f"network{place}"),
        searched={"accuracy": exact([accuracy]), METRIC: around},
    )


def problem(*constraints: str) -> Problem:
    return Problem(
        space=SPACE,
        objectives=(parse_objective("accuracy"), parse_objective(METRIC)),
        constraints=tuple(map(parse_constraint, constraints)),
        confident=True,
    )


def result(latency: float, *, stable: bool = True) -> NetworkResult:
    verdict = Verdict(stable=stable, reason="" if stable else "the runs leave 9 % open")
    return NetworkResult(latency_ms=latency, low_ms=0.99 * latency, high_ms=1.01 * latency, verdict=verdict)


def measured(results: dict[str, NetworkResult]) -> list[FrontMember]:
    members = [member(0, accuracy=0.9, predicted=3.0), member(1, accuracy=0.8, predicted=2.0)]
    members += [member(2, accuracy=0.7, predicted=1.0), member(3, accuracy=0.6, predicted=0.5)]
    metric = parse_metric(METRIC)
    predictor = MetricPredictor(metric=metric, predictor=fitted(SPACE.name, "latency_ms", "some-cpu-4c"))
    return [compare_with_measured(one, [MeasuredMetric(predictor=predictor, by_network=results)]) for one in members]


GOOD = {"network0": result(3.3), "network1": result(4.0), "network2": result(1.0), "network3": result(0.5)}


def test_the_front_is_that_of_measured_values() -> None:
    rows, front = measured_front(problem(), measured(GOOD))
    # The second is slower than the first when measured, and less accurate.
    assert front == ("arch0", "arch2", "arch3")
    assert [row.on_front for row in rows] == [True, False, True, True]


def test_constraints_are_held_against_the_measured_value() -> None:
    rows, front = measured_front(problem(f"{METRIC}<=3.2"), measured(GOOD))
    assert rows[0].violated == (f"{METRIC}<=3.2",)
    assert rows[2].violated == ()
    assert front == ("arch2", "arch3")


def test_a_network_that_could_not_be_measured_is_on_no_front() -> None:
    failing = {**GOOD, "network0": NetworkResult(failure="crash: the worker died")}
    rows, front = measured_front(problem(), measured(failing))
    assert rows[0].failure == "crash: the worker died"
    assert rows[0].metrics[METRIC].measured is None
    assert front == ("arch1", "arch2", "arch3")
    del failing["network1"]
    assert measured_front(problem(), measured(failing))[0][1].failure == "it was not measured"


def test_predicted_and_measured_values_are_compared() -> None:
    rows, _ = measured_front(problem(), measured(GOOD))
    found = agreement({METRIC: [row.metrics[METRIC] for row in rows]})
    errors = [abs(3.0 / 3.3 - 1), 0.5, 0.0, 0.0]
    assert found["mape"][METRIC] == pytest.approx(np.mean(errors))
    assert found["spearman"][METRIC] == pytest.approx(0.8)
    assert found["kendall"][METRIC] == pytest.approx(2 / 3)
    # 3.3 is the end of the first interval; 4.0 is outside of the second.
    assert found["coverage"][METRIC] == 0.75
    check = rows[0].metrics[METRIC]
    assert check.predicted == 3.0
    assert [check.lower, check.upper] == pytest.approx([2.7, 3.3])
    assert [check.measured, check.measured_lower] == pytest.approx([3.3, 3.267])
    assert check.stable


def test_two_networks_have_no_rank_correlation() -> None:
    rows, _ = measured_front(problem(), measured(GOOD)[:2])
    found: dict[str, Any] = agreement({METRIC: [row.metrics[METRIC] for row in rows]})
    assert found["spearman"][METRIC] is None
    assert agreement({METRIC: []})["mape"] == {}
    assert measured_front(problem(), []) == ([], ())


def test_throughput_is_the_batch_over_the_latency() -> None:
    found = NetworkResult(latency_ms=2.0, low_ms=1.0, high_ms=4.0, batch=8)
    assert found.value("throughput") == 4000.0
    assert found.interval("throughput") == (2000.0, 8000.0)
    assert found.value("memory_mb") is None
    assert math.isnan(NetworkResult().value("latency_ms") or 0.0)
