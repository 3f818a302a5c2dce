"""Run trtexec, NVIDIA's own benchmark of TensorRT engines, and read the times that it prints."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import InputError, MissingError

_FOLDERS = (Path("/usr/src/tensorrt/bin"), Path("/opt/tensorrt/bin"), Path("/usr/local/tensorrt/bin"))
"""Folders of NVIDIA's packages and containers that have the program."""

_OPTIONS = ("--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--warmUp=500", "--duration=3", "--iterations=100")
"""Replays of a graph without copies of images, as hwnas times them. In TensorRT 11 the first three are the default."""

_LIMIT_S = 600

_PREFIX = r"^(?:\[[^\]]*\] )?\[(\w)\] "
"""Time and severity at the start of a line."""

_SUMMARY = re.compile(_PREFIX + r"(?P<name>GPU Compute Time|Enqueue Time): .*?median = (?P<ms>[\d.e+-]+) ms", re.M)
_THROUGHPUT = re.compile(_PREFIX + r"Throughput: (?P<qps>[\d.e+-]+) qps", re.M)
_VERSION = re.compile(r"TensorRT[ .]version: (?P<version>[\d.]+)|\[TensorRT v(?P<number>\d+)\]")
_WARNING = re.compile(r"^(?:\[[^\]]*\] )?\[W\] \* (?P<text>.+)$", re.M)
_ERROR = re.compile(r"^(?:\[[^\]]*\] )?\[E\] (?P<text>.+)$", re.M)


@dataclass(frozen=True, kw_only=True)
class TrtexecSummary:
    """Times that trtexec prints of an engine."""

    version: str
    """TensorRT of the program; empty if it does not say."""
    compute_ms: float
    """Median GPU compute time of a run."""
    enqueue_ms: float
    """Median time in which the host queues a run."""
    queries_per_s: float
    """Runs per second."""
    warnings: tuple[str, ...] = ()
    """Reasons that it gives not to rely on the figures."""


def find_trtexec(which: Callable[[str], str | None] = shutil.which) -> Path:
    """Return the path of trtexec.

    Raises:
        MissingError: It is not installed.
    """
    found = which("trtexec")
    paths = [Path(found)] if found else [folder / "trtexec" for folder in _FOLDERS]
    for path in paths:
        if os.access(path, os.X_OK):
            return path
    hint = "apt install libnvinfer-bin, or NVIDIA's TensorRT container; and its folder on PATH"
    raise MissingError("trtexec is not installed on this machine", got=f"not on PATH nor in {_FOLDERS[0]}", hint=hint)


def run_trtexec(program: Path, engine: Path, *, gpu: str | None = None) -> TrtexecSummary:
    """Time an engine with trtexec.

    Args:
        program: The program.
        engine: A serialized engine for one batch size.
        gpu: UUID of the GPU that it sees; None: it sees all and takes the first.

    Raises:
        InputError: It cannot run the engine, or prints no times.
    """
    variables = os.environ if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    command = [str(program), f"--loadEngine={engine}", *_OPTIONS]
    try:
        done = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"trtexec must end within {_LIMIT_S} s", got=" ".join(command)) from error
    except OSError as error:
        raise InputError(f"{program} must be a program", got=error.strerror or error) from error
    return parse_trtexec(done.stdout.decode("utf-8", errors="replace"), code=done.returncode)


def parse_trtexec(text: str, *, code: int = 0) -> TrtexecSummary:
    """Read what trtexec printed.

    Args:
        text: Its output.
        code: Its exit code.

    Raises:
        InputError: It failed, or the summary of the times is missing.
    """
    medians = {match["name"]: float(match["ms"]) for match in _SUMMARY.finditer(text)}
    rate, version = _THROUGHPUT.search(text), _VERSION.search(text)
    if code or rate is None or medians.keys() != {"GPU Compute Time", "Enqueue Time"}:
        error = _ERROR.search(text)
        lines = text.strip().splitlines()
        got = error["text"] if error else lines[-1] if lines else "no output"
        hint = "trtexec of the same version of TensorRT as the Python package"
        raise InputError("trtexec must time the engine", got=f"exit code {code}: {got}", hint=hint)
    return TrtexecSummary(
        version="" if version is None else version["version"] or _dotted(version["number"]),
        compute_ms=medians["GPU Compute Time"],
        enqueue_ms=medians["Enqueue Time"],
        queries_per_s=float(rate["qps"]),
        warnings=tuple(match["text"].strip() for match in _WARNING.finditer(text)),
    )


def _dotted(number: str) -> str:
    """A version as in `101303` (10.13.3) or, with one digit for the second part up to TensorRT 9, `8601` (8.6.1)."""
    if len(number) < 6:
        return f"{int(number[:-3])}.{int(number[-3])}.{int(number[-2:])}"
    return f"{int(number[:-4])}.{int(number[-4:-2])}.{int(number[-2:])}"
