import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import MissingError
from hwnas.profile.campaign import Campaign, CampaignResult, ProgressListener, _Pace
from hwnas.profile.crew import Crew, WorkerPair
from hwnas.profile.plan import PlannedTask, make_tasks
from hwnas.profile.worker_messages import ReferenceNetworkError
from hwnas.progress import CampaignProgress
from hwnas.records import Failure, Measurement, Profile, Store, load_profile
from tests.profile.stand_ins import TASKS, FakeWorker
from tests.records.rows import REFERENCE, SESSION, SETTING, make_setting, manifest, subject

NAN = Failure(reason="nan", message="1 output is NaN")


class Yard:
    """A store and workers to run campaigns with."""

    def __init__(self, path: Path, *, failing: dict[str, Failure] | None = None) -> None:
        self.path = path
        self.failing = failing or {}
        self.workers: list[FakeWorker] = []
        self.seen: list[CampaignProgress] = []
        self.listener: ProgressListener = self.seen.append

    def run(
        self,
        tasks: tuple[PlannedTask, ...] = TASKS,
        *,
        retry: bool = False,
        deadline_s: float | None = None,
        clock: object = time.monotonic,
    ) -> CampaignResult:
        processes = Crew([WorkerPair(self._start)])
        with Store(self.path, manifest=manifest(), session=SESSION) as store:
            campaign = Campaign({1: store}, processes, pairs=12, seed=5, retry=retry)
            result = campaign.run(tasks, listener=self.listener, deadline_s=deadline_s, clock=clock)  # type: ignore[arg-type]
        processes.close()
        return result

    @property
    def profile(self) -> Profile:
        return load_profile(self.path)

    def _start(self) -> FakeWorker:
        self.workers.append(FakeWorker(failing=self.failing))
        return self.workers[-1]


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path / "p")


def expected_counts(tasks: tuple[PlannedTask, ...] = TASKS) -> Counter[str]:
    return Counter(task.subject.network_id for task in tasks)


def test_every_task_is_measured_once_in_the_order_of_the_plan(yard: Yard) -> None:
    assert yard.run() == CampaignResult(num_measured=32, num_failed=0, num_skipped=0, num_left=0)
    rows = yard.profile.measurements
    assert [row.subject.network_id for row in rows] == [task.subject.network_id for task in TASKS]
    assert {row.seed for row in rows} == {5}
    assert len(rows[0].samples.wall_ns) == 12  # type: ignore[union-attr]
    assert all(worker.closed for worker in yard.workers)


def test_repeats_are_measured_in_another_process(yard: Yard) -> None:
    yard.run()
    processes: dict[str, list[str]] = {}
    for row in yard.profile.measurements:
        processes.setdefault(row.subject.network_id, []).append(row.process_id)
    twice = [found for found in processes.values() if len(found) == 2]
    assert len(twice) == 12
    assert all(first != second for first, second in twice)
    assert len(yard.workers) == 2


def test_the_same_campaign_again_measures_nothing(yard: Yard) -> None:
    yard.run()
    before = yard.profile.measurements
    assert yard.run() == CampaignResult(num_measured=0, num_failed=0, num_skipped=32, num_left=0)
    assert yard.profile.measurements == before
    assert len(yard.workers) == 2


def test_a_larger_campaign_measures_only_what_is_new(yard: Yard) -> None:
    yard.run()
    more = make_tasks([subject(number) for number in range(30)], [SETTING], repeats=15, seed=0)
    assert yard.run(more).num_measured == 45 - 32
    assert yard.profile.counts == expected_counts(more)


def test_a_failure_costs_only_its_network_and_is_recorded(yard: Yard) -> None:
    bad = subject(0).network_id
    yard.failing = {bad: NAN}
    assert yard.run() == CampaignResult(num_measured=30, num_failed=1, num_skipped=0, num_left=0)
    assert [row.failure for row in yard.profile.failures] == [NAN]
    assert yard.profile.counts[bad] == 0
    assert sum(task.subject.network_id == bad for worker in yard.workers for task in worker.tasks) == 1


