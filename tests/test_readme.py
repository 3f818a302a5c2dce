"""The `hwnas` commands in the README are run as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands(text: str) -> list[str]:
    """The lines of fenced code blocks that call `hwnas`, in order, without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("hwnas ")]


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


def test_commands_are_taken_from_code_blocks_alone() -> None:
    text = (
        "hwnas no\n```sh\nmake no\nhwnas a 'b c'   # why\n```\nhwnas no\n"
        "```\n$ hwnas d --e\n  hwnas no\n```\nhwnas no\n"
    )
    assert commands(text) == ["hwnas a 'b c'", "hwnas d --e"]


def test_the_readme_shows_what_works_today() -> None:
    words = ["spaces", "describe", "doctor", "train", "evaluate"]
    assert [command.split()[1] for command in README] == words


def test_the_commands_of_the_readme_work_one_after_another(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in README:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "HWNAS_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout, command


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_in_the_readme_runs() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, timeout=120)
