"""Trainings as jobs: those of submitit's local executor are started for real where submitit is installed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from hwnas.errors import InputError, MissingError, UsageError
from hwnas.pipeline import slurm
from hwnas.pipeline.slurm import SlurmOptions, submit_training
from tests.cli.commands import CommandLine, command_line
from tests.train.toys import assert_same

__all__ = ["command_line"]

HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None
ROOT = Path(__file__).parents[2]
SMALL = ["--space", "autoformer-micro", "--data", "digits", "--max-images", "128", "--batch", "64"]
SMALL += ["--set", "schedule.warmup_epochs=0"]


def test_a_job_is_described_in_slurms_words() -> None:
    options = SlurmOptions.parse("partition=gpu, nodes=2,gpus=8,cpus=12,hours=1.5,qos=long")
    assert options.parameters("hwnas-x") == {
        "name": "hwnas-x",
        "timeout_min": 90,
        "nodes": 2,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 12,
        "slurm_partition": "gpu",
        "slurm_qos": "long",
        "slurm_signal_delay_s": 180,
    }
    assert SlurmOptions.parse("cluster=local,processes=2").parameters("x") == {
        "name": "x",
        "timeout_min": 1440,
        "tasks_per_node": 2,
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be KEY=VALUE"),
        ("partition", "must be KEY=VALUE"),
        ("nodes=1,nodes=2", "each key once"),
        ("node=2", "key 'node' is not known"),
        ("nodes=0", "nodes must be between"),
        ("nodes=two", "nodes must be"),
        ("hours=nan", "hours must be"),
        ("gpus=1.5", "gpus must be"),
        ("cluster=aws", "'aws' is not known"),
    ],
)
def test_what_describes_no_job_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        SlurmOptions.parse(text)


def test_a_job_gets_the_command_line_of_the_training(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given: list[list[str]] = []

    def submit(options: SlurmOptions, arguments: list[str], *, run: Path) -> slurm.SubmittedJob:
        given.append(arguments)
        return slurm.SubmittedJob(job_id="7", run=run, logs=run / "logs")

    monkeypatch.setattr("hwnas.cli.train.submit_training", submit)
    more = ["--set", "optimizer.lr=1e-3", "--workers", "2"]
    assert command_line("train", *SMALL, *more, "--out", "run", "--slurm", "nodes=2,gpus=8") == 0
    assert command_line.out.splitlines() == [
        f"job 7 trains {tmp_path / 'run'}",
        f"its output is in {tmp_path / 'run/logs'}",
    ]
    assert command_line("train", "--out", "run", "--resume", "--slurm", "gpus=8", "--json") == 0
    assert json.loads(command_line.out)["job_id"] == "7"
    first, second = given
    run = tmp_path / "run"
    assert sorted(first) == sorted([*SMALL, *more, "--out", str(run)])
    assert second == ["--resume", "--out", str(run)]
    assert command_line("train", *SMALL, "--dry-run", "--slurm", "gpus=8") == 2
    assert command_line("train", "--slurm", "gpus=8") != 0  # what to train is missing, which no job has to find out


def test_several_nodes_need_slurm(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must have one node"):
        submit_training(SlurmOptions(cluster="local", nodes=2), [], run=tmp_path / "run")


@pytest.mark.parametrize("text", ["cpus=2", "memory_gb=4", "partition=gpu", "account=a", "qos=long", "constraint=a100"])
def test_without_slurm_its_keys_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a job without Slurm") as caught:
        submit_training(SlurmOptions.parse(f"cluster=local,{text}"), [], run=tmp_path / "run")
    assert caught.value.got == text.partition("=")[0]


def test_a_job_is_stopped_before_its_training_began_and_after_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = SimpleNamespace(helpers=SimpleNamespace(DelayedSubmission=lambda job: job))
    monkeypatch.setattr(slurm, "import_module", lambda name: submitit)
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail(f"{pid} got a signal"))
    job = slurm.TrainingJob(arguments=("--out", "run"), folder=".")
    assert not job.checkpoint().resumes  # there is nothing to resume
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    job.pid = ended.pid
    assert job.checkpoint().resumes


@pytest.mark.skipif(HAS_SUBMITIT, reason="submitit is installed")
def test_submitit_is_named_where_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="submitit must be installed") as caught:
        submit_training(SlurmOptions(), [], run=tmp_path / "run")
    assert caught.value.hint == "pip install 'hwnas[slurm]'"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_a_job_that_is_preempted_ends_with_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    train = ["hwnas", "train", *SMALL, "--epochs", "40", "--out"]
    once, run = tmp_path / "once", tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    subprocess.run([*torchrun, *train, str(once)], cwd=ROOT, env=environ, check=True, capture_output=True)
    command = [sys.executable, "-m", *train, str(run), "--slurm", "cluster=local,processes=2,hours=0.5", "--json"]
    answer = tmp_path / "answer"
    with answer.open("wb") as file:  # a pipe would stay open as long as the job
        subprocess.run(command, cwd=ROOT, env=environ, check=True, stdout=file, stderr=file)
    job = json.loads(answer.read_text())
    logs = Path(job["logs"])

    def ended() -> bool:
        return len(list(logs.glob("*_result.pkl"))) == 2

    def said(kind: str) -> str:
        return "\n".join(path.read_text() for path in sorted(logs.glob(f"*.{kind}")))

    while not list(run.glob("checkpoints/*")):
        assert not ended(), said("err")
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-f", f"submitit.core._submit {logs}"], capture_output=True, text=True, check=True)
    for pid in map(int, found.stdout.split()):  # the processes of the job, as Slurm does
        os.kill(pid, signal.SIGUSR2)
    while not ((run / "result.json").exists() and ended()):
        time.sleep(0.2)
    assert "Requeued job" in said("out"), said("out") + said("err")
    assert_same(load_file(run / "supernet.safetensors"), load_file(once / "supernet.safetensors"))
