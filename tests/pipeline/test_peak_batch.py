"""The sweep over batch sizes, with times that a formula gives."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hwnas.devices import require
from hwnas.errors import InputError, UsageError
from hwnas.pipeline.measure import measure
from hwnas.pipeline.peak_batch import (
    BatchThroughput,
    describe_throughput,
    peak_batch,
    resolve_peak_batch,
    sweep_batches,
)
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import write_plan
from hwnas.profile.worker_messages import MeasurementTask, TaskResult
from hwnas.records import Failure
from tests.pipeline.campaigns import CPU, FakeEnvironment, Listener
from tests.profile.stand_ins import FakeWorker, steady

OPTIONS = CampaignOptions(
    space="autoformer-micro",
    device="cpu",
    runtime="onnxruntime",
    samples=2,
    repeats=0,
    reference_networks=False,
    batches=(1,),
    peak_batch=True,
)
FULL = Failure(reason="memory", message="out of memory")


def device_ms(batch: int) -> float:
    """A device that does 16 images in the time of one."""
    return 1.0 * max(1, batch / 16)


@dataclass
class FilledWorker(FakeWorker):
    """Takes as long as a device that 16 images fill."""

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        result = super().measure(task, excluded_processes=excluded_processes)
        return replace(result, samples=steady(round(1e6 * device_ms(task.setting.batch)), task.pairs))


class FilledEnvironment(FakeEnvironment):
    def _start(self, gpu: str | None) -> FakeWorker:
        self.workers.append(FilledWorker(reference_failures=self.reference_failures))
        return self.workers[-1]

    def start(self) -> FakeWorker:
        return self._start(None)


def stepped(batch: int) -> float:
    """A batch of 4 fills the device badly, one of 8 well."""
    return batch / {1: 100, 2: 180, 4: 181, 8: 300, 16: 310, 32: 312}[batch] * 1e3


@pytest.mark.parametrize(
    ("time_batch", "swept", "peak"),
    [
        (device_ms, (1, 2, 4, 8, 16, 32, 64), 16),
        (stepped, (1, 2, 4, 8, 16, 32), 8),
        (lambda batch: 10.0 * batch, (1, 2, 4), 1),
        (lambda batch: 10.0 if batch <= 8 else None, (1, 2, 4, 8), 8),
    ],
)
def test_the_sweep_ends_when_two_doublings_gain_nothing(
    time_batch: Callable[[int], float | None], swept: tuple[int, ...], peak: int
) -> None:
    points = sweep_batches(time_batch)
    assert tuple(point.batch for point in points) == swept
    assert peak_batch(points) == peak


def test_small_gains_add_up() -> None:
    rates = {1: 100.0, 8: 103.0, 32: 106.0, 128: 109.0}
    points = [BatchThroughput(batch=batch, images_per_s=rate) for batch, rate in rates.items()]
    assert peak_batch(points) == 32
    assert describe_throughput(points).endswith(
        "by batch: 1: 100, 8: 103, 32: 106, 128: 109; they rise by less than 5% beyond 32"
    )


def test_the_peak_takes_the_place_of_the_option() -> None:
    environment, listener = FilledEnvironment(), Listener()
    found = resolve_peak_batch(OPTIONS, require("cpu"), start=environment.start, reporter=listener)
    assert (found.batches, found.peak_batch) == ((1, 16), False)
    assert "1: 1,000, 2: 2,000" in listener.texts[0]
    assert listener.texts[1] == "--batch 1,16 measures the same without this sweep"
    (worker,) = environment.workers
    assert worker.closed
    assert {task.setting.exporter for task in worker.tasks} == {"dynamo"}


def test_memory_ends_the_sweep_but_no_other_failure() -> None:
    environment = FilledEnvironment(reference_failures={8: FULL})
    found = resolve_peak_batch(OPTIONS, require("cpu"), start=environment.start, reporter=Listener())
    assert found.batches == (1, 4)
    for failures in ({1: FULL}, {4: replace(FULL, reason="crash")}):
        environment = FilledEnvironment(reference_failures=failures)
        with pytest.raises(InputError, match="to find the peak"):
            resolve_peak_batch(OPTIONS, require("cpu"), start=environment.start, reporter=Listener())


def test_a_campaign_measures_at_the_peak(tmp_path: Path) -> None:
    measured = measure(replace(OPTIONS, out=tmp_path), campaign_environment=FilledEnvironment().make())
    assert [item.batch for item in measured.profiles] == [1, 16]
    assert [item.name for item in measured.profiles] == [
        f"{CPU}/autoformer-micro-onnxruntime-fp32-b{batch}-t1" for batch in (1, 16)
    ]
    assert measured.describe_throughput().startswith("images/s of deit_tiny_patch16_224 by batch: 1: 1,000, 16: 16,000")
    one = measure(replace(OPTIONS, out=tmp_path, peak_batch=False), campaign_environment=FilledEnvironment().make())
    assert one.describe_throughput() == ""


def test_images_that_still_rise_are_said_to_rise() -> None:
    points = [BatchThroughput(batch=1, images_per_s=100), BatchThroughput(batch=8, images_per_s=300)]
    assert describe_throughput(points).endswith("1: 100, 8: 300; they still rise at 8, the largest")


def test_a_plan_has_no_peak(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a plan needs batch sizes"):
        write_plan(OPTIONS, tmp_path / "plan.jsonl")


def test_the_command_names_the_peak() -> None:
    assert "--batch 1,peak" in " ".join(OPTIONS.command())
    assert "--batch peak" in " ".join(replace(OPTIONS, batches=()).command())
    with pytest.raises(UsageError, match="--batch must be"):
        replace(OPTIONS, batches=(), peak_batch=False)
