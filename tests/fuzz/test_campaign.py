"""A campaign that is killed and started again in any order measures each network as often as planned."""

import os
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hwnas.errors import InputError
from hwnas.profile.campaign import Campaign
from hwnas.profile.crew import Crew, WorkerPair
from hwnas.profile.plan import make_tasks
from hwnas.profile.worker_messages import MeasurementTask, TaskResult
from hwnas.records import Failure, Store, load_profile
from hwnas.records.profile import MEASUREMENTS
from tests.fuzz.test_store import release
from tests.profile.stand_ins import FakeWorker
from tests.records.rows import SESSION, SETTING, manifest, subject

TASKS = make_tasks([subject(number) for number in range(8)], [SETTING], repeats=4, seed=0)
PLANNED = Counter(task.subject.network_id for task in TASKS)
BAD = subject(3).network_id


class Killed(BaseException):
    """The end of the process, which nothing may answer."""


class MortalWorker(FakeWorker):
    """Ends the process before it answers, after some answers that it shares with the other worker."""

    left: list[int]

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        if self.left[0] == 0:
            raise Killed
        self.left[0] -= 1
        return super().measure(task, excluded_processes=excluded_processes)


class CampaignMachine(RuleBasedStateMachine):
    """A campaign of eight networks, four of them measured twice, one of which may fail."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr("hwnas.records.store.os.fsync", lambda file: None)
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-campaign-")
        self.path = Path(self._folder.name) / "profile"
        self.least: Counter[str] = Counter()

    def teardown(self) -> None:
        self._folder.cleanup()
        self._patch.undo()

    @rule(answers=st.integers(0, 6), share=st.floats(0, 1), fails=st.booleans())
    def run_and_be_killed(self, answers: int, share: float, fails: bool) -> None:
        store = Store(self.path, manifest=manifest(), session=SESSION)
        sizes = [self._size()]
        try:
            campaign = Campaign({1: store}, self._workers(answers, fails=fails), pairs=12, seed=5)
            campaign.run(TASKS, listener=lambda state: sizes.append(self._size()))
        except Killed:
            pass
        release(store)
        if len(sizes) > 1:  # of the last row any part may be on the disk
            size = sizes[-2] + int(share * (sizes[-1] - sizes[-2]))
            os.truncate(self.path / MEASUREMENTS, size)
        self.least = load_profile(self.path).counts if (self.path / "manifest.json").exists() else Counter()

    @rule()
    def run_to_the_end(self) -> None:
        with Store(self.path, manifest=manifest(), session=SESSION) as store:
            with pytest.raises(InputError, match="is being written by another"):
                Store(self.path, manifest=manifest(), session=SESSION)
            Campaign({1: store}, self._workers(-1), pairs=12, seed=5, retry=True).run(TASKS)
        assert load_profile(self.path).counts == PLANNED

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if (self.path / "manifest.json").exists():
            counts = load_profile(self.path).counts
            assert not self.least - counts
            assert not counts - PLANNED

    def _workers(self, answers: int, *, fails: bool = False) -> Crew:
        left = [answers]
        failing = {BAD: Failure(reason="nan", message="1 output is NaN")} if fails else {}

        def start() -> MortalWorker:
            worker = MortalWorker(failing=failing)
            worker.left = left
            return worker

        return Crew([WorkerPair(start)])

    def _size(self) -> int:
        return (self.path / MEASUREMENTS).stat().st_size


TestCampaignMachine = CampaignMachine.TestCase
TestCampaignMachine.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)