def test_a_failure_is_tried_again_only_when_asked_and_once(yard: Yard) -> None:
    bad = subject(0).network_id
    yard.failing = {bad: NAN}
    yard.run()
    assert yard.run().num_failed == 0
    assert yard.run(retry=True) == CampaignResult(num_measured=0, num_failed=1, num_skipped=30, num_left=0)
    yard.failing = {}
    assert yard.run(retry=True) == CampaignResult(num_measured=2, num_failed=0, num_skipped=30, num_left=0)
    assert yard.profile.failures == ()
    assert yard.profile.counts == expected_counts()


def test_a_campaign_ends_when_its_time_is_up(yard: Yard) -> None:
    clock = iter(range(10_000))
    result = yard.run(deadline_s=21, clock=lambda: next(clock))
    assert 0 < result.num_measured < 32
    assert result.num_left == 32 - result.num_measured
    assert yard.run().num_measured == result.num_left
    assert yard.profile.counts == expected_counts()


def test_progress_comes_before_the_first_row_and_after_each_is_on_the_disk(yard: Yard) -> None:
    counts: list[int] = []
    yard.listener = lambda state: counts.append(len(yard.profile.measurements))
    yard.run(TASKS[:5])
    assert counts == [0, 1, 2, 3, 4, 5]


def test_progress_counts(yard: Yard) -> None:
    tasks = tuple(task for task in TASKS if not task.repeat)[:4]
    yard.failing = {tasks[1].subject.network_id: NAN}
    yard.run(tasks)
    assert [(state.done, state.total, state.failed) for state in yard.seen] == [
        (0, 4, 0),
        (1, 4, 0),
        (2, 4, 1),
        (3, 4, 1),
        (4, 4, 1),
    ]


def test_the_time_that_is_left_is_told_by_tasks_that_do_not_start_a_process(yard: Yard) -> None:
    tasks = tuple(task for task in TASKS if not task.repeat)[:4]
    now_s = 0.0

    def start() -> FakeWorker:  # which takes a hundred seconds, and each task half a second
        nonlocal now_s
        now_s += 100
        return FakeWorker(on_task=work)

    def work() -> None:
        nonlocal now_s
        now_s += 0.5

    yard._start = start  # type: ignore[method-assign]
    yard.run(tasks, clock=lambda: now_s)
    before, first, *others = (state.left_s for state in yard.seen)
    assert before is None
    assert first is not None
    assert first > 100
    assert others == pytest.approx([1.0, 0.5, 0.0], rel=0.2)


def test_the_time_is_estimated_by_similar_profiles_until_a_task_does_not_start_a_process() -> None:
    pace = _Pace(100.0, (300.0, 500.0))
    assert pace.left_s(100.0, elapsed_s=0.0, workers=1) == 400.0
    pace.add("one", 1.0, seconds=60.0)
    assert pace.left_s(99.0, elapsed_s=60.0, workers=1) == pytest.approx(396.0)
    pace.add("one", 1.0, seconds=3.0)
    assert pace.left_s(98.0, elapsed_s=63.0, workers=1) == pytest.approx(294.0)


def test_networks_without_a_graph_do_not_tell_the_time_of_others() -> None:
    pace = _Pace(100.0)
    for _ in range(2):
        pace.add("", 1.0, seconds=0.0)
    assert pace.left_s(98.0, elapsed_s=4.0, workers=1) == pytest.approx(196.0)
    pace.add("one", 1.0, seconds=60.0)
    pace.add("one", 1.0, seconds=3.0)
    assert pace.left_s(96.0, elapsed_s=70.0, workers=2) == pytest.approx(144.0)


def test_batches_go_to_stores_of_their_own(tmp_path: Path) -> None:
    settings = [make_setting(device="toy-2c", runtime="onnxruntime", batch=batch) for batch in (1, 8)]
    tasks = make_tasks([subject(number) for number in range(4)], settings, repeats=1, seed=0)
    processes = Crew([WorkerPair(FakeWorker)])
    stores = {
        setting.batch: Store(tmp_path / str(setting.batch), manifest=manifest(setting=setting), session=SESSION)
        for setting in settings
    }
    assert Campaign(stores, processes, pairs=8, seed=0).run(tasks).num_measured == 10
    for batch, store in stores.items():
        store.close()
        assert [row.setting.batch for row in load_profile(store.path).measurements] == [batch] * 5


# ----------------------------------------------------------------- batches and GPUs that are given up

