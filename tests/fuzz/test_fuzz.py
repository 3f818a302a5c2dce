"""Hostile inputs in numbers, and full disks, with fixed seeds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """A process that has ended: its exit code, its output, and the end of all that it printed."""

    code: int
    output: str
    end: str


def run_module(name: str, *arguments: str) -> Ended:
    """Run a module of this folder in a process of its own, as one that has threads cannot be forked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", name, *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout, f"{ended.stdout[-5000:]}\n{ended.stderr[-20_000:]}")


def test_no_hostile_input_ends_other_than_documented() -> None:
    ended = run_module("tests.fuzz", "--seed", "quick", "--count", "96", "--full-disks", "1")
    assert ended.code == 0, ended.end


@pytest.mark.slow
def test_valid_files_are_accepted() -> None:
    """Else their changed copies would be refused for another reason than their change."""
    ended = run_module("tests.fuzz", "--valid", "--slow")
    assert ended.code == 0, ended.end


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_no_hostile_input_of_thousands_ends_other_than_documented(seed: str) -> None:
    ended = run_module("tests.fuzz", "--seed", seed, "--count", "2500", "--slow")
    assert ended.code == 0, ended.end
