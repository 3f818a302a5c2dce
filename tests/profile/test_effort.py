"""The work of measurements, relative to each other."""

from dataclasses import replace

from hwnas.profile.effort import task_effort
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import PlannedTask, make_plan


def tasks() -> list[PlannedTask]:
    options = CampaignOptions(space="autoformer-tiny", device="cpu", batches=(1, 64), runtime="torch")
    return list(make_plan(options, "cpu-x", num_samples=2).tasks)


def test_large_batches_are_most_of_the_work() -> None:
    work = {batch: [task_effort(task) for task in tasks() if task.setting.batch == batch] for batch in (1, 64)}
    assert min(work[64]) > 20 * max(work[1])
    assert len(set(work[1])) > 1  # networks differ


def test_a_network_that_is_none_counts_as_the_reference() -> None:
    task = next(task for task in tasks() if task.subject.source == "space")
    broken = replace(task, subject=replace(task.subject, arch={}))
    reference = next(task for task in tasks() if task.subject.source == "timm")
    assert task_effort(broken) == task_effort(replace(reference, setting=broken.setting))
