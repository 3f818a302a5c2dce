"""Real networks on real runtimes, in this process; times are never judged."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hwnas.devices import detect
from hwnas.errors import InputError
from hwnas.profile.bench import Bench
from hwnas.profile.statistics import relative_latency
from hwnas.profile.subjects import REFERENCE, space_subject, timm_subject
from hwnas.profile.task import Task, parse_task
from hwnas.profile.worker import Worker
from hwnas.records import Setting
from hwnas.space import SPACES

SPACE = SPACES.get("autoformer-micro")
SUBJECT = space_subject(SPACE, SPACE.largest())
SETTING = Setting(device=detect().cpu.slug, runtime="onnxruntime", batch=2)
TASK = Task(
    subject=SUBJECT, setting=SETTING, seed=1, pairs=4, reference=space_subject(SPACE, SPACE.smallest())
)  # fmt: skip


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def bench(stages: list[str]) -> Iterator[Bench]:
    made = Bench(stage=stages.append)
    yield made
    made.close()


def test_a_network_of_a_space_on_onnxruntime(bench: Bench, stages: list[str]) -> None:
    outcome = bench.measure(TASK)
    assert outcome.failure is None
    assert outcome.samples is not None
    assert outcome.reference is not None
    assert len(outcome.samples.cpu_ns) == len(outcome.reference.cpu_ns) == 4
    assert outcome.parity is not None
    assert outcome.parity.max_relative < 1e-4
    assert outcome.parity.top1_agreement == 1
    assert relative_latency(outcome.samples, outcome.reference) > 0
    assert (outcome.before, outcome.after, outcome.energy_j) == (None, None, None)
    assert stages == ["reference", "build", "prepare", "check", "warm up", "time"]


def test_the_reference_session_stays(bench: Bench, stages: list[str]) -> None:
    stages.clear()
    bench.measure(replace(TASK, seed=2))
    assert "reference" not in stages
    other = replace(TASK, setting=replace(SETTING, runtime="torch", batch=1))
    assert bench.measure(other).failure is None
    assert "reference" in stages


def test_a_network_that_cannot_be_built_is_a_failure(bench: Bench) -> None:
    torch_task = replace(TASK, setting=replace(SETTING, runtime="torch", batch=1))
    wrong = bench.measure(replace(torch_task, subject=replace(SUBJECT, network_id="0123")))
    assert wrong.failure is not None
    assert wrong.failure.reason == "export"
    assert "must extract to the network that it names" in wrong.failure.message
    unknown = bench.measure(replace(torch_task, subject=timm_subject("deit_tinny", image_size=224)))
    assert unknown.failure is not None
    assert "timm model 'deit_tinny' is not known" in unknown.failure.message


def test_a_batch_that_does_not_fit_is_a_failure_of_memory(bench: Bench) -> None:
    huge = replace(TASK, setting=replace(SETTING, runtime="torch", batch=10**9))
    with pytest.raises(InputError, match="reference network") as caught:
        bench.measure(huge)
    assert str(caught.value.got).startswith("memory: ")


def test_half_precision_is_compared_with_its_own_tolerance(bench: Bench) -> None:
    outcome = bench.measure(replace(TASK, setting=replace(SETTING, runtime="torch", precision="bf16")))
    assert outcome.failure is None
    assert outcome.parity is not None
    assert 1e-4 < outcome.parity.max_relative < 0.1


def test_a_task_survives_its_way_to_the_worker() -> None:
    import json

    from hwnas.config import to_mapping

    assert parse_task(json.loads(json.dumps(to_mapping(TASK)))) == TASK
    with pytest.raises(InputError, match="a task must be a table"):
        parse_task([])


@pytest.mark.slow
def test_a_worker_measures_beside_deit_tiny() -> None:
    task = Task(subject=SUBJECT, setting=replace(SETTING, batch=1), seed=1, pairs=8)
    assert task.reference == REFERENCE
    with Worker() as worker:
        outcome = worker.measure(task)
        assert outcome.failure is None
        assert outcome.samples is not None
        assert outcome.reference is not None
        assert relative_latency(outcome.samples, outcome.reference) < 0.5
        assert outcome.memory_mb is not None
        assert worker.facts(task.setting).runtime["provider"] == "CPUExecutionProvider"


@pytest.mark.slow
def test_two_threads_have_no_cpu_time() -> None:
    bench = Bench()
    outcome = bench.measure(replace(TASK, setting=replace(SETTING, threads=2)))
    bench.close()
    assert outcome.samples is not None
    assert outcome.samples.cpu_ns == ()
    assert len(outcome.samples.switches) == len(outcome.samples.wall_ns) >= 4
