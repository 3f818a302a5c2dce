from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.progress import SearchProgress
from hwnas.search.ledger import Budget, SearchLedger
from hwnas.search.problem import Evaluators
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import Genomes
from tests.search.toys import LATENCY, Truth, accuracy, cheap, cheap_only, evaluators, problem

SPACE = SPACES.get("autoformer-micro")
ROWS = SPACE.sample(np.random.default_rng(0), 60)
ROWS = ROWS[np.sort(np.unique(ROWS, axis=0, return_index=True)[1])][:30]


def test_true_values_are_counted_and_scored() -> None:
    truth = Truth(SPACE)
    ledger = SearchLedger(problem(SPACE), evaluators(SPACE, truth), budget=Budget(evaluations=50))
    asked = ledger.evaluate(ROWS)
    assert ledger.evaluations == len(truth.asked) == 30
    assert ledger.left == 20
    assert asked.scores.objectives[:, 0].tolist() == (-accuracy(SPACE, ROWS)).tolist()
    assert asked.scores.objectives[:, 1].tolist() == SPACE.costs(ROWS).macs.tolist()
    assert asked.evaluated.all()
    assert ledger.candidates.generations.tolist() == [0] * 30


def test_what_the_budget_does_not_allow_has_no_value() -> None:
    ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(evaluations=7))
    asked = ledger.evaluate(ROWS)
    assert asked.evaluated.tolist() == [True] * 7 + [False] * 23
    assert ledger.stop == "evaluations"
    assert len(ledger.evaluate(ROWS[:0]).genomes) == 0


def test_what_violates_a_cheap_constraint_costs_nothing() -> None:
    bound = float(np.median(SPACE.costs(ROWS).macs))
    truth = Truth(SPACE)
    ledger = SearchLedger(problem(SPACE, f"macs<={bound}"), evaluators(SPACE, truth), budget=Budget(evaluations=50))
    asked = ledger.evaluate(ROWS)
    within = SPACE.costs(ROWS).macs <= bound
    assert (asked.evaluated == within).all()
    assert (asked.scores.feasible == within).all()
    assert ledger.evaluations == within.sum()


def test_confidence_holds_constraints_by_the_unfavourable_end() -> None:
    latency = cheap(SPACE)(ROWS)[LATENCY]
    bound = float(np.median(latency.mean))
    text = f"{LATENCY}<={bound}"
    for confident, values in ((False, latency.mean), (True, latency.upper)):
        asked = problem(SPACE, text, confident=confident)
        ledger = SearchLedger(asked, evaluators(SPACE), budget=Budget())
        assert (ledger.evaluate(ROWS).scores.feasible == (values <= bound)).all()


def test_cheap_searches_count_every_network() -> None:
    ledger = SearchLedger(cheap_only(SPACE), Evaluators(cheap=cheap(SPACE)), budget=Budget(evaluations=12))
    assert len(ledger.evaluate(ROWS).genomes) == 12
    assert ledger.stop == "evaluations"


def test_values_that_could_not_be_had_are_infeasible_and_counted() -> None:
    ledger = SearchLedger(problem(SPACE), evaluators(SPACE, Truth(SPACE, fails=3)), budget=Budget())
    asked = ledger.evaluate(ROWS)
    assert ledger.evaluations == 30
    assert asked.scores.feasible.sum() == 20


def test_stored_values_are_not_evaluated_again(tmp_path: Path) -> None:
    first, second = Truth(SPACE, fails=7), Truth(SPACE)
    with Study.create(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE, first), budget=Budget(evaluations=20), study=study)
        before = ledger.evaluate(ROWS)
        table = study.table()
    with Study.resume(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE, second), budget=Budget(evaluations=25), study=study)
        after = ledger.evaluate(ROWS)
    assert (len(first.asked), len(second.asked)) == (20, 5)
    assert set(first.asked).isdisjoint(second.asked)
    assert ledger.evaluations == 25
    np.testing.assert_array_equal(before.scores.objectives[:20], after.scores.objectives[:20])
    np.testing.assert_array_equal(table.metrics["accuracy"].mean, before.metrics["accuracy"].mean)


