"""The run folder of a training: whether there is one, and which weights it has."""

import os
import shlex
from pathlib import Path

from hwnas.errors import InputError
from hwnas.files import file_errors, file_sha256
from hwnas.runs import MANIFEST, MODEL, NETWORK, SUPERNET, Run, missing_run

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Variables that count how often a training was started again after a failure."""


def is_run(folder: Path) -> bool:
    """Return True if a folder is a run."""
    with file_errors(folder):
        return (folder / MANIFEST).exists()


def require_run(folder: Path, *, resume: bool) -> None:
    """Raise an InputError unless a folder is the run that is resumed, or none that a new training could overwrite."""
    found = is_run(folder)
    if resume and not found:
        hint = f"the same command with --out {shlex.quote(str(folder))} and without --resume"
        raise InputError(f"{folder} holds no training to resume", hint=hint)
    if found and not resume:
        hint = f"hwnas train --out {shlex.quote(str(folder))} --resume, or another --out"
        raise InputError(f"{folder} is a run already", hint=hint)


def require_path(path: Path, *, hint: str | None = None) -> None:
    """Raise an InputError if the run or file that a supernet is to be read from is not there."""
    with file_errors(path):
        exists = path.exists()
    if not exists:
        missing = missing_run(
            path, f"there is no run and no file {path}", accept=lambda item: item.is_file() or has_weights(item)
        )
        if missing.correction is not None:
            missing.hint = f"--supernet {missing.hint}"
        missing.got, missing.hint = "--supernet", missing.hint or hint
        raise missing


def is_started_again() -> bool:
    """Return True if torchrun or Slurm count how often they start this process, which then goes on with its run."""
    return any(name in os.environ for name in RESTARTS)


def weights_digest(path: Path) -> str:
    """Return a digest of the content of a file of weights."""
    return file_sha256(path)[:24]


def has_weights(run: Path) -> bool:
    """Return True if a run has trained weights."""
    return any((run / name).is_file() for name in (SUPERNET, NETWORK, MODEL))


def require_weights(run: Path) -> None:
    """Raise an InputError if a path is the run of a training that was not completed, with the commands that do it."""
    if not (run / MANIFEST).is_file() or has_weights(run):
        return
    if "recipe" not in Run.open(run).manifest.config:
        return
    got, hint = "a training that is not complete", f"hwnas train --out {shlex.quote(str(run))} --resume"
    from hwnas.train.checkpoint import finished_epochs  # it loads torch

    epochs = finished_epochs(run)
    if epochs:
        got += f"; --epochs {epochs} ends it now, without --epochs it goes on"
        hint += f" --epochs {epochs}"
    raise InputError(f"{run} must hold trained weights", got=got, hint=hint)


def weights_file(path: Path) -> Path:
    """Return the file of a single network: the path itself, or that of a run."""
    file = next((path / name for name in (NETWORK, MODEL) if (path / name).is_file()), path)
    if not file.is_file():
        require_weights(path)
        hint = f"a run that holds {NETWORK} or {MODEL}"
        raise InputError("there must be a file of a single network", got=path, hint=hint)
    return file
