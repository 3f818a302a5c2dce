"""Processes of this machine that evaluate networks: their deaths, and that none is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import InputError, UsageError
from hwnas.pipeline.workers import evaluate_on
from hwnas.pipeline.workers.evaluate_on import EvaluateOn, evaluation_workers
from hwnas.pipeline.workers.executor import WorkerExecutor
from hwnas.pipeline.workers.local import LocalWorkers
from tests.marks import slow_but
from tests.pipeline.workers.pools import TASK, VALUE, networks, task

ROOT = Path(__file__).parents[3]
STUB = (sys.executable, "-m", "tests.pipeline.workers.stub")

DRIVER = """
import sys
from hwnas.cli import group, main
import click
from hwnas.pipeline.workers.executor import WorkerExecutor
from hwnas.pipeline.workers.local import LocalWorkers
from tests.pipeline.workers.pools import TASK, VALUE, networks
from tests.pipeline.workers.test_local import STUB
@click.command()
def waiting():
    pool = LocalWorkers(TASK, count=2, command=STUB)
    executor = WorkerExecutor(pool, batch_size=1)
    try:
        for name, row in executor.evaluate({**networks(1, 2), **{"n8": networks(3, sleep_s=60)["n0"]}}, VALUE):
            print(*pool.pids, flush=True)
    finally:
        executor.close()
group.load = lambda row: waiting
sys.argv = ["hwnas", "doctor"]
main()
"""
"""A command whose workers are at work when it is ended."""


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalWorkers]]:
    monkeypatch.chdir(ROOT)
    made: list[LocalWorkers] = []

    def make(count: int, **changes: Any) -> LocalWorkers:
        made.append(LocalWorkers(task(**changes), count=count, command=STUB))
        return made[-1]

    yield make
    for item in made:
        item.close()


def values(executor: WorkerExecutor, archs: dict[str, Any]) -> dict[str, float]:
    return {name: row["value"] for name, row in executor.evaluate(archs, VALUE)}


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


def test_processes_start_when_they_are_needed_and_end_at_the_end(pool: Callable[..., LocalWorkers]) -> None:
    workers = pool(3)
    executor = WorkerExecutor(workers, batch_size=1)
    assert workers.pids == ()
    assert values(executor, networks(4)) == {"n0": 4.0}
    assert len(workers.pids) == 1
    assert values(executor, networks(*range(1, 9))) == {f"n{number}": number + 1.0 for number in range(8)}
    pids = workers.pids
    assert 1 <= len(pids) <= 3
    executor.close()
    assert all(map(gone, pids))


def test_what_a_killed_process_was_at_is_evaluated_by_another(pool: Callable[..., LocalWorkers]) -> None:
    workers = pool(1)
    executor = WorkerExecutor(workers, batch_size=2)
    assert values(executor, networks(1)) == {"n0": 1.0}
    (first,) = workers.pids
    killer = threading.Timer(0.2, os.kill, (first, signal.SIGKILL))
    killer.start()
    assert values(executor, networks(1, 2, sleep_s=0.6)) == {"n0": 1.0, "n1": 2.0}
    killer.join()
    assert first not in workers.pids


def test_a_network_that_ends_processes_is_named(pool: Callable[..., LocalWorkers]) -> None:
    with pytest.raises(InputError, match="network n0 ends the workers that evaluate it") as caught:
        values(WorkerExecutor(pool(1), batch_size=2), networks(0))
    assert "the process was killed by SIGKILL" in str(caught.value.got)


def test_a_task_that_cannot_be_opened_is_an_error(pool: Callable[..., LocalWorkers]) -> None:
    with pytest.raises(InputError, match="there is no dataset"):
        values(WorkerExecutor(pool(1, data="missing"), batch_size=2), networks(1))
    with pytest.raises(InputError, match="a worker must be able to start") as caught:
        values(WorkerExecutor(pool(1, data="dies"), batch_size=2), networks(1))
    assert "ended with code 5" in str(caught.value.got)


@pytest.mark.parametrize("number", slow_but([signal.SIGTERM, signal.SIGKILL], signal.SIGKILL))
def test_no_worker_outlives_its_command(number: signal.Signals) -> None:
    command = subprocess.Popen([sys.executable, "-c", DRIVER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    command.stdout.readline()
    pids = [int(word) for word in command.stdout.readline().split()]
    command.send_signal(number)
    assert command.wait(timeout=30) == (143 if number == signal.SIGTERM else -number)
    command.stdout.close()
    assert pids
    assert all(map(gone, pids))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local:4", EvaluateOn(kind="local", count=4)),
        ("local:000010", EvaluateOn(kind="local", count=10)),
        (f"local:{10_000 * '0'}1024", EvaluateOn(kind="local", count=1024)),
        ("ray", EvaluateOn(kind="ray")),
        ("ray:10.0.0.1:6379", EvaluateOn(kind="ray", address="10.0.0.1:6379")),
        ("ray:ray://head:10001", EvaluateOn(kind="ray", address="ray://head:10001")),
    ],
)
def test_where_networks_are_evaluated_is_a_text(text: str, expected: EvaluateOn) -> None:
    assert EvaluateOn.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "local", "local:", "local:0", "local:1025", "local:10000", f"local:{9_999 * '1'}", "local:٣", "ray:", "gpu"],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="networks are evaluated on local:N"):
        EvaluateOn.parse(text)


def test_more_threads_than_cores_are_refused_unless_each_worker_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_on, "usable_cores", lambda: 8)
    place = EvaluateOn(kind="local", count=4)
    with pytest.raises(UsageError, match="4 workers of 4 threads each") as caught:
        evaluation_workers(place, task(threads=4), keeps_images=True).__enter__()
    assert str(caught.value.hint).startswith("--evaluate-on local:2, or OMP_NUM_THREADS=2")
    for threads in (1, 2):
        with evaluation_workers(place, task(threads=threads), keeps_images=True) as executor:
            assert executor is not None
    with evaluation_workers(None, TASK, keeps_images=True) as executor:
        assert executor is None