@pytest.mark.parametrize("rows", [ROWS[20:], ROWS[15:25]], ids=["others", "in part"])
def test_a_study_of_another_search_is_not_gone_on_with(tmp_path: Path, rows: Genomes) -> None:
    with Study.create(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(), study=study)
        for start in (0, 10):
            ledger.evaluate(ROWS[start : start + 10])
    with Study.resume(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(), study=study)
        ledger.evaluate(ROWS[:10])
        with pytest.raises(InputError, match="must request the networks that its study holds") as caught:
            ledger.evaluate(rows)
    assert caught.value.got == "other networks in generation 1"
    assert str(caught.value.hint).endswith("or with the version of hwnas that began it")


def test_a_network_is_never_evaluated_twice() -> None:
    ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget())
    ledger.evaluate(ROWS[:5])
    with pytest.raises(AssertionError, match="would be evaluated twice"):
        ledger.evaluate(ROWS[4:6])


def test_minutes_end_a_search_and_are_kept(tmp_path: Path) -> None:
    with Study.create(tmp_path, config={}) as study:
        budget = Budget(evaluations=None, minutes=1e-9)
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=budget, study=study)
        assert not ledger.evaluate(ROWS).evaluated.any()
        assert ledger.stop == "minutes"
        assert study.recall_seconds("elapsed_s") > 0


def test_a_search_that_time_ended_replays_to_where_it_was(tmp_path: Path) -> None:
    with Study.create(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(), study=study)
        for start in (0, 10, 20):
            ledger.evaluate(ROWS[start : start + 10])
        study.remember("elapsed_s", 120.0)
    with Study.resume(tmp_path, config={}) as study:
        ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(minutes=1.0), study=study)
        for start in (0, 10):
            ledger.evaluate(ROWS[start : start + 10])
            assert ledger.stop is None
        ledger.evaluate(ROWS[20:])
        assert ledger.stop == "minutes"
        assert ledger.evaluations == 30


def test_progress_says_where_the_search_stands() -> None:
    seen: list[SearchProgress] = []
    ledger = SearchLedger(problem(SPACE), evaluators(SPACE), budget=Budget(), on_progress=seen.append)
    ledger.evaluate(ROWS[:10])
    ledger.evaluate(ROWS[10:])
    assert [(p.generation, p.evaluations, p.candidates) for p in seen] == [(0, 10, 10), (1, 30, 30)]
    assert seen[1].best["accuracy"] == accuracy(SPACE, ROWS).max()
    assert seen[1].best["macs"] == SPACE.costs(ROWS).macs.min()


def test_a_metric_that_nobody_evaluates_is_named() -> None:
    asked = problem(SPACE, objectives=("throughput@h200",))
    ledger = SearchLedger(asked, evaluators(SPACE), budget=Budget())
    with pytest.raises(InputError, match="throughput@h200 must be evaluated, but there is no evaluator of it"):
        ledger.evaluate(ROWS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluations": None}, "a search needs a budget"),
        ({"evaluations": 0}, "evaluations must be between 1"),
        ({"minutes": 0.0}, "minutes must be greater than 0"),
        ({"minutes": float("nan")}, "minutes must be a finite number"),
    ],
)
def test_budgets_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**options)


def test_a_budget_that_was_extended_ends_where_it_ended_before() -> None:
    budget = Budget(evaluations=10).extended(25).extended(40)
    assert (budget.planned, budget.earlier) == (10, (10, 25))
    assert [budget.left(done) for done in (0, 9, 10, 24, 25, 40)] == [10, 1, 15, 1, 15, 0]
    for refused, message in ((40, "must be more than the 40"), (12, "must be more than the 40")):
        with pytest.raises(InputError, match=message):
            budget.extended(refused)
    with pytest.raises(InputError, match="after some minutes"):
        Budget(evaluations=10, minutes=3).extended(20)
    with pytest.raises(InputError, match="larger than the one before"):
        Budget(evaluations=10, earlier=(10,))
