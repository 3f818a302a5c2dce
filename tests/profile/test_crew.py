"""Real worker processes of several GPUs, whose UUIDs are invented and never resolved."""

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from hwnas.errors import InputError, Interrupted
from hwnas.profile.crew import Crew, WorkerPair
from hwnas.profile.worker import Worker
from hwnas.profile.worker_messages import WorkerFacts
from hwnas.records import Setting
from tests.profile.test_worker import task
from tests.records.rows import make_setting

GPUS = ("GPU-a", "GPU-b")


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Worker]:
    """The worker of each GPU, by a crew that a test may close."""
    monkeypatch.chdir(Path(__file__).parents[2])
    command = (sys.executable, "-m", "tests.profile.faulty")
    return {gpu: Worker(command=command, gpu=gpu) for gpu in GPUS}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_pairs_measure_in_threads_and_end_in_the_middle_of_a_measurement(workers: dict[str, Worker]) -> None:
    crew = Crew([WorkerPair(partial(workers.__getitem__, gpu), gpu=gpu) for gpu in GPUS])
    try:
        first = [crew.submit(pair, partial(pair.get(repeat=False).measure, task("works"))) for pair in crew.pairs]
        results = [future.result() for future in first]
        assert [result.failure for result in results] == [None, None]
        assert len({result.process_id for result in results}) == 2
        assert [worker.process_id for worker in workers.values()] == [result.process_id for result in results]
        pids = [worker.pid for worker in workers.values()]
        stuck = [crew.submit(pair, partial(pair.get(repeat=False).measure, task("hang"))) for pair in crew.pairs]
        time.sleep(0.3)
        assert all(pid is not None and is_running(pid) for pid in pids)
    finally:
        begin = time.monotonic()
        crew.close()
    assert time.monotonic() - begin < 10
    assert not any(is_running(pid) for pid in pids if pid is not None)
    assert all(future.done() for future in stuck)
    with pytest.raises(Interrupted):
        crew.pairs[0].get(repeat=True)


def test_one_pair_works_in_the_calling_thread_and_raises_when_its_result_is_read() -> None:
    crew = Crew([WorkerPair(lambda: pytest.fail("no worker is needed"))])
    assert crew.submit(crew.pairs[0], threading.current_thread).result() is threading.current_thread()
    failed = crew.submit(crew.pairs[0], lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert crew.pairs[0].name == "the CPU"
    crew.close()


class StatedFacts(Worker):
    """A worker that is not started, with facts of a GPU."""

    def __init__(self, limit_w: str) -> None:
        super().__init__()
        self._limit_w = limit_w

    def facts(self, setting: Setting) -> WorkerFacts:
        return WorkerFacts(process_id="p", runtime={"power_limit_w": self._limit_w}, notes=("a note",))


@pytest.mark.parametrize("limits", [("700", "700"), ("700", "500")])
def test_gpus_with_unequal_settings_are_refused_by_name(limits: tuple[str, str]) -> None:
    pairs = [WorkerPair(partial(StatedFacts, limit), gpu=gpu) for gpu, limit in zip(GPUS, limits, strict=True)]
    crew = Crew(pairs)
    try:
        if limits[0] == limits[1]:
            assert crew.facts(make_setting()).notes == ("a note",)
            return
        with pytest.raises(InputError, match="GPU-a and GPU-b") as caught:
            crew.facts(make_setting())
        assert caught.value.got == "power_limit_w 700 and 500"
    finally:
        crew.close()
