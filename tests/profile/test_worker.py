"""Networks that go wrong in every way, in real worker processes."""

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.devices import detect
from hwnas.errors import InputError, Interrupted, MissingError, UnknownNameError, UsageError
from hwnas.profile.subjects import space_subject
from hwnas.profile.worker import Worker, WorkerLimits
from hwnas.profile.worker_messages import MeasurementTask, ReferenceNetworkError, TaskResult
from hwnas.space import SPACES
from tests.marks import slow_but
from tests.records.rows import make_setting

SPACE = SPACES.get("autoformer-micro")
REFERENCE = space_subject(SPACE.adapted(num_classes=7), SPACE.adapted(num_classes=7).candidate(SPACE.smallest()))
SUBJECT = space_subject(SPACE, SPACE.candidate(SPACE.smallest()))
DEVICE = detect().cpu.slug


def task(runtime: str, **changes: object) -> MeasurementTask:
    setting = make_setting(device=DEVICE, runtime=runtime)
    made = MeasurementTask(subject=SUBJECT, setting=setting, seed=1, pairs=9, reference=REFERENCE)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[2])
        with Worker(command=(sys.executable, "-m", "tests.profile.faulty")) as shared:
            yield shared


def works(worker: Worker) -> TaskResult:
    outcome = worker.measure(task("works"))
    assert outcome.failure is None
    return outcome


def test_a_network_is_timed_beside_the_reference_and_checked(worker: Worker) -> None:
    outcome = works(worker)
    assert outcome.samples is not None
    assert outcome.reference is not None
    assert 9 <= len(outcome.samples.wall_ns) == len(outcome.samples.cpu_ns) == len(outcome.reference.cpu_ns) <= 36
    assert all(0 < cpu <= 1.5 * wall for cpu, wall in zip(outcome.samples.cpu_ns, outcome.samples.wall_ns, strict=True))
    assert outcome.parity is not None
    assert (outcome.parity.max_absolute, outcome.parity.top1_agreement) == (0, 1)
    assert outcome.process_id == worker.process_id
    assert outcome.export_s is not None
    assert outcome.duration_s > outcome.export_s > 0


def test_a_measurement_is_made_of_task_and_outcome(worker: Worker) -> None:
    outcome = works(worker)
    row = outcome.to_measurement(task("works"), environment_id="abc")
    assert (row.subject, row.seed, row.environment_id) == (SUBJECT, 1, "abc")
    assert (row.samples, row.process_id, row.started_utc) == (outcome.samples, outcome.process_id, outcome.started_utc)


@pytest.mark.parametrize(
    ("runtime", "reason", "message"),
    [
        ("memory", "memory", "allocate"),
        ("unsupported", "unsupported", "Could not find an implementation for Conv"),
        ("declined", "unsupported", "there is no such layer here"),
        ("export", "export", "RuntimeError: the graph has a cycle"),
        ("mismatch", "mismatch", "of the largest logit, at most 0.0001 is allowed in fp32"),
        ("nan", "nan", "outputs are NaN or infinite in fp32"),
    ],
)
def test_what_goes_wrong_is_the_networks_own_result(worker: Worker, runtime: str, reason: str, message: str) -> None:
    before = worker.process_id
    outcome = worker.measure(task(runtime))
    assert outcome.failure is not None
    assert outcome.failure.reason == reason
    assert message in outcome.failure.message
    assert (outcome.samples, outcome.parity) == (None, None)
    if reason == "memory":  # what is left of the process may be of no use
        assert worker.process_id is None
    else:
        assert before in (None, worker.process_id)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("crash", "the process was killed by SIGSEGV in stage: prepare; about to die"),
        pytest.param("exit", "the process ended with code 9 in stage: prepare", marks=pytest.mark.slow),
    ],
)
def test_a_crash_costs_one_network_and_the_process(worker: Worker, runtime: str, message: str) -> None:
    works(worker)
    before = worker.process_id
    outcome = worker.measure(task(runtime))
    assert outcome.failure is not None
    assert outcome.failure.reason == "crash"
    assert outcome.failure.message.startswith(message)
    assert outcome.process_id == before
    assert worker.process_id is None
    assert works(worker).process_id != before


