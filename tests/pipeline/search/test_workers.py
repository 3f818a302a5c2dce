"""The front of a search is the same bit for bit, on any number of workers and when some are lost."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import UsageError
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.pipeline.workers import evaluate_on
from hwnas.pipeline.workers.executor import Answer
from hwnas.pipeline.workers.local import LocalWorkers
from hwnas.progress import EvaluationProgress, NullReporter, ProgressEvent
from hwnas.search.study import Study
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.test_worker_rows import OpenWorker
from tests.pipeline.search.workbench import DATA, free, options
from tests.pipeline.workers.pools import CalledPool, loses


def results(found: SearchRun) -> tuple[Any, ...]:
    """Whatever a search finds, to the last bit."""
    with Study.read(found.run) as study:
        table = study.table()
    values = {name: estimate.mean.tobytes() for name, estimate in table.metrics.items()}
    record = found.record
    return record.front, record.history, record.reference_networks, table.genomes.tobytes(), values


class InThisProcess:
    """Makes pools whose workers are evaluators of this process, each of which is lost at some calls."""

    def __init__(self, *lost_at: tuple[int, ...]) -> None:
        self.lost_at, self.pools = lost_at, list[CalledPool]()

    def __call__(self, place: evaluate_on.EvaluateOn, task: Any) -> CalledPool:
        self.pools.append(CalledPool([loses(self._worker(task), *calls) for calls in self.lost_at]))
        return self.pools[-1]

    @staticmethod
    def _worker(task: Any) -> Any:
        opened: list[OpenWorker] = []

        def call(request: Mapping[str, Any]) -> Answer:
            opened.extend([] if opened else [OpenWorker(task)])
            return opened[0].evaluator.answer(request)

        return call


@pytest.mark.parametrize("lost_at", [pytest.param(((),), marks=pytest.mark.slow), ((2,), (1, 3), ())])
def test_the_front_is_that_of_a_search_without_workers(
    lost_at: tuple[tuple[int, ...], ...],
    searched: SearchRun,
    bench: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, seen = InThisProcess(*lost_at), list[int]()

    class Counter(NullReporter):
        def update(self, event: ProgressEvent) -> None:
            if isinstance(event, EvaluationProgress):
                seen.append(event.done)

    monkeypatch.setattr(evaluate_on, "_make_pool", made)
    found = search_networks(
        options(bench),
        out=tmp_path / "run",
        evaluate_on=f"local:{len(lost_at)}",
        reporter=Counter(),
        campaign_environment=FakeEnvironment().make(),
    )
    assert results(found) == results(searched)
    assert seen == list(range(1, found.record.evaluations + 1))
    (pool,) = made.pools
    assert pool.closed
    assert sum(pool.sent) >= found.record.evaluations


def test_evaluate_answers_alike_on_workers(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_on, "_make_pool", InThisProcess((1,), ()))
    archs = ["min", "max", "random:1", "random:2", "random:3"]
    here = evaluate(bench["supernet"], archs, data=DATA, split="test")
    assert evaluate(bench["supernet"], archs, data=DATA, split="test", evaluate_on="local:2") == here


def test_workers_without_a_network_to_evaluate_are_refused(bench: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--evaluate-on has no effect"):
        search_networks(free(bench), out=tmp_path / "run", evaluate_on="local:2")
    with pytest.raises(UsageError, match="networks are evaluated on local:N"):
        search_networks(options(bench), out=tmp_path / "run", evaluate_on="everywhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_front_on_processes_one_of_which_is_killed(
    count: int, searched: SearchRun, bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[LocalWorkers] = []

    def make(place: evaluate_on.EvaluateOn, task: Any) -> LocalWorkers:
        pools.append(LocalWorkers(task, count=count))
        return pools[-1]

    killed: list[int] = []

    def kill_one() -> None:
        """Kill the first process that is evaluating networks, half a second after it began."""
        while not (pools and (pids := pools[0].pids)):
            time.sleep(0.05)
        while pools[0].pids and not any((tmp_path / "run").glob("accuracies.jsonl")):
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    monkeypatch.setattr(evaluate_on, "_make_pool", make)
    killer = threading.Thread(target=kill_one)
    killer.start()
    found = search_networks(
        options(bench),
        out=tmp_path / "run",
        evaluate_on=f"local:{count}",
        campaign_environment=FakeEnvironment().make(),
    )
    killer.join()
    assert killed
    assert results(found) == results(searched)
    assert pools[0].pids == ()
