"""Trainings as jobs of Slurm: `hwnas train --slurm partition=gpu,nodes=2,gpus=8`, by submitit.

A job has a process for each GPU. Each process starts the command line of the training, with the variables that torchrun
would set, so that what a job does can be repeated by hand.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from hwnas.config import Above, Between, from_mapping, require_valid, shown
from hwnas.errors import InputError, MissingError, UsageError

_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
"""Exit codes of a training that a signal stopped; its state is saved."""

_SAVING_S = 180
"""Time before the end of a job in which the training saves its state."""

_SLURM_ALONE = ("cpus", "memory_gb", "partition", "account", "qos", "constraint")
"""Keys that processes of this machine do not have."""

_MAX_REQUEUES = 1000
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Size and place of a job."""

    partition: str | None = None
    nodes: Annotated[int, Between(1, 10_000)] = 1
    gpus: Annotated[int, Between(0, 64)] = 0
    """GPUs of each node, with a process for each."""
    processes: Annotated[int, Between(1, 1024)] | None = None
    """Processes of each node; None: one for each GPU, or one."""
    cpus: Annotated[int, Between(1, 1024)] | None = None
    """Cores of each process."""
    memory_gb: Annotated[int, Between(1, 1_000_000)] | None = None
    """Memory of each node."""
    hours: Annotated[float, Above(0, 10_000)] = 24.0
    """Time limit of a job; a training that needs longer goes on in the next one."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: processes of this machine, to try a job without Slurm."""

    def __post_init__(self) -> None:
        require_valid(self)

    @classmethod
    def parse(cls, text: str) -> "SlurmOptions":
        """Parse `partition=gpu,nodes=2,gpus=8`.

        Raises:
            UsageError: A part is not KEY=VALUE, or a key or a value is not allowed.
        """
        numbers = {"nodes": int, "gpus": int, "processes": int, "cpus": int, "memory_gb": int, "hours": float}
        values: dict[str, Any] = {}
        for part in text.split(","):
            key, equals, value = part.strip().partition("=")
            if not equals or not value or key in values:
                message = "--slurm must be KEY=VALUE[,KEY=VALUE], with each key once"
                raise UsageError(message, got=shown(text), hint="--slurm partition=gpu,nodes=2,gpus=8")
            values[key] = value
            if key in numbers and len(value) < 20:
                try:
                    values[key] = numbers[key](value)
                except ValueError:  # the check of types names it
                    continue
        try:
            return from_mapping(cls, values, where="slurm")
        except InputError as error:
            raise UsageError(error.message, got=error.got, known=error.known, hint=error.hint) from error

    @property
    def processes_per_node(self) -> int:
        """Processes of each node."""
        return self.processes or max(1, self.gpus)

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the parameters of submitit's executor.

        Args:
            name: Name of the job.
        """
        found: dict[str, Any] = {
            "name": name,
            "timeout_min": max(1, round(60 * self.hours)),
            "tasks_per_node": self.processes_per_node,
            "gpus_per_node": self.gpus or None,
        }
        if self.cluster == "slurm":
            found |= {"nodes": self.nodes, "cpus_per_task": self.cpus, "mem_gb": self.memory_gb}
            found |= {f"slurm_{key}": getattr(self, key) for key in ("partition", "account", "qos", "constraint")}
            found["slurm_signal_delay_s"] = _SAVING_S
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job that waits or runs."""

    job_id: str
    run: Path
    """Folder of the run."""
    logs: Path
    """Folder with the output of its processes, and submitit's files."""


@dataclass(kw_only=True)
class TrainingJob:
    """The work of one process of a job; submitit calls it there, and stores it in between by the names of its fields.

    Raises:
        InputError: The training failed.
    """

    arguments: tuple[str, ...]
    """Command line after `hwnas train`."""
    folder: str
    """Working folder."""
    resumes: bool = False
    pid: int = 0

    def __call__(self) -> str:
        """Train to the end, or until the job is stopped."""
        import_module("submitit").helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        resume = ("--resume",) if self.resumes and "--resume" not in self.arguments else ()
        process = subprocess.Popen([sys.executable, "-m", "hwnas", "train", *self.arguments, *resume], cwd=self.folder)
        self.pid = process.pid
        # A handler of signals must not find `wait` with its lock taken.
        while not self._has_ended():
            time.sleep(_POLL_S)
        code = process.wait()
        if code in _STOPPED:  # another process of the job asks Slurm to queue it again
            return "stopped"
        if code:
            raise InputError("the training must end without an error", got=f"exit code {code}")
        return "done"

    def checkpoint(self) -> Any:
        """Let the training save its state, in all processes, and return the job that goes on with it."""
        # submitit calls this in the thread that starts the training, which must not wait for it to start.
        if self.pid and not self._has_ended():
            os.kill(self.pid, signal.SIGTERM)
            while not self._has_ended():
                time.sleep(_POLL_S)
        again = TrainingJob(arguments=self.arguments, folder=self.folder, resumes=self.resumes or bool(self.pid))
        return import_module("submitit").helpers.DelayedSubmission(again)

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # its exit code was read already
            return True


def submit_training(options: SlurmOptions, arguments: Sequence[str], *, run: Path) -> SubmittedJob:
    """Submit a training as a job.

    Args:
        options: Size and place of the job.
        arguments: Command line after `hwnas train`, without `--slurm`.
        run: Folder of the run, which all nodes share.

    Raises:
        MissingError: submitit is not installed, or Slurm is not there.
        InputError: The job has several nodes, or values for Slurm, where there is no Slurm.
    """
    if options.cluster == "local" and options.nodes > 1:
        raise InputError("a job without Slurm must have one node", got=options.nodes, hint="cluster=slurm")
    unread = [key for key in _SLURM_ALONE if getattr(options, key) is not None]
    if options.cluster == "local" and unread:
        message = "a job without Slurm takes processes, gpus and hours only"
        raise InputError(message, got=", ".join(unread), hint="leave them out, or cluster=slurm")
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        message, hint = "submitit must be installed to submit jobs", "pip install 'hwnas[slurm]'"
        raise MissingError(message, got=error, hint=hint) from error
    logs = run.with_name(f"{run.name}-slurm")  # a new run has an empty folder
    keeps = {"slurm_max_num_timeout": _MAX_REQUEUES} if options.cluster == "slurm" else {}
    try:
        executor = submitit.AutoExecutor(folder=str(logs), cluster=options.cluster, **keeps)
    except RuntimeError as error:
        hint = "run it where sbatch can be called, or try it with cluster=local"
        raise MissingError("Slurm must be there to submit jobs", got=error, hint=hint) from error
    executor.update_parameters(**options.parameters(f"hwnas-{run.name}"))
    try:
        job = executor.submit(TrainingJob(arguments=tuple(arguments), folder=str(Path.cwd())))
    except submitit.core.utils.FailedJobError as error:
        raise InputError("Slurm must accept the job", got=error, hint="sinfo shows partitions and limits") from error
    return SubmittedJob(job_id=str(job.job_id), run=run, logs=logs)
