"""A search that is killed at any moment and gone on with ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.search.study import Study
from tests.search.killed import CONFIG, digest, search


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
