"""A campaign that is killed five times loses nothing and measures nothing twice."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hwnas.records import load_profile

KILLS = 5


@pytest.mark.slow
def test_a_campaign_survives_five_kills(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.profile.killed", str(tmp_path / "profiles"), str(KILLS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    told = json.loads(done.stdout)
    assert told["code"] == 0, told["err"]
    assert sum(session["killed"] for session in told["sessions"]) >= 3, told
    (folder,) = (tmp_path / "profiles").glob("*/*")
    profile = load_profile(folder)
    assert profile.notes == ()
    assert not profile.failures
    assert Counter(profile.counts.values()) == {1: 24, 2: 6}
    for network_id, count in profile.counts.items():
        processes = {row.process_id for row in profile.measured if row.subject.network_id == network_id}
        assert len(processes) == count
    before = told["sessions"][-1]["after"]
    assert f"{before} measured before" in told["out"]
    assert f"{36 - before} measured" in told["out"]
    assert len({row.environment_id for row in profile.measurements}) == 1
