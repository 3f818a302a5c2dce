import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hwnas.cli import app
from hwnas.cli.app import SHELLS, completion, completion_script, run


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_asks_hwnas_by_its_variable(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"{app.COMPLETE_VARIABLE}={shell}_complete" in out
    assert out == completion_script(shell).strip() + "\n"


@pytest.mark.parametrize(
    "line",
    ['eval "$(hwnas completion bash)"', 'eval "$(hwnas completion zsh)"', "hwnas completion fish | source"],
)
def test_the_help_has_the_line_for_each_shell(line: str) -> None:
    assert line in completion.get_help(click.Context(completion))


def test_json_holds_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "zsh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": "zsh", "script": completion_script("zsh")}


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", "  try     hwnas completion --help")
    assert "'bash', 'zsh', 'fish'" in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_a_command_with_it() -> None:
    asked = 'COMP_WORDS=(hwnas desc); COMP_CWORD=1; _hwnas_completion hwnas; echo "$COMPREPLY"'
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{completion_script('bash')}\n{asked}"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "describe\n"
