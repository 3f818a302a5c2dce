"""Pages of the documentation as tests read them: files and commands in their code blocks."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_RUN_ALL = """
import contextlib, io, json, sys
from hwnas.cli.app import run

done = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    done.append([code, out.getvalue(), err.getvalue()])
    if code:
        break
print(json.dumps(done))
"""
"""Commands one after another in one process: torch is imported once."""


@dataclass(frozen=True)
class Done:
    """A command that was run."""

    command: str
    code: int
    out: str
    err: str


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The contents of fenced code blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def files(text: str) -> dict[str, str]:
    """The blocks that are files: their first line is a comment with the name."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks(text, "python")]
    return {match.group(1): block for match, block in named if match}


def write_files(text: str, folder: Path) -> None:
    for name, content in files(text).items():
        (folder / name).write_text(content, encoding="utf-8")


def commands(text: str) -> list[str]:
    """The lines of shell blocks that call `hwnas`, without comments; a line that ends in a backslash goes on."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("hwnas ")]


def exports(text: str) -> dict[str, str]:
    """The variables that shell blocks set."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("export ")]
    pairs = [pair.partition("=") for line in lines for pair in line.split()[1:]]
    return {name: value for name, _, value in pairs}


def run_commands(lines: Sequence[str], *, folder: Path, environ: Mapping[str, str] | None = None) -> list[Done]:
    """Run commands in a folder, in one process; one that fails is an assertion error with what it said."""
    arguments = [shlex.split(line)[1:] for line in lines]
    out = run_python("-c", _RUN_ALL, json.dumps(arguments), folder=folder, environ=environ)
    done = [Done(line, *result) for line, result in zip(lines, json.loads(out.splitlines()[-1]), strict=False)]
    for one in done:
        assert one.code == 0, f"{one.command}\n{one.err}"
    return done


def run_python(*arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run Python in a folder whose files can be imported, and return what it prints."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
