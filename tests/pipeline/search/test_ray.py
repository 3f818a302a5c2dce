"""A Ray cluster that is started for real: two actors on this machine, which are killed and replaced."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import MissingError
from hwnas.pipeline.search.accuracy import open_supernet
from hwnas.pipeline.workers.evaluate_on import EvaluateOn, evaluation_workers
from hwnas.train.executor import Measure
from tests.pipeline.search.test_worker_rows import OpenWorker, make_task, sampled
from tests.pipeline.search.workbench import DATA, FIRST, write_supernet
from tests.pipeline.workers.pools import TASK

HAS_RAY = importlib.util.find_spec("ray") is not None
ROOT = Path(__file__).parents[3]
RAY = EvaluateOn(kind="ray")
RUN = "import sys; from tests.pipeline.search.test_ray import main; main(sys.argv[1])"


def main(supernet: str) -> None:
    """Evaluate networks on Ray and here, in a process of its own: warnings of Ray would be errors of a test."""
    logging.basicConfig(level=logging.INFO)
    before = signal.getsignal(signal.SIGTERM)
    opened = open_supernet(Path(supernet), space=FIRST, data=DATA)
    archs = {str(number): arch for number, arch in enumerate(sampled(opened, 24))}
    task, measure = make_task(opened), Measure(keep_hits=True)
    expected = dict(zip(archs, OpenWorker(task).rows(list(archs.values()), measure), strict=True))
    with evaluation_workers(RAY, task, keeps_images=True) as executor:
        assert executor is not None
        found = dict(executor.evaluate(archs, measure, progress=lambda done, images: kill_actors(first=done == 4)))
        assert dict(executor.evaluate(archs, measure)) == found
        assert signal.getsignal(signal.SIGTERM) == before
    assert found == expected
    assert not actors()
    print("equal")


def actors() -> list[int]:
    """The processes of actors, which name themselves after the method that they run."""
    pids = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(path.name) for path in pids if b"ray::EvaluationActor" in command_line(path)]


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def kill_actors(*, first: bool) -> None:
    """Kill all actors after the first batch."""
    for pid in actors() if first else ():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
def test_actors_answer_as_this_process_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(write_supernet(tmp_path, FIRST))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["equal"], done.stderr
    assert "a worker was lost" in done.stderr
    assert done.stderr.count("an actor of Ray evaluates networks") >= 2


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_ray_is_named_where_it_is_missing() -> None:
    with pytest.raises(MissingError, match="ray must be installed") as caught:
        evaluation_workers(RAY, TASK, keeps_images=True).__enter__()
    assert caught.value.hint == "pip install 'hwnas[ray]'"
