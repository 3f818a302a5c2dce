"""A search that is killed at any moment and gone on with ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.search.ledger import Budget
from hwnas.search.problem import Evaluators
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.study import Study
from tests.search.killed import CONFIG, FAST, SPACE, digest, search
from tests.search.toys import cheap, cheap_only, evaluators, problem


def killed_search(folder: Path, strategy: str, *, kills: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.search.killed", str(folder), strategy, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("strategy", "kills"), [("nsga2", 10), ("rounds", 4)])
def test_a_search_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path, strategy: str, kills: int) -> None:
    whole = search(strategy, None)
    found = killed_search(tmp_path, strategy, kills=kills)
    assert found["digest"] == digest(whole)
    assert found["killed"] > 2
    assert found["stored"][0] > 0
    # What was under way when it was killed may be asked for again; what was stored may not.
    assert found["distinct"] == found["stored"][1] == 80
    assert 80 <= found["asked"] <= 80 + found["killed"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["rounds", "random", "autoformer", "resnas", "vitas"])
def test_so_do_the_other_strategies(tmp_path: Path, strategy: str) -> None:
    found = killed_search(tmp_path, strategy, kills=10)
    assert found["digest"] == digest(search(strategy, None))


@pytest.mark.parametrize("strategy", ["nsga2", "autoformer"])
def test_a_finished_study_replays_without_evaluating(tmp_path: Path, strategy: str) -> None:
    diary = tmp_path / "diary.txt"
    with Study.create(tmp_path, config=CONFIG) as study:
        first = search(strategy, study, diary=diary)
    before = diary.read_text()
    with Study.resume(tmp_path, config=CONFIG) as study:
        second = search(strategy, study, diary=diary)
    assert digest(second) == digest(first) == digest(search(strategy, None))
    assert diary.read_text() == before


def extended(strategy: str, study: Study | None, budget: Budget, *, expensive: bool) -> SearchOutcome:
    asked = problem(SPACE, "macs<=3.5M") if expensive else cheap_only(SPACE, "macs<=3.5M")
    found = evaluators(SPACE) if expensive else Evaluators(cheap=cheap(SPACE))
    chosen = FAST.get(strategy) or STRATEGIES.get(strategy)()
    return run_search(asked, found, strategy=chosen, budget=budget, seed=7, study=study)


@pytest.mark.parametrize(
    ("strategy", "expensive"),
    [("rounds", True), ("nsga2", True), ("nsga2", False), ("random", True), ("autoformer", True)],
)
def test_a_search_that_is_given_more_is_the_same_up_to_its_old_end(
    strategy: str, expensive: bool, tmp_path: Path
) -> None:
    first = Budget(evaluations=43)
    with Study.create(tmp_path, config={}) as study:
        before = extended(strategy, study, first, expensive=expensive)
    more = first.extended(70)
    with Study.resume(tmp_path, config={}) as study:
        after = extended(strategy, study, more, expensive=expensive)
    assert (before.evaluations, after.evaluations) == (43, 70)
    count = len(before.candidates.genomes)
    assert np.array_equal(after.candidates.genomes[:count], before.candidates.genomes)
    objectives = after.candidates.scores.objectives[:count], before.candidates.scores.objectives
    assert np.array_equal(*objectives, equal_nan=True)
    assert len(after.candidates.genomes) > count
    # It is the search of both budgets, whether it was stored in between or not.
    assert digest(extended(strategy, None, more, expensive=expensive)) == digest(after)
