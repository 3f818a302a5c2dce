"""Commands that are killed at random moments by SIGKILL, SIGTERM and SIGHUP in turn, and resumed until they end.

    python -m tests.fuzz.kills {train,profile,search} FOLDER [--kills 20] [--seed 1]

Each session is a process of its own, forked from one that has imported everything, so that a moment falls within the
work and not within the imports. What is left after the last session must equal an uninterrupted run.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library starts a pool of threads, which a fork would lose
os.environ.setdefault("HWNAS_MATMUL", "default")  # the backend that is fastest may differ from process to process

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
SPACE = "autoformer-micro"
Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command that is killed.

    Args:
        start: Makes its command line for an output folder.
        resume: Makes the command line that resumes it.
        has_begun: True if there is something to resume in a folder.
        latest_s: Latest moment of a kill.
        contents: What must be equal in the end, as plain values.
        require_kept: Raises AssertionError if something that was there before a session is gone after it.
    """

    start: Callable[[Path], Command]
    resume: Callable[[Path], Command]
    has_begun: Callable[[Path], bool]
    latest_s: float
    contents: Callable[[Path], Any]
    require_kept: Callable[[Path], Callable[[], None]] = lambda folder: lambda: None


@dataclass(kw_only=True)
class Tally:
    """Kills, ends and failures."""

    killed: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    problems: list[str] = field(default_factory=list)


def start_session(arguments: Command, log: Path) -> int:
    """Fork a process that runs a command line, and return its id."""
    pid = os.fork()
    if pid == 0:
        _run_session(arguments, log)
    return pid


def _run_session(arguments: Command, log: Path) -> NoReturn:
    code = 99
    try:
        os.setsid()
        for number in SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from hwnas.cli import main

        sys.argv = ["hwnas", *arguments]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_killed(kind: Kind, folder: Path, *, kills: int, rng: random.Random) -> Tally:
    """Kill a command so many times, in as many runs as that takes, and compare each with an uninterrupted run."""
    tally, log = Tally(), folder / "log"
    code = _wait(start_session(kind.start(folder / "whole"), log), None)
    assert code == 0, log.read_text()
    expected = kind.contents(folder / "whole")
    number = 0
    while tally.killed.total() < kills:
        number += 1
        _run_to_the_end(kind, folder / f"run-{number}", log, tally, kills=kills, rng=rng)
        if kind.contents(folder / f"run-{number}") != expected:
            tally.problems.append(f"run {number} differs from an uninterrupted one")
    return tally


def _run_to_the_end(kind: Kind, out: Path, log: Path, tally: Tally, *, kills: int, rng: random.Random) -> None:
    while True:
        begun = kind.has_begun(out)
        require_kept = kind.require_kept(out)
        pid = start_session(kind.resume(out) if begun else kind.start(out), log)
        number = SIGNALS[tally.killed.total() % len(SIGNALS)] if tally.killed.total() < kills else None
        code = _wait(pid, number, after_s=rng.uniform(0, kind.latest_s))
        require_kept()
        if code == 0:
            tally.ended += 1
            return
        assert number is not None, log.read_text()
        tally.killed[number.name] += 1
        if number is signal.SIGKILL:
            assert code == -number, log.read_text()
        elif code == -number:  # in the milliseconds before the command line has taken the signal over
            assert not log.read_text(), log.read_text()
        else:
            _require_answer(code, number, log.read_text(), tally)


def _require_answer(code: int, number: int, text: str, tally: Tally) -> None:
    """A signal that can be answered must be, by its exit code and without a traceback."""
    if code != 128 + number:
        tally.problems.append(f"{signal.Signals(number).name} ended with {code}: {text[-2000:]}")
    elif "Traceback" in text or f"stopped by {signal.Signals(number).name}" not in text:
        tally.problems.append(f"{signal.Signals(number).name} was answered with {text[-2000:]!r}")


def _wait(pid: int, number: signal.Signals | None, *, after_s: float = 0.0) -> int:
    """Wait for a process, send it a signal after some time, and return its exit code."""
    limit = time.monotonic() + after_s
    sent = number is None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not sent and number is not None and time.monotonic() >= limit:
            os.kill(pid, number)
            sent = True
        time.sleep(0.001)