MEMORY = Failure(reason="memory", message="OutOfMemoryError: CUDA out of memory")
CRASH = Failure(reason="crash", message="CUDA error: an illegal memory access")
GONE = MissingError("torch cannot be used on h200: torch finds no GPU on this machine")


class Rig:
    """Stores for the batches 1 and 8, and a worker pair for each of some GPUs."""

    def __init__(self, path: Path, **gpus: dict[str, Any]) -> None:
        self.path, self.gpus = path, gpus
        self.settings = [make_setting(device="toy-2c", runtime="onnxruntime", batch=batch) for batch in (1, 8)]
        self.tasks = make_tasks([subject(number) for number in range(20)], self.settings, repeats=5, seed=0)
        self.workers: list[FakeWorker] = []
        self.messages: list[str] = []

    def run(self) -> CampaignResult:
        with ExitStack() as stack:
            stores = {
                setting.batch: stack.enter_context(
                    Store(self.path / f"b{setting.batch}", manifest=manifest(setting=setting), session=SESSION)
                )
                for setting in self.settings
            }
            crew = Crew([WorkerPair(partial(self._start, gpu), gpu=gpu) for gpu in self.gpus])
            stack.callback(crew.close)
            campaign = Campaign(stores, crew, pairs=8, seed=0, on_message=self.messages.append)
            return campaign.run(self.tasks)

    def tasks_of(self, batch: int) -> tuple[PlannedTask, ...]:
        return tuple(task for task in self.tasks if task.setting.batch == batch)

    def rows(self, batch: int) -> tuple[Measurement, ...]:
        return load_profile(self.path / f"b{batch}").measurements

    def _start(self, gpu: str) -> FakeWorker:
        meeting = self.gpus[gpu].pop("meeting", None)  # of the first worker of each GPU
        self.workers.append(FakeWorker(**self.gpus[gpu], meeting=meeting))
        return self.workers[-1]


def test_a_batch_with_which_the_reference_network_does_not_fit_is_given_up_and_the_others_are_measured(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, alone={"reference_failures": {8: MEMORY}})
    result = rig.run()
    assert (result.num_measured, result.num_failed, result.num_left) == (25, 0, 0)
    assert list(result.given_up) == [8]
    assert result.given_up[8].endswith("must run on onnxruntime with batch 8, got memory: " + MEMORY.message)
    assert len(rig.rows(1)) == 25
    (row,) = rig.rows(8)
    assert (row.subject, row.failure) == (REFERENCE, MEMORY)
    assert [text.split(":")[0] for text in rig.messages] == ["batch 8 is given up"]
    rig.run()
    assert len(rig.rows(8)) == 1  # it was tried again, and the reason is recorded once
    rig.gpus["alone"] = {}
    assert rig.run().num_measured == 25


def test_a_campaign_ends_when_no_batch_can_be_measured(tmp_path: Path) -> None:
    rig = Rig(tmp_path, alone={"reference_failures": {1: MEMORY, 8: MEMORY}})
    with pytest.raises(ReferenceNetworkError, match="the reference network"):
        rig.run()
    assert all(worker.closed for worker in rig.workers)


def test_several_gpus_measure_at_the_same_time_and_their_rows_say_on_which(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=20)
    rig = Rig(tmp_path, **{"GPU-a": {"meeting": meeting}, "GPU-b": {"meeting": meeting}})
    assert rig.run().num_measured == 50
    for batch in (1, 8):
        rows = rig.rows(batch)
        assert Counter(row.subject.network_id for row in rows) == expected_counts(rig.tasks_of(batch))
        processes: dict[str | None, set[str]] = {}
        for row in rows:
            processes.setdefault(row.gpu, set()).add(row.process_id)
        assert set(processes) == {"GPU-a", "GPU-b"}
        assert not processes["GPU-a"] & processes["GPU-b"]
    assert rig.run().num_skipped == 50


def test_a_repeat_waits_for_its_first_measurement(tmp_path: Path) -> None:
    rig = Rig(tmp_path, **{f"GPU-{letter}": {} for letter in "abcd"})
    rig.tasks = make_tasks([subject(number) for number in range(5)], rig.settings, repeats=5, seed=0)
    assert rig.run().num_measured == 20
    for batch in (1, 8):
        processes: dict[str, set[str]] = {}
        for row in rig.rows(batch):
            processes.setdefault(row.subject.network_id, set()).add(row.process_id)
        assert {len(found) for found in processes.values()} == {2}


