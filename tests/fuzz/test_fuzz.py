"""Hostile inputs in numbers: the fuzzer with fixed seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def require_no_failure(*arguments: str) -> None:
    """Run the fuzzer in a process of its own, as one that has run a network or has threads cannot be forked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-20_000:]}"


@pytest.mark.slow
def test_no_hostile_input_ends_other_than_documented() -> None:
    require_no_failure("--seed", "quick", "--count", "310")


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_no_hostile_input_of_thousands_ends_other_than_documented(seed: str) -> None:
    require_no_failure("--seed", seed, "--count", "2500", "--slow")
