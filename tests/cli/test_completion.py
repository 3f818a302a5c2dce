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


def completed(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what a shell would offer for the last of the words after `hwnas`."""
    monkeypatch.setenv(app.COMPLETE_VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["hwnas", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert run([]) == 0
    return [line.partition(",")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("plain,")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("describe", "autoformer-mic"), "autoformer-micro"),
        (("train", "--space", "vitas-twins-mic"), "vitas-twins-micro"),
        (("describe", "autoformer-tiny", "auto"), "AutoFormer-T"),
        (("predict", "--space", "autoformer-tiny", "auto"), "AutoFormer-T"),
        (("search", "--device", "rtx40"), "rtx4090"),
        (("search", "--objective", "through"), "throughput"),
        (("search", "--objective", "throughput@rtx40"), "throughput@rtx4090"),
        (("train", "--recipe", "autof"), "autoformer"),
        (("search", "--strategy", "ns"), "nsga2"),
        (("profile", "--runtime", "openv"), "openvino"),
        (("search", "--precision", "fp32,in"), "fp32,int8"),
        (("query", "ru"), "runs/one"),
        (("report", "runs/o"), "runs/one"),
        (("export", "runs/on"), "runs/one"),
        (("export", "runs/one", "--arch", "ab"), "abcd1234"),
        (("evaluate", "runs/one", "99"), "99887766"),
    ],
)
def test_names_are_completed(
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "one" / "search.json").write_text('{"front": ["abcd1234", "ffff0000"]}')
    (tmp_path / "runs" / "one" / "accuracies.jsonl").write_text('{"arch_id": "99887766"}\n')
    monkeypatch.chdir(tmp_path)
    found = completed(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert expected in found
    last = words[-1].rpartition(",")[2].casefold()
    assert all(name.rpartition(",")[2].casefold().startswith(last) for name in found)


def test_a_name_that_nothing_begins_with_completes_as_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(app.COMPLETE_VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "hwnas describe zzz")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run([]) == 0
    assert capsys.readouterr().out == "file,zzz\n"


def test_completion_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hwnas"],
        env={
            **os.environ,
            app.COMPLETE_VARIABLE: "bash_complete",
            "COMP_WORDS": "hwnas search --objective th",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,throughput\n"
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "timm", "onnx")]