def test_a_gpu_that_disappears_is_named_and_its_networks_go_to_the_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, **{"GPU-a": {"gone": GONE}, "GPU-b": {}})
    result = rig.run()
    assert (result.num_measured, result.num_failed, result.given_up) == (50, 0, {})
    assert {row.gpu for row in rig.rows(1)} == {"GPU-b"}
    assert rig.messages == [f"GPU-a is given up, its networks go to the other GPUs: {GONE.message}"]


def test_a_network_that_crashes_on_one_gpu_is_tried_on_another(tmp_path: Path) -> None:
    bad, broken = subject(0).network_id, subject(1).network_id
    rig = Rig(tmp_path, **{"GPU-a": {"failing": {bad: CRASH, broken: CRASH}}, "GPU-b": {"failing": {broken: CRASH}}})
    rig.tasks = tuple(task for task in rig.tasks if task.setting.batch == 1 and not task.repeat)
    result = rig.run()
    assert (result.num_measured, result.num_failed) == (19, 1)
    rows = {row.subject.network_id: row for row in rig.rows(1)}
    assert rows[broken].failure == CRASH
    assert (rows[bad].failure, rows[bad].gpu) == (None, "GPU-b")
    assert any(text.startswith(f"{broken} goes to another GPU, as it failed on GPU-") for text in rig.messages)


def test_a_batch_that_fits_on_one_gpu_alone_is_measured_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, **{"GPU-a": {"reference_failures": {8: MEMORY}}, "GPU-b": {}})
    assert rig.run().num_measured == 50
    assert {row.gpu for row in rig.rows(8)} == {"GPU-b"}
    assert [text.split(",")[0] for text in rig.messages] == ["GPU-a with batch 8 is given up"]


def test_a_campaign_ends_when_its_last_gpu_disappears(tmp_path: Path) -> None:
    rig = Rig(tmp_path, **{"GPU-a": {"gone": GONE}, "GPU-b": {"gone": GONE}})
    with pytest.raises(MissingError, match="finds no GPU"):
        rig.run()
    assert all(worker.closed for worker in rig.workers)


# ---------------------------------------------------------------------------------------- kill -9

SCRIPT = """
import sys, time
from pathlib import Path
from hwnas.profile.campaign import Campaign
from hwnas.profile.crew import Crew, WorkerPair
from hwnas.records import Store
from tests.profile.stand_ins import TASKS, FakeWorker
from tests.records.rows import SESSION, manifest

class Slow(FakeWorker):
    def measure(self, task, *, excluded_processes=()):
        time.sleep(0.02)
        return super().measure(task, excluded_processes=excluded_processes)

with Store(Path(sys.argv[1]), manifest=manifest(), session=SESSION) as store:
    start = lambda: Slow(process_id=f"{sys.argv[2]}-{time.monotonic_ns()}")
    campaign = Campaign({1: store}, Crew([WorkerPair(start)]), pairs=12, seed=5)
    report = lambda state: print(*state.network.split()[-1:], flush=True)
    print("ready", flush=True)
    campaign.run(TASKS, listener=report)
"""


def lines_until_killed(path: Path, number: int, rng: random.Random) -> Iterator[str]:
    """What a campaign tells until it is killed, somewhere in the next few tasks."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), str(number)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(rng.uniform(0.01, 0.12))
    process.send_signal(signal.SIGKILL)
    *lines, _ = process.stdout.read().split("\n")  # the last line may be cut off
    yield from " ".join(lines).split()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_nothing_is_lost_and_nothing_measured_twice_when_a_campaign_is_killed(tmp_path: Path) -> None:
    rng = random.Random(0)
    yard = Yard(tmp_path / "p")
    told: Counter[str] = Counter()
    for number in range(5):
        told.update(lines_until_killed(yard.path, number, rng))
        assert not told - yard.profile.counts  # what was told is there
    assert 0 < sum(yard.profile.counts.values()) < 32
    yard.run()
    assert yard.profile.counts == expected_counts()
    assert yard.profile.failures == ()
