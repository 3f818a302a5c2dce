"""Commands that are killed twenty times end as those that were not: weights, rows and fronts."""

import json
from pathlib import Path

import pytest

from tests.fuzz.test_fuzz import run_module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "profile", "search"])
def test_a_command_that_is_killed_twenty_times_ends_as_one_that_was_not(kind: str, tmp_path: Path) -> None:
    ended = run_module("tests.fuzz.kills", kind, str(tmp_path / kind), "--kills", "20")
    assert ended.code == 0, ended.end
    found = json.loads(ended.output.splitlines()[-1])
    assert sum(found["killed"].values()) == 20
