"""Commands whose disk becomes full at any write, and that are run again when there is room.

    python -m tests.fuzz.full_disk --count 60 [--only train] [--seed 1] [--seeds DIR]

A full disk is a limit of the size of each file (RLIMIT_FSIZE), or a small tmpfs where this user may mount one. The
command must end with 1 and leave nothing half written; run again, or resumed, it must end as one that had room.
"""

import argparse
import fcntl
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library starts a pool of threads, which a fork would lose
os.environ["HWNAS_MATMUL"] = "default"  # the backend that is fastest may differ from process to process

from tests.fuzz.kills import SPACE, _is_run, _searched, _trained
from tests.fuzz.seeds import TOY

Command = tuple[str, ...]
PIPE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command that writes to `disk`, its output folder.

    Args:
        command: Its command line.
        again: Makes the command line for when there is room.
        contents: What must be equal in the end, as plain values.
        quick: True if it takes about a second.
    """

    command: Command
    again: Callable[[], Command] | None = None
    contents: Callable[[], Any] = lambda: None
    quick: bool = True

    def after(self) -> Command:
        return self.command if self.again is None else self.again()


OUT = Path("disk/out")


def _resume(start: Command, resumed: Command) -> Callable[[], Command]:
    return lambda: resumed if _is_run(OUT) else start


def _counts() -> Any:
    from hwnas.records import load_profile

    (folder,) = OUT.glob("*/*")
    return sorted(load_profile(folder).counts.items())


def _predictors() -> Any:
    from hwnas.predict.predictor import Predictor

    return sorted(str(Predictor.load(path.parent).card.scores) for path in OUT.rglob("card.json"))


_TRAIN = ("train", "--space", SPACE, "--data", "digits", "--max-images", "260", "--epochs", "2", "--out", str(OUT))
_SEARCH = (
    *("search", "--space", SPACE, "--supernet", "runs/super", "--objective", "latency_ms", "--device", TOY),
    *("--predictors", "predictors", "--budget", "16", "--no-verify", "--export-top", "0", "--out", str(OUT)),
)
_SETTING = ("--space", SPACE, "--device", "cpu", "--runtime", "onnxruntime", "--no-reference-networks")
_CSV = "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"
_OFFICIAL = ("import", "glit", "official.pth", "--space", "glit-tiny", "--arch", "GLiT-T")
WORKS = {
    "train": Work(
        command=_TRAIN,
        again=_resume(_TRAIN, ("train", "--resume", "--out", str(OUT))),
        contents=lambda: _trained(OUT),
    ),
    "search": Work(
        command=_SEARCH, again=_resume(_SEARCH, ("search", "--resume", str(OUT))), contents=lambda: _searched(OUT)
    ),
    "profile": Work(command=("profile", *_SETTING, "--samples", "12", "--out", str(OUT)), contents=_counts),
    "plan": Work(command=("profile", *_SETTING, "--samples", "12", "--plan-only", "--out", "disk/plan.jsonl")),
    "fit": Work(
        command=("fit", "--device", TOY, "--profiles", "profiles", "--metric", "latency_ms", "--out", str(OUT)),
        contents=_predictors,
    ),
    "table": Work(command=("profiles", "import-timm", _CSV, "--out", str(OUT))),
    "weights": Work(command=("export", SPACE, "min", "--format", "safetensors", "--out", "disk/network.safetensors")),
    "export": Work(command=("export", SPACE, "min", "--out", "disk/network.onnx"), quick=False),
    "report": Work(command=("report", "runs/search", "--out", str(OUT)), quick=False),
    "import": Work(command=(*_OFFICIAL, "--out", "disk/ours.safetensors"), quick=False),
}
PARTS = ("profiles", "predictors", "runs/super", "runs/search", _CSV)


@dataclass(kw_only=True)
class Tally:
    """Tries and failures by command."""

    tried: Counter[str] = field(default_factory=Counter)
    was_full: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        full, tried = self.was_full.total(), self.tried.total()
        return f"{tried} full disks, {full} of them in the middle of a command; failed: {len(self.problems)}"


def run_command(arguments: Command, *, file_bytes: int | None = None) -> tuple[int, str]:
    """Run a command in a forked process, in the working folder, and return its exit code and stderr."""
    reading, writing = os.pipe()  # a file for stderr would be limited as well
    fcntl.fcntl(writing, 1031, PIPE_BYTES)  # F_SETPIPE_SZ
    pid = os.fork()
    if pid == 0:
        _run_child(arguments, writing, file_bytes)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a descriptor
        text = file.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), text


def _run_child(arguments: Command, writing: int, file_bytes: int | None) -> NoReturn:
    from hwnas.cli.app import run
    from tests.fuzz.seeds import patched

    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        os.close(writing)
        if file_bytes is not None:  # Python ignores SIGXFSZ, so that writes fail with EFBIG
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        with patched():
            code = run(arguments)
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of a number of bytes, or yield False where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder: Path) -> None:
    """Make room on a tmpfs."""
    subprocess.run(["mount", "-o", "remount,size=2G", str(folder)], check=True)


def try_full(name: str, work: Work, expected: Any, limit: int, *, on_tmpfs: bool, tally: Tally) -> None:
    """Run a command on a disk that becomes full, and again when there is room."""
    disk = Path("disk")
    shutil.rmtree(disk, ignore_errors=True)
    with tmpfs(disk, max(4096, limit)) if on_tmpfs else _plain(disk) as usable:
        if not usable:
            return
        tally.tried[name] += 1
        kind = "tmpfs of" if on_tmpfs else "files up to"
        problems = []
        code, text = run_command(work.command, file_bytes=None if on_tmpfs else limit)
        if code not in (0, 1) or "Traceback" in text or (code == 1 and "error: " not in text):
            problems.append(f"exit {code}: {text[-3000:]}")
        tally.was_full[name] += code != 0
        problems += _left_behind(disk)
        if on_tmpfs:
            grow(disk)
        code, text = run_command(work.after() if code != 0 else work.command) if code != 0 else (0, "")
        if code != 0:
            problems.append(f"with room again, exit {code}: {text[-2000:]}")
        elif work.contents() != expected:
            problems.append("with room again, the result differs")
        tally.problems += [f"{name}, {kind} {limit} bytes: {problem}" for problem in problems]


@contextmanager
def _plain(folder: Path) -> Iterator[bool]:
    folder.mkdir(exist_ok=True)
    yield True


def _left_behind(disk: Path) -> list[str]:
    """Find temporary and half-written files."""
    found = [path for path in sorted(disk.rglob("*")) if path.is_file()]
    left = [f"left behind: {path}" for path in disk.rglob("*") if path.suffix in (".tmp", ".new", ".old")]
    for path in found:
        if path.suffix == ".json" and not path.name.startswith("."):
            try:
                json.loads(path.read_text())
            except ValueError as error:
                left.append(f"half written: {path}, {error}")
    return left


def _used(disk: Path) -> tuple[int, int]:
    """Return the size of the largest file and of all."""
    sizes = [path.stat().st_size for path in disk.rglob("*") if path.is_file()]
    return max(sizes, default=1), sum(4096 * (size // 4096 + 1) for size in sizes)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.full_disk", description="Fill disks under commands.")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--only", action="append")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--seeds", type=Path)
    options = parser.parse_args(arguments)
    from tests.fuzz.run import import_everything
    from tests.fuzz.seeds import build

    import_everything()
    chosen = options.only or [name for name, work in WORKS.items() if work.quick or options.slow]
    with tempfile.TemporaryDirectory(prefix="hwnas-full-") as made:
        seeds = (options.seeds or Path(made) / "seeds").absolute()
        if not seeds.exists():
            build(seeds)
        tally = fill_disks(Path(made) / "work", seeds=seeds, names=chosen, count=options.count, seed=options.seed)
    print("\n".join(tally.problems), file=sys.stderr)
    print(tally)
    return 1 if tally.problems else 0


def fill_disks(folder: Path, *, seeds: Path, names: Sequence[str], count: int, seed: str) -> Tally:
    """Run commands on full disks.

    Args:
        folder: New working folder.
        seeds: Folder of valid files.
        names: Names of the commands.
        count: Tries, over all commands.
        seed: Seed of the moments.
    """
    from tests.fuzz.seeds import relocate

    before, tally = Path.cwd(), Tally()
    folder.mkdir()
    os.chdir(folder)
    try:
        for part in PARTS:
            Path(part).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (seeds / part).is_dir() else shutil.copy2)(seeds / part, part)
        relocate(folder, old=seeds)
        os.environ["HWNAS_CACHE"] = str(folder / "cache")
        if "import" in names:
            _write_official()
        _try_all({name: WORKS[name] for name in names}, count, random.Random(f"full disk {seed}"), tally)
    finally:
        os.chdir(before)
    return tally


def _try_all(chosen: dict[str, Work], count: int, rng: random.Random, tally: Tally) -> None:
    """Run each command once with room, and then in turn with less."""
    references: dict[str, tuple[Any, int, int]] = {}
    for name, work in chosen.items():
        shutil.rmtree("disk", ignore_errors=True)
        Path("disk").mkdir()
        code, text = run_command(work.command)
        assert code == 0, text
        references[name] = (work.contents(), *_used(Path("disk")))
    for index in range(count):
        name = list(chosen)[index % len(chosen)]
        expected, largest, total = references[name]
        on_tmpfs = rng.random() < 0.5
        limit = int(rng.uniform(0, total)) if on_tmpfs else int(largest ** rng.uniform(0, 1))
        try_full(name, chosen[name], expected, limit, on_tmpfs=on_tmpfs, tally=tally)


def _write_official() -> None:
    """A checkpoint of a published network, in a child process so that this one stays fit to be forked."""
    pid = os.fork()
    if pid == 0:
        import torch

        from tests.pipeline.test_import_checkpoint import wrapped
        from tests.supernet.golden import golden, weights

        torch.save(wrapped(weights(golden("glit-t")["shapes"])), "official.pth")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