def _is_run(out: Path) -> bool:
    return (out / "manifest.json").exists()


# ------------------------------------------------------------------------------------------------ trainings


def _training(out: Path) -> Command:
    data = ("--data", "digits", "--max-images", "640", "--batch", "64", "--epochs", "16")
    return ("train", "--space", SPACE, *data, "--out", str(out))


def _trained(out: Path) -> Any:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]
    return ((out / "supernet.safetensors").read_bytes(), rows, (out / "heldout.txt").read_text())


# ------------------------------------------------------------------------------------------------ campaigns


def _campaign(out: Path) -> Command:
    setting = ("--space", SPACE, "--device", "cpu", "--runtime", "onnxruntime", "--no-reference-networks")
    return ("profile", *setting, "--samples", "24", "--repeats", "6", "--pairs", "8", "--out", str(out))


def _counts(out: Path) -> Any:
    """How often each network was measured, each time by another process; measured times are never equal."""
    from hwnas.records import load_profile

    profile = load_profile(_profile(out))
    processes = {(row.subject.network_id, row.process_id) for row in profile.measured}
    return sorted(profile.counts.items()), len(processes), len(profile.measurements), profile.failures


def _profile(out: Path) -> Path:
    (folder,) = out.glob("*/*")
    return folder


def _rows_stay(out: Path) -> Callable[[], None]:
    """Rows are never changed once they are on the disk."""
    files = list(out.rglob("measurements.jsonl"))
    before = files[0].read_bytes() if files else b""
    complete = before[: before.rfind(b"\n") + 1]

    def require() -> None:
        assert not files or files[0].read_bytes().startswith(complete)

    return require


# ------------------------------------------------------------------------------------------------- searches


def _search(out: Path) -> Command:
    supernet = ("--supernet", str(out.parent / "super"), "--budget", "60")
    return ("search", "--space", SPACE, *supernet, "--no-verify", "--export-top", "0", "--out", str(out))


def _searched(out: Path) -> Any:
    from hwnas.search.record import read_record

    record = read_record(out)
    connection = sqlite3.connect(f"file:{out / 'study.sqlite'}?mode=ro", uri=True)
    queries = (
        "SELECT id, genome, arch_id, generation FROM candidates ORDER BY id",
        "SELECT name, source, candidate, value, lower, upper FROM evaluations JOIN metrics ON metric = metrics.id "
        "ORDER BY name, source, candidate",
    )
    rows = [connection.execute(query).fetchall() for query in queries]
    connection.close()
    return record.front, record.history, record.evaluations, record.candidates, rows


KINDS = {
    "train": Kind(
        start=_training,
        resume=lambda out: ("train", "--resume", "--out", str(out)),
        has_begun=_is_run,
        latest_s=3.0,
        contents=_trained,
    ),
    "profile": Kind(
        start=_campaign,
        resume=_campaign,
        has_begun=lambda out: True,
        latest_s=14.0,
        contents=_counts,
        require_kept=_rows_stay,
    ),
    "search": Kind(
        start=_search,
        resume=lambda out: ("search", "--resume", str(out)),
        has_begun=_is_run,
        latest_s=3.0,
        contents=_searched,
    ),
}


def _train_supernet(folder: Path) -> None:
    """The supernet of the searches."""
    data = ("--data", "digits", "--max-images", "300", "--epochs", "1")
    arguments = ("train", "--space", SPACE, *data, "--out", str(folder / "super"))
    code = _wait(start_session(arguments, folder / "supernet-log"), None)
    assert code == 0, (folder / "supernet-log").read_text()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description="Kill a command and resume it.")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args(arguments)
    from tests.fuzz.run import import_everything

    import_everything()
    folder = options.folder.absolute()
    os.environ["HWNAS_CACHE"] = str(folder / "cache")
    folder.mkdir(parents=True)
    if options.kind == "search":
        _train_supernet(folder)
    rng = random.Random(f"{options.kind} {options.seed}")
    tally = run_killed(KINDS[options.kind], folder, kills=options.kills, rng=rng)
    print(json.dumps({"killed": tally.killed, "ended": tally.ended, "problems": tally.problems}))
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
