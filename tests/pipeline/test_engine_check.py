"""The comparison with trtexec: a worker that writes engines, and a program that prints what trtexec would."""

import stat
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError, MissingError, UsageError
from hwnas.pipeline.engine_check import EngineCheck, check_engines, require_checkable
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import make_plan
from hwnas.profile.trtexec import parse_trtexec
from hwnas.profile.worker_messages import MeasurementTask, TaskResult
from hwnas.records import Failure, Samples
from tests.pipeline.campaigns import Listener
from tests.profile.stand_ins import FakeWorker

OUTPUT = Path(__file__).parents[1] / "profile" / "trtexec_output.txt"
PLAN = make_plan(
    CampaignOptions(
        space="autoformer-micro",
        runtime="tensorrt",
        samples=2,
        repeats=0,
        reference_networks=False,
        batches=(1, 8),
    ),
    "h200",
    num_samples=2,
)


class EngineWorker(FakeWorker):
    """Saves an engine in the requested file, and has device times."""

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        result = super().measure(task, excluded_processes=excluded_processes)
        assert task.engine_file is not None
        Path(task.engine_file).write_text(f"{task.subject.network_id} {task.setting.batch}")
        times = (822_500 * 2,) * task.pairs
        return result if result.failure else replace(result, samples=Samples(wall_ns=times, device_ns=times))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Prints trtexec's output, and notes the engine that it got."""
    path = tmp_path / "trtexec"
    path.write_text(
        f'#!/bin/sh\ncat "${{1#--loadEngine=}}" >> {tmp_path}/engines\necho >> {tmp_path}/engines\ncat {OUTPUT}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_engines_that_were_timed_are_timed_by_trtexec(program: Path, tmp_path: Path) -> None:
    workers: list[EngineWorker] = []

    def start() -> EngineWorker:
        assert all(worker.closed for worker in workers)  # the GPU is free when trtexec runs
        workers.append(EngineWorker())
        return workers[-1]

    listener = Listener()
    checks = check_engines(PLAN, program, start=start, gpu=None, reporter=listener)
    first = PLAN.tasks[0].subject.network_id
    by_batch = {batch: next(task.subject for task in PLAN.tasks if task.setting.batch == batch) for batch in (1, 8)}
    expected = [
        (name, batch) for batch in (1, 8) for name in ("timm:deit_tiny_patch16_224", by_batch[batch].network_id)
    ]
    assert [(check.network_id, check.batch) for check in checks] == expected
    assert first in {check.network_id for check in checks}
    assert (tmp_path / "engines").read_text().splitlines() == [f"{name} {batch}" for name, batch in expected]
    assert [check.ratio for check in checks] == pytest.approx([2.0] * 4)
    assert listener.texts == [check.describe() for check in checks]
    assert {task.setting.exporter for worker in workers for task in worker.tasks} == {"dynamo", "composed"}


def test_both_times_and_their_ratio_are_named() -> None:
    check = EngineCheck(network_id="timm:a", batch=8, device_ms=0.84, trtexec=parse_trtexec(OUTPUT.read_text()))
    assert check.describe() == (
        "timm:a at batch 8: 0.84 ms by hwnas, 0.8225 ms by trtexec 10.13.3 (medians), ratio 1.021; "
        "GPU compute time is unstable, with coefficient of variance = 3.1415%."
    )


def test_a_network_that_does_not_run_ends_the_check(program: Path) -> None:
    failure = Failure(reason="memory", message="out of memory")
    worker = EngineWorker(failing={"timm:deit_tiny_patch16_224": failure})
    with pytest.raises(InputError, match="must run to be checked with trtexec") as caught:
        check_engines(PLAN, program, start=lambda: worker, gpu=None, reporter=Listener())
    assert caught.value.got == "out of memory"


def test_only_engines_of_tensorrt_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="trtexec times engines of tensorrt") as caught:
        require_checkable("torch-graph")
    assert caught.value.hint == "--runtime tensorrt"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="trtexec is not installed"):
        require_checkable("tensorrt")
