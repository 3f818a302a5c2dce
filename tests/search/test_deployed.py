"""Searches over networks and deployments: one evaluation of a network serves all that share its accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.metrics import Deployment
from hwnas.search.ledger import Budget, SearchLedger
from hwnas.search.objective import Estimate, Metrics
from hwnas.search.problem import Evaluators
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.rounds import RoundsSearch
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import Genomes
from tests.search import toys
from tests.search.toys import LATENCY, Truth, problem

NETWORKS = SPACES.get("autoformer-micro")
SPACE = DeployedSpace.of(
    NETWORKS, [Deployment.parse(text) for text in ("onnxruntime/fp32", "torch/bf16", "torch/int8")]
)
SPEED = np.array([1.0, 0.7, 0.5])
"""Relative latency of the deployments."""


class DeployedTruth(Truth):
    """An accuracy that int8 lowers by a point, and that bf16 leaves alone."""

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        values = toys.accuracy(NETWORKS, genomes[:, :-1]) - 0.01 * (genomes[:, -1] == 2)
        self.asked += [tuple(genome) for genome in SPACE.accuracy_representatives(genomes).tolist()]
        yield from enumerate(values.tolist())


def cheap(genomes: Genomes) -> Metrics:
    metrics = toys.cheap(NETWORKS)(genomes[:, :-1])
    return {**metrics, LATENCY: Estimate(*(ends * SPEED[genomes[:, -1]] for ends in metrics[LATENCY]))}


def evaluators(truth: Truth) -> Evaluators:
    return Evaluators(cheap=cheap, expensive=truth, fit=toys.fit(SPACE), shared_by=SPACE)


def found(truth: Truth, strategy: str = "rounds", study: Study | None = None, budget: int = 60) -> SearchOutcome:
    fast = RoundsSearch(initial=12, batch=8, population=24, generations=6)
    chosen = fast if strategy == "rounds" else STRATEGIES.get(strategy)()
    return run_search(
        problem(SPACE), evaluators(truth), strategy=chosen, budget=Budget(evaluations=budget), study=study
    )


def test_one_evaluation_serves_all_deployments_of_equal_accuracy() -> None:
    truth = DeployedTruth(SPACE)
    ledger = SearchLedger(problem(SPACE), evaluators(truth), budget=Budget(evaluations=10))
    network = NETWORKS.sample(np.random.default_rng(0), 1)[0]
    rows = np.array([[*network, index] for index in range(3)], dtype=np.int16)
    part = ledger.evaluate(rows)
    accuracy = part.metrics["accuracy"].mean
    assert ledger.evaluations == len(truth.asked) == 2
    assert accuracy[0] == accuracy[1] == pytest.approx(accuracy[2] + 0.01)


def test_values_known_from_another_deployment_cost_nothing_when_the_budget_is_spent() -> None:
    truth = DeployedTruth(SPACE)
    ledger = SearchLedger(problem(SPACE), evaluators(truth), budget=Budget(evaluations=4))
    rows = np.unique(NETWORKS.sample(np.random.default_rng(0), 9), axis=0)[:4]
    part = ledger.evaluate(np.column_stack([rows, np.zeros(4, dtype=np.int16)]))
    assert ledger.stop == "evaluations"
    siblings = ledger.evaluate_siblings(part)
    assert siblings.genomes[:, -1].tolist() == [1] * 4
    assert siblings.evaluated.all()
    assert ledger.evaluations == len(truth.asked) == 4
    assert ledger.evaluate_siblings(part).genomes.shape == (0, len(SPACE.dimensions))


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_searches_deployments(strategy: str) -> None:
    truth = DeployedTruth(SPACE)
    if getattr(STRATEGIES.get(strategy)(), "first_level", None):
        pytest.skip("a strategy for the layouts of GLiT")
    outcome = found(truth, strategy)
    assert outcome.evaluations == 60
    assert len(truth.asked) == len(set(truth.asked)) <= 60
    assert set(outcome.candidates.genomes[:, -1].tolist()) == {0, 1, 2}


def test_rounds_know_each_network_in_its_best_deployments() -> None:
    outcome = found(DeployedTruth(SPACE))
    front = outcome.candidates.genomes[outcome.rows]
    assert 0 not in front[:, -1], "fp32 is slower than bf16 and no more accurate"
    assert {1, 2} <= set(front[:, -1].tolist())


def snapshot(outcome: SearchOutcome) -> Any:
    return outcome.candidates.genomes.tolist(), outcome.evaluations, outcome.history, outcome.rows.tolist()


@pytest.mark.parametrize("strategy", ["rounds", "nsga2"])
def test_a_search_that_was_killed_ends_as_if_it_was_not(tmp_path: Path, strategy: str) -> None:
    class Killed(DeployedTruth):
        left = 17

        def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
            for item in super().__call__(genomes):
                self.left -= 1
                if self.left < 1:
                    raise KeyboardInterrupt
                yield item

    expected = snapshot(found(DeployedTruth(SPACE), strategy))
    with pytest.raises(KeyboardInterrupt), Study.create(tmp_path, config={}) as study:
        found(Killed(SPACE), strategy, study)
    truth = DeployedTruth(SPACE)
    with Study.resume(tmp_path, config={}) as study:
        assert snapshot(found(truth, strategy, study)) == expected
    assert len(truth.asked) == 60 - 16
    with Study.resume(tmp_path, config={}) as study:
        assert snapshot(found(Killed(SPACE), strategy, study)) == expected
        table = study.table(space=SPACE)
        ids = study.arch_ids()
    known = np.isfinite(table.metrics["accuracy"].mean)
    assert len(ids) == known.sum() == len(set(ids.values()))
