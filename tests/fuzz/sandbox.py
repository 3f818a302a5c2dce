"""Run one case in a forked process with limits, and look for what it did outside of its folder.

    BASE/secret.txt, BASE/abs/            must stay as they are
    BASE/a/b/c/case/                      working folder of the case
    BASE/a/b/c/{home,cache,tmp}/          folders that a command may use

The parent has imported hwnas and its libraries but has run nothing of them, so that a child takes milliseconds to
start and no thread pool is lost in the fork.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

ALLOWED = ("case", "home", "cache", "tmp")
INSIDE = Path("a/b/c")
DOCUMENTED = (0, 1, 2, 3, 4)
"""Exit codes that a hostile input may end with. 130 is for interrupts and 70 for bugs."""
MAX_EXTRA_MB = 900
"""Memory that a case may use on top of that of the parent."""
MAX_CPU_S = 25
MAX_WALL_S = 25.0
MAX_FILE_BYTES = 1 << 30
UNCAUGHT, BROKEN_CASE = 98, 99


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A command line, its environment, and what was done to its files."""

    arguments: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    what: str = ""
    must_fail: bool = False
    """Exit code 0 would be a wrong acceptance."""
    names: tuple[str, ...] = ()
    """An error must hold one of these: the name of the file that is wrong, or of its folder."""
    must_pass: bool = False
    """Nothing was changed: only exit code 0 is right."""


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A kind of hostile input.

    Args:
        name: Its name.
        parts: Files and folders of the seeds that its cases need.
        make: Changes the copies of the seeds in a folder, and returns the command line to run there.
        weight: Its share of the cases.
        quick: True if its cases take a fraction of a second.
        commands: The command lines that it runs, which end with 0 on unchanged seeds.
    """

    name: str
    parts: tuple[str, ...]
    make: Callable[[Path, random.Random], Attack]
    weight: int = 1
    quick: bool = True
    commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a case ended; `problem` is None if as documented."""

    case: str
    problem: str | None
    place: str
    """The failing place: results with the same problem and place have the same cause."""
    code: int
    """Exit code, or minus the signal."""
    what: str
    arguments: tuple[str, ...]
    wall_s: float
    cpu_s: float
    memory_mb: float
    err: str

    def __str__(self) -> str:
        lines = [f"{self.problem} at {self.place}: exit {self.code} after {self.wall_s:.1f} s, {self.memory_mb:.0f} MB"]
        lines += [f"  case     {self.what}", f"  command  hwnas {' '.join(map(_short, self.arguments))}"]
        lines += [f"  reproduce with  python -m tests.fuzz --case {self.case}"]
        return "\n".join([*lines, *(f"    | {line}" for line in self.err.splitlines()[-12:])])


@dataclass(kw_only=True)
class Running:
    """A child process that runs a case."""

    case: str
    pid: int
    base: Path
    meta: Path
    started: float
    before: Mapping[str, str]


def start(grammar: Grammar, case: str, *, seeds: Path, folder: Path) -> Running:
    """Fork a process that runs a case.

    Args:
        grammar: Its grammar.
        case: Its id NAME:SEED:INDEX, from which all random choices follow.
        seeds: Folder of valid files.
        folder: New folder for the case.
    """
    base, meta = folder / "base", folder / "meta"
    for name in ALLOWED:
        (base / INSIDE / name).mkdir(parents=True)
    meta.mkdir()
    for path in (base / "secret.txt", base / INSIDE / "secret.txt"):
        path.write_text("must stay as it is\n")
    for path in (base / "abs", base / INSIDE / "evil", base / "evil"):
        path.mkdir()
    before = _snapshot(base)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run_child(grammar, case, seeds=seeds, base=base, meta=meta)
    return Running(case=case, pid=pid, base=base, meta=meta, started=time.monotonic(), before=before)


def finish(running: Running) -> Result | None:
    """Return the result of a case that has ended or run out of time, else None."""
    wall = time.monotonic() - running.started
    pid, status, usage = os.wait4(running.pid, os.WNOHANG)
    timed_out = pid == 0 and wall > MAX_WALL_S
    if pid == 0 and not timed_out:
        return None
    _kill_group(running.pid)
    if timed_out:
        _, status, usage = os.wait4(running.pid, 0)
    return _judge(running, os.waitstatus_to_exitcode(status), wall, usage, timed_out=timed_out)


def abandon(running: Running) -> None:
    """End a case that is no longer of interest."""
    _kill_group(running.pid)
    os.waitpid(running.pid, 0)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _run_child(grammar: Grammar, case: str, *, seeds: Path, base: Path, meta: Path) -> NoReturn:
    code = BROKEN_CASE
    try:
        os.setsid()
        signal.alarm(2 * int(MAX_WALL_S))  # the parent may be killed before it ends this process
        _redirect(meta)
        inside = base / INSIDE
        _copy_parts(grammar.parts, seeds, inside / "case")
        os.chdir(inside / "case")
        attack = grammar.make(inside / "case", random.Random(case))
        (meta / "attack.json").write_text(json.dumps(asdict(attack)))
        _set_environment(inside, attack.environ)
        _set_limits()
        code = _run_command(list(attack.arguments))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run_command(arguments: list[str]) -> int:
    from hwnas.cli.app import run
    from tests.fuzz.seeds import patched

    with patched():
        try:
            return run(arguments)
        except BaseException:
            traceback.print_exc()
            return UNCAUGHT


