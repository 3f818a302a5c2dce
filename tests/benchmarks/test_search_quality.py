"""Searches are compared by their fronts, the published evolutions by the best network in one window of cost."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.search_quality import TASKS, Key, make_problems, searched, window_of
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.evolution import Evolution
from hwnas.space import SPACES
from hwnas.space.space import Genomes

SPACE = SPACES.get("autoformer-micro")
BUDGET = 12


class MadeUp:
    """Accuracies that are a function of the genes, and the networks that a search asked for."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.asked: list[tuple[float, int]] = []

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        accuracies = np.random.default_rng(genomes.sum(axis=1).tolist()).random(len(genomes))
        self.asked += zip(accuracies.tolist(), SPACE.costs(genomes).params.tolist(), strict=True)
        yield from enumerate(accuracies.tolist())


def test_evolutions_of_one_objective_are_not_compared_by_fronts() -> None:
    evolutions = {name for name in STRATEGIES if issubclass(STRATEGIES.get(name), Evolution)}
    assert not evolutions & set(TASKS["front"].split(","))
    assert set(TASKS["window"].split(",")) == {*TASKS["front"].split(","), *evolutions} - {"glit"}


@pytest.mark.parametrize("strategy", TASKS["window"].split(","))
def test_a_window_has_the_best_accuracy_of_equally_many_networks_inside_it(strategy: str) -> None:
    window = low, high = window_of(SPACE, cost="params", share=0.9)
    params = SPACE.costs(SPACE.sample(np.random.default_rng(0), 1000)).params
    assert (low.sense, high.sense) == (">=", "<=")
    assert (low.bound, high.bound) == pytest.approx((0.9 * np.median(params), np.median(params)))
    truth = MadeUp()
    problem = make_problems(SPACE, window)["window"]
    key = Key(task="window", strategy=strategy, budget=BUDGET, seed=0)
    found = searched(key, truth, problem, cost="params")  # type: ignore[arg-type]
    assert len(truth.asked) == BUDGET
    assert all(low.bound <= cost <= high.bound for _, cost in truth.asked)
    assert found.value == max(accuracy for accuracy, _ in truth.asked)
    assert found.key == key
