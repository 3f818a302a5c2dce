"""Hostile inputs in numbers, and full disks, with fixed seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_module(name: str, *arguments: str) -> str:
    """Run a module of this folder in a process of its own, as one that has threads cannot be forked.

    Returns:
        Its output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", name, *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout[-5000:]}\n{ended.stderr[-20_000:]}"
    return ended.stdout


def test_no_hostile_input_ends_other_than_documented() -> None:
    run_module("tests.fuzz", "--seed", "quick", "--count", "160", "--full-disks", "2")


@pytest.mark.slow
def test_valid_files_are_accepted() -> None:
    """Else their changed copies would be refused for another reason than their change."""
    run_module("tests.fuzz", "--valid", "--slow")


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_no_hostile_input_of_thousands_ends_other_than_documented(seed: str) -> None:
    run_module("tests.fuzz", "--seed", seed, "--count", "2500", "--slow")