def _redirect(meta: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(meta / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def _set_environment(inside: Path, environ: Mapping[str, str]) -> None:
    import tempfile

    for name in [name for name in os.environ if name.startswith("HWNAS_")]:
        del os.environ[name]
    own = {"HOME": "home", "HWNAS_CACHE": "cache", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache"}
    os.environ.update({name: str(inside / folder) for name, folder in own.items()})
    os.environ["HWNAS_MATMUL"] = "default"
    os.environ.update(environ)
    tempfile.tempdir = None


def _set_limits() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + (3 << 30),
        resource.RLIMIT_CPU: MAX_CPU_S,
        resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _copy_parts(parts: tuple[str, ...], seeds: Path, case: Path) -> None:
    """Copy seeds; absolute paths in the files of runs are those of the copy."""
    from tests.fuzz.seeds import relocate

    for part in parts:
        source, target = seeds / part, case / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    relocate(case, old=seeds)


def _snapshot(base: Path) -> dict[str, str]:
    """Digests of all files around the folders of a case."""
    found = {}
    for folder, names, files in os.walk(base):
        path = Path(folder)
        if path == base / INSIDE:
            names[:] = [name for name in names if name not in ALLOWED]
        for name in (*names, *files):
            item = path / name
            stat = item.lstat()
            content = sha256(item.read_bytes()).hexdigest() if item.is_file() and not item.is_symlink() else ""
            found[str(item.relative_to(base))] = f"{stat.st_mode:o} {content}"
    return found


def _judge(running: Running, code: int, wall: float, usage: resource.struct_rusage, *, timed_out: bool) -> Result:
    memory_mb = usage.ru_maxrss / 1024
    err = (running.meta / "err").read_text(errors="replace") if (running.meta / "err").exists() else ""
    described = running.meta / "attack.json"
    attack: dict[str, Any] = {"what": "", "arguments": []}
    if described.exists():
        attack = json.loads(described.read_text())
    problem, place = _problem(running, attack, code, err, memory_mb, timed_out=timed_out)
    return Result(
        case=running.case,
        problem=problem,
        place=place,
        code=code,
        what=attack["what"],
        arguments=tuple(attack["arguments"]),
        wall_s=wall,
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_mb=memory_mb,
        err=err,
    )


def _problem(
    running: Running, attack: Mapping[str, Any], code: int, err: str, memory_mb: float, *, timed_out: bool
) -> tuple[str | None, str]:
    grammar = running.case.partition(":")[0]
    after = _snapshot(running.base)
    outside = sorted(name for name in {*after, *running.before} if after.get(name) != running.before.get(name))
    command = " ".join(attack["arguments"])[:60]
    if outside:
        return "write outside", f"{grammar}: {', '.join(outside[:3])}"
    if timed_out or code == -signal.SIGXCPU:
        return "hang", f"{grammar}: {command}"
    if code == BROKEN_CASE:
        return "broken case", _innermost(err)
    if code == UNCAUGHT:
        return "uncaught", _innermost(err)
    if code == 70:
        return "bug", _innermost(err)
    if code < 0:
        return f"killed by {signal.Signals(-code).name}", f"{grammar}: {command}"
    if code not in DOCUMENTED:
        return f"exit {code}", f"{grammar}: {command}"
    if memory_mb > _own_memory_mb() + MAX_EXTRA_MB:
        return "memory", f"{grammar}: {command}"
    if "Traceback (most recent call last)" in err:
        return "traceback", _innermost(err)
    if code != 0 and attack.get("must_pass"):
        return "valid files refused", f"{grammar}: {command}"
    if code == 0 and attack.get("must_fail"):
        return "accepted", f"{grammar}: {attack['what']}"
    if code != 0 and "error: " not in err and "Usage" not in err:
        return "silent", f"{grammar}: {command}"
    names = attack.get("names", ())
    if code == 1 and names and not any(name in err for name in names):
        first = next((line for line in err.splitlines() if line.startswith("error: ")), "")
        return "unnamed", f"{grammar}: {first[:80]}"
    return _leftover(running, grammar)


def _leftover(running: Running, grammar: str) -> tuple[str | None, str]:
    for path in (running.base / INSIDE / "case").rglob(".*"):
        if path.name.endswith((".tmp", ".new", ".old")):
            return "leftover", f"{grammar}: {re.sub('[0-9a-f]{12}', '*', path.name)}"
    return None, ""


def _innermost(err: str) -> str:
    """Return the type of the last exception and the innermost line of hwnas in its traceback."""
    frames = re.findall(r'File "[^"]*?/(hwnas/[^"]+\.py)", line (\d+), in (\S+)', err)
    kinds = re.findall(r"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Invalid\w*))\b", err, re.MULTILINE)
    kind = kinds[-1] if kinds else "?"
    path, line, function = frames[-1] if frames else ("?", "?", "?")
    return f"{kind} in {path}:{line} {function}"


def _own_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _short(argument: str) -> str:
    text = ascii(argument)
    return text if len(text) < 120 else f"{text[:100]}… ({len(argument)} characters)"