def test_an_error_of_the_gpu_costs_one_network_and_the_process_whose_context_it_broke(worker: Worker) -> None:
    before = works(worker).process_id
    outcome = worker.measure(task("broken-context"))
    assert outcome.failure is not None
    assert outcome.failure.reason == "crash"
    assert outcome.failure.message.startswith(
        "in stage: prepare: AcceleratorError: CUDA error: an illegal memory access"
    )
    assert (outcome.process_id, worker.process_id) == (before, None)


@pytest.mark.slow
def test_a_reference_network_that_does_not_fit_is_an_error_of_its_batch(worker: Worker) -> None:
    large = task("large-reference", setting=make_setting(device=DEVICE, runtime="large-reference", batch=8))
    assert works(worker).failure is None
    with pytest.raises(ReferenceNetworkError, match="must run on large-reference with batch 8") as caught:
        worker.measure(large)
    assert caught.value.failure.reason == "memory"
    assert str(caught.value.got).startswith("memory: OutOfMemoryError: CUDA out of memory")
    assert worker.measure(task("large-reference")).failure is None


def test_a_network_that_hangs_is_given_up_with_all_that_it_started(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(worker)
    assert worker._process is not None
    group = worker._process.pid
    monkeypatch.setattr(worker, "_limits", WorkerLimits(silence_s=3))
    outcome = worker.measure(task("hang"))
    assert outcome.failure is not None
    assert outcome.failure.reason == "timeout"
    assert "no progress within 3 s in stage: prepare" in outcome.failure.message
    assert _ended(group)


def test_a_long_preparation_that_reports_is_not_given_up(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    works(worker)
    monkeypatch.setattr(worker, "_limits", WorkerLimits(silence_s=3))
    outcome = worker.measure(task("long-build"))
    assert outcome.failure is None
    assert outcome.duration_s > 4


@pytest.mark.slow
def test_a_network_that_is_slow_is_not_given_up_while_it_goes_on(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(worker)
    monkeypatch.setattr(worker, "_limits", WorkerLimits(silence_s=3))
    outcome = worker.measure(task("slow"))
    assert outcome.failure is None
    assert outcome.duration_s > 6


def test_a_network_that_goes_on_for_ever_is_given_up_in_the_end(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(worker)
    monkeypatch.setattr(worker, "_limits", WorkerLimits(task_s=2.5))
    outcome = worker.measure(task("slow", pairs=1000))
    assert outcome.failure is not None
    assert outcome.failure.reason == "timeout"
    assert "not done within 2.5 s in stage: " in outcome.failure.message


def _ended(group: int, *, patience_s: float = 5.0) -> bool:
    """Whether no process of a group is left; those that nobody waits for may stand as zombies for a moment."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        if all(_is_zombie(int(pid)) for pid in pids if _group(pid) == group):
            return True
        time.sleep(0.05)
    return False


def _group(pid: str) -> int | None:
    try:
        return os.getpgid(int(pid))
    except ProcessLookupError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_that_was_killed_between_two_networks_is_replaced(worker: Worker) -> None:
    before = works(worker).process_id
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGKILL)
    assert works(worker).process_id != before


def test_a_reference_network_that_does_not_run_is_an_error(worker: Worker) -> None:
    with pytest.raises(InputError, match=f"the reference network {REFERENCE.network_id} must run on bad-ref") as caught:
        worker.measure(task("bad-reference"))
    assert caught.value.got == "export: RuntimeError: no kernel image"


@pytest.mark.slow
def test_a_reference_network_that_kills_two_processes_is_an_error(worker: Worker) -> None:
    with pytest.raises(InputError, match="must run on dead-reference") as caught:
        worker.measure(task("dead-reference"))
    assert "ended with code 3 in stage: reference" in str(caught.value.got)


def test_a_runtime_that_is_missing_names_the_extra(worker: Worker) -> None:
    with pytest.raises(MissingError, match=r"absent cannot be used on .*: it is not installed") as caught:
        worker.facts(make_setting(device=DEVICE, runtime="absent"))
    assert caught.value.hint == "pip install 'hwnas[gpu]'"


def test_settings_that_cannot_be(worker: Worker) -> None:
    with pytest.raises(InputError, match="only fp16"):
        worker.facts(make_setting(device=DEVICE, runtime="no-precision"))
    with pytest.raises(UnknownNameError, match="runtime 'torhc' is not known"):
        worker.facts(make_setting(device=DEVICE, runtime="torhc"))
    with pytest.raises(MissingError, match="device 'h100' is not in this machine"):
        worker.facts(make_setting(device="h100", runtime="torch"))
    with pytest.raises(InputError, match="at least one pair"):
        worker.measure(task("works", pairs=0))


def test_a_repeat_is_measured_in_another_process(worker: Worker) -> None:
    first = works(worker)
    second = worker.measure(task("works"), excluded_processes=(first.process_id,))
    assert second.process_id != first.process_id


@pytest.mark.parametrize("limits", [WorkerLimits(tasks=1), WorkerLimits(resident_mb=1)])
def test_a_process_is_replaced_after_some_tasks_or_when_it_grew(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, limits: WorkerLimits
) -> None:
    monkeypatch.setattr(worker, "_limits", limits)
    works(worker)
    assert worker.process_id is None


@pytest.mark.parametrize("limit_s", [0.0, -60.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_time_is_refused(limit_s: float) -> None:
    with pytest.raises(UsageError, match="time limit must be a time above 0"):
        WorkerLimits(task_s=limit_s)


def test_facts_name_the_process_and_the_runtime(worker: Worker) -> None:
    import torch

    facts = worker.facts(make_setting(device=DEVICE, runtime="works"))
    assert facts.process_id == worker.process_id
    assert facts.runtime["torch"] == torch.__version__
    assert facts.notes == ()


def test_a_process_that_cannot_start_says_what_it_printed() -> None:
    broken = Worker(command=(sys.executable, "-c", "raise SystemExit('no such thing')"))
    with pytest.raises(InputError, match="the worker process must be able to start") as caught:
        broken.measure(task("works"))
    assert caught.value.got == "the process ended with code 1 in stage: start; no such thing"


@pytest.mark.parametrize(
    ("level", "seen"), slow_but([(logging.INFO, [20, 30]), (logging.WARNING, [30])], (logging.INFO, [20, 30]))
)
def test_records_of_the_process_are_logged_here(
    worker: Worker, caplog: pytest.LogCaptureFixture, level: int, seen: list[int]
) -> None:
    worker.close()
    with caplog.at_level(level, logger="hwnas"):
        assert worker.measure(task("logs")).failure is None
    records = [record for record in caplog.records if record.name == "hwnas.profile.faulty"]
    assert [record.levelno for record in records] == seen
    assert records[-1].getMessage() == "a record of level 30"
    assert worker._process is not None
    assert records[-1].process == worker._process.pid
    worker.close()


@pytest.mark.slow
def test_the_last_record_of_a_process_that_crashed_is_logged(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    works(worker)
    assert worker.measure(task("crash")).failure is not None
    assert "the end is near" in [record.getMessage() for record in caplog.records]


def test_records_that_were_not_read_yet_are_logged_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import json, logging; from hwnas.profile.worker_logs import send_records; sent = [{'ready': '1'}];"
        "send_records(lambda **values: sent.append(values)); logging.getLogger('hwnas.x').warning('unread');"
        "write(chr(10).join(map(json.dumps, sent)) + chr(10)); time.sleep(60)"
    )
    worker = Worker(command=program(code))
    worker._running_process()
    assert caplog.records == []
    worker.close()
    assert [record.getMessage() for record in caplog.records] == ["unread"]


READY = 'write(\'{"ready": "1"}\\n\'); '
STAGE = 'read(); write(\'{"stage": "time"}\\n\'); '


def program(code: str) -> tuple[str, ...]:
    """A worker process of its own: code that writes to its channel as it likes."""
    channel = (
        "import os, time; number = int(os.environ['HWNAS_WORKER_CHANNEL']); read = lambda: os.read(number, 1 << 20);"
        "write = lambda text: os.write(number, text if isinstance(text, bytes) else text.encode());"
    )
    return (sys.executable, "-c", channel + code)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("write('hello\\n')", 'an invalid message in stage: time: "hello"'),
        ("write(b'\\xff\\n')", "an invalid message in stage: time"),
        ("write('[1]\\n')", "an invalid message in stage: time"),
        ("write('{}{}\\n')", "an invalid message in stage: time"),
        ("write('[' * 100_000 + '\\n')", "an invalid message in stage: time"),
        ("write('{\"facts\": {}}\\n')", "an invalid message in stage: time"),
        ('write(\'{"result": {"process_id": 1}}\\n\')', "an invalid message in stage: time"),
        ("write('{\"error\": [1]}\\n')", "an invalid message in stage: time"),
        ('write(\'{"log": {"name": 5}}\\n\')', "an invalid message in stage: time"),
        ("os.close(number); time.sleep(60)", "the process closed its channel in stage: time"),
        ("os.kill(os.getpid(), 40)", "the process was killed by signal 40 in stage: time"),
    ],
)
def test_a_process_that_breaks_the_protocol_costs_one_network(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.setattr("hwnas.profile.child_process._EXIT_S", 0.2)
    with Worker(command=program(f"{READY}{STAGE}{code}; time.sleep(60)")) as worker:
        outcome = worker.measure(task("works"))
        assert outcome.failure is not None
        assert outcome.failure.reason == "crash"
        assert message in outcome.failure.message
        assert worker.process_id is None


def test_a_process_that_breaks_the_protocol_at_its_start_cannot_start() -> None:
    with pytest.raises(InputError, match="the worker process must be able to start") as caught:
        Worker(command=program("write('{\"ready\": 1}\\n')")).facts(make_setting())
    assert "an invalid message in stage: start" in str(caught.value.got)


def test_a_process_may_print_and_read_its_standard_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy_extension.py"
    noisy.write_text("import os, sys; print('hello', flush=True); os.write(1, b'{}'); assert not sys.stdin.read()\n")
    monkeypatch.setenv("HWNAS_EXTENSIONS", str(noisy))
    with Worker() as worker:
        assert worker.facts(make_setting(device=DEVICE, runtime="torch")).process_id == worker.process_id


def test_what_a_process_that_died_had_started_is_killed_as_well() -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '600']); os._exit(3)"
    with Worker(command=program(f"{READY}{STAGE}{code}")) as worker:
        worker._running_process()
        assert worker.pid is not None
        group = worker.pid
        outcome = worker.measure(task("works"))
    assert outcome.failure is not None
    assert "ended with code 3" in outcome.failure.message
    assert _ended(group)


def test_a_campaign_may_have_more_than_a_thousand_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Worker(command=program(f"{READY}time.sleep(60)")) as worker:
            worker._running_process()
            assert worker.process_id == "1"
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_of_a_gpu_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    code = "write('{\"ready\": \"' + os.environ['CUDA_VISIBLE_DEVICES'] + '\"}\\n'); time.sleep(60)"
    for gpu, seen in (("GPU-5c8e", "GPU-5c8e"), (None, "0,1,2")):
        with Worker(command=program(code), gpu=gpu) as worker:
            worker._running_process()
            assert worker.process_id == seen


@pytest.mark.parametrize("code", ["time.sleep(60)", f"{READY}{STAGE}time.sleep(60)"])
def test_a_measurement_ends_when_another_thread_interrupts_it(code: str) -> None:
    begin = time.monotonic()
    with Worker(command=program(code)) as worker, ThreadPoolExecutor(1) as thread:
        running = thread.submit(worker.measure, task("works"))
        time.sleep(0.5)
        worker.interrupt()
        assert isinstance(running.exception(), InputError) or running.result().failure is not None
        with pytest.raises(Interrupted):
            worker.measure(task("works"))
    assert time.monotonic() - begin < 20


def test_a_process_that_cannot_be_killed_does_not_hold_up_the_campaign(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Worker(command=program(f"{READY}time.sleep(60)")) as worker:
        process = worker._running_process()._process
        with monkeypatch.context() as patch:

            def wait(timeout: float | None = None) -> int:
                raise subprocess.TimeoutExpired("python", timeout or 0)

            patch.setattr(process, "wait", wait)
            worker.close()
        assert process.wait() == -signal.SIGKILL
    assert "cannot be killed and is left behind" in caplog.text


def test_closing_ends_the_process(worker: Worker) -> None:
    works(worker)
    assert worker._process is not None
    group = worker._process.pid
    worker.close()
    assert worker.process_id is None
    assert _ended(group)
