import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from hwnas import __version__
from hwnas.cli import app
from hwnas.cli.app import COMMANDS, run
from hwnas.cli.group import CommandRow, load
from hwnas.cli.options import LOG_OPTIONS
from hwnas.cli.output import Column, print_json, print_table
from hwnas.errors import STOP_SIGNALS, CheckFailedError, HwnasError, InputError, MissingError, UsageError

SURFACE = {
    "doctor": ["--json"],
    "spaces": ["--json"],
    "describe": ["--classes", "--image-size", "--json", "--operations", "arch", "space"],
    "init": ["--json", "--minutes", "--replace", "data"],
    "train": [
        "--arch",
        "--batch",
        "--cache",
        "--checkpoint",
        "--config",
        "--data",
        "--data-seed",
        "--download",
        "--dry-run",
        "--elastic",
        "--epochs",
        "--evaluate-every",
        "--head",
        "--heldout",
        "--image-size",
        "--json",
        "--max-bad",
        "--max-images",
        "--model",
        "--out",
        "--pretrained",
        "--recipe",
        "--resume",
        "--root",
        "--scratch",
        "--seed",
        "--set",
        "--sizes",
        "--slurm",
        "--space",
        "--supernet",
        "--task",
        "--teacher",
        "--teacher-weights",
        "--threads",
        "--workers",
    ],
    "evaluate": ["--data", "--device", "--evaluate-on", "--json", "--metric", "--split", "--workers", "archs", "run"],
    "profile": [
        "--batch",
        "--check-with",
        "--classes",
        "--device",
        "--extra-model",
        "--fleet",
        "--gpus",
        "--image-size",
        "--json",
        "--landmarks",
        "--limit-minutes",
        "--minutes",
        "--new",
        "--no-reference-networks",
        "--on",
        "--order",
        "--out",
        "--pairs",
        "--plan",
        "--plan-only",
        "--precision",
        "--reference-networks",
        "--remote-python",
        "--repeats",
        "--retry",
        "--runtime",
        "--samples",
        "--seed",
        "--space",
        "--strict",
        "--supernet",
        "--threads",
        "--until",
    ],
    "agent": ["--json"],
    "profiles": ["--json", "--profiles"],
    "profiles import-timm": ["--device", "--json", "--match", "--out", "--precision", "--runtime", "files"],
    "profiles show": ["--json", "--profiles", "name"],
    "fit": [
        "--batch",
        "--device",
        "--from",
        "--json",
        "--metric",
        "--mixed",
        "--out",
        "--precision",
        "--predictors",
        "--profiles",
        "--runtime",
        "--samples",
        "--space",
    ],
    "predict": [
        "--allow-outside",
        "--batch",
        "--confidence",
        "--device",
        "--json",
        "--metric",
        "--precision",
        "--predictors",
        "--profiles",
        "--runtime",
        "--space",
        "--threads",
        "targets",
    ],
    "search": [
        "--budget",
        "--confidence",
        "--constraint",
        "--data",
        "--device",
        "--dry-run",
        "--evaluate-on",
        "--export-top",
        "--json",
        "--levels",
        "--max-drop",
        "--minutes",
        "--no-accuracy",
        "--no-macs",
        "--no-verify",
        "--objective",
        "--out",
        "--pairs",
        "--pick",
        "--precision",
        "--predictors",
        "--random-baseline",
        "--repair",
        "--resume",
        "--retrain",
        "--retrain-epochs",
        "--retrain-from",
        "--runtime",
        "--seed",
        "--seeds",
        "--space",
        "--strategy",
        "--supernet",
        "--unmeasured",
        "--workers",
    ],
    "query": [
        "--confidence",
        "--constraint",
        "--device",
        "--json",
        "--objective",
        "--precision",
        "--predictors",
        "--runtime",
        "run",
    ],
    "explain": ["--batch", "--device", "--json", "--operations", "--precision", "--threads", "arch", "space"],
    "report": ["--host", "--json", "--open", "--out", "--port", "--watch", "runs"],
    "study": [],
    "study compare": ["--json", "--out", "runs"],
    "study export": ["--json", "--out", "--to", "run"],
    "export": [
        "--arch",
        "--batch",
        "--calibration-images",
        "--calibration-method",
        "--classes",
        "--data",
        "--for",
        "--format",
        "--image-size",
        "--json",
        "--max-drop",
        "--optimization-level",
        "--out",
        "--part",
        "--pick",
        "--precision",
        "--repair",
        "--replace",
        "--seed",
        "--timing-cache",
        "--timing-cache-use",
        "--weights",
        "--workspace-mb",
        "arch",
        "space",
    ],
    "push": ["--arch", "--json", "--pick", "--private", "repo", "run"],
    "demo": ["--batch", "--budget", "--epochs", "--json", "--max-images", "--out", "--samples", "--seed", "--space"],
    "import": [
        "--arch",
        "--classes",
        "--entry",
        "--force",
        "--image-size",
        "--json",
        "--out",
        "--space",
        "family",
        "file",
    ],
    "completion": ["--json", "shell"],
}
"""Every command with its arguments and options: a change of it is a change for users."""

KNOWN = ", ".join(row.name for row in COMMANDS)

HEAVY = ("matplotlib", "numpy", "onnx", "onnxruntime", "pyarrow", "rich", "sklearn", "timm", "torch", "xgboost")


def spellings(command: click.Command) -> list[str]:
    """The arguments and options of a command, without those that every command has."""
    assert command.params[-len(LOG_OPTIONS) :] == [*LOG_OPTIONS]
    own = command.params[: -len(LOG_OPTIONS)]
    return sorted(spelling for item in own for spelling in (*item.opts, *item.secondary_opts))


# ------------------------------------------------------------------------------------------ surface


def test_the_commands_are_exactly_these() -> None:
    names = [row.name for row in COMMANDS]
    assert names == [name for name in SURFACE if " " not in name]


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_the_surface_of_a_command_is_exact(row: CommandRow) -> None:
    command = load(row)
    assert spellings(command) == SURFACE[row.name]
    inner = command.commands if isinstance(command, click.Group) else {}
    assert {f"{row.name} {name}" for name in inner} == {name for name in SURFACE if name.startswith(f"{row.name} ")}
    for name, part in inner.items():
        assert spellings(part) == SURFACE[f"{row.name} {name}"]
    assert command.name == row.name
    assert command.help is not None
    assert command.help.splitlines()[0] == row.summary


def test_the_options_of_every_command_are_exact() -> None:
    assert [option.opts for option in LOG_OPTIONS] == [["-v", "--verbose"], ["-q", "--quiet"], ["--log-file"]]
    assert app.hwnas.params[-len(LOG_OPTIONS) :] == [*LOG_OPTIONS]


def test_every_command_prints_json() -> None:
    groups = {name.partition(" ")[0] for name in SURFACE if " " in name}  # whose own commands print
    assert [name for name, options in SURFACE.items() if "--json" not in options and name not in groups] == []


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for row in COMMANDS:
        assert re.search(rf"^  {row.name} +{re.escape(row.summary)}$", out, flags=re.MULTILINE)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"hwnas {__version__}\n"


def test_the_help_imports_no_command_and_nothing_heavy() -> None:
    code = "import sys; from hwnas.cli.app import run; run(['--help']); print('loaded:', *sys.modules)"
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    loaded = set(out.splitlines()[-1].split())
    assert "hwnas.cli.group" in loaded
    modules = {row.target.split(":")[0] for row in COMMANDS} - {"hwnas.cli.app"}
    assert not loaded & {*HEAVY, *modules}


# --------------------------------------------------------------------------------------- exit codes


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that raises what it is given."""

    def go(error: BaseException) -> int:
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr("hwnas.cli.group.load", lambda _: broken)
        return run(["doctor"])

    return go


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no"), 1),
        (UsageError("no"), 2),
        (MissingError("no"), 3),
        (CheckFailedError("no"), 4),
        (HwnasError("no"), 70),
    ],
)
def test_our_errors_end_with_their_code_and_no_traceback(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], error: HwnasError, code: int
) -> None:
    assert raising(error) == code
    assert capsys.readouterr() == ("", "error: no\n")


def test_an_error_is_laid_out_in_rows(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(InputError("must hold", got=3, known=("1", "2"), hint="1"))
    assert capsys.readouterr().err == "error: must hold\n  got     3\n  known   1, 2\n  try     1\n"


def test_with_json_an_error_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", "autoformer-tinny", "max", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    document = json.loads(captured.err)
    assert document["exit_code"] == 1
    assert document["error"]["kind"] == "UnknownNameError"
    assert document["error"]["hint"] == "hwnas describe autoformer-tiny max --json"
    assert "autoformer-tiny" in document["error"]["known"]
    assert run(["doctor", "--jsn", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "UsageError"


def test_an_error_prints_no_control_characters_and_no_endless_lines(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(InputError("\x1b[2J\x07\udcff", got="x" * 10**6, known=["\r"], hint="a\u202eb")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: \\x1b[2J\\x07\\udcff\n  got     xxx")
    assert err.endswith("  known   \\r\n  try     a\\u202eb\n")
    assert len(err) < 3000


def test_an_interrupt_ends_with_130(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(KeyboardInterrupt()) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "interrupted\n")


def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(ZeroDivisionError("by zero")) == 70
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert "ZeroDivisionError: by zero\nThis is a bug in hwnas. Please report it" in err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(36, "File name too long", "x" * 400),
            "cannot be used\n  got     File name too long\n  try     use a shorter name",
        ),
        (PermissionError(13, "Permission denied", "/secret"), "/secret cannot be used\n  got     Permission denied"),
        (OSError(28, "No space left on device"), "the output cannot be written\n  got     No space left"),
        (OSError(11, "Resource temporarily unavailable"), "the command cannot be completed\n  got     Resource"),
        (MemoryError(), "the command needs more memory than this machine has free"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    raising: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    text: str,
) -> None:
    monkeypatch.setattr("hwnas.cli.app._discard_output", lambda: None)
    assert raising(error) == 1
    err = capsys.readouterr().err
    assert text in err
    assert max(map(len, err.splitlines())) < 320


def test_the_code_that_a_command_returns_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.cli.group.load", lambda _: click.Command("doctor", callback=lambda: 4))
    assert run(["doctor"]) == 4


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.cli import main

    monkeypatch.setattr(sys, "argv", ["hwnas", "--version"])
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:  # a process that ends ignores further signals
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert caught.value.code == 0


# ------------------------------------------------------------------------------- wrong command lines


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (
            ["doctr"],
            f"error: command 'doctr' is not known\n  got     doctr\n  known   {KNOWN}\n  try     hwnas doctor\n",
        ),
        (
            ["xyzzy"],
            f"error: command 'xyzzy' is not known\n  got     xyzzy\n  known   {KNOWN}\n  try     hwnas --help\n",
        ),
        (
            ["doctor", "--jsn"],
            "error: option '--jsn' is not known\n  got     --jsn\n"
            "  known   --json, -v, --verbose, -q, --quiet, --log-file, -h, --help\n  try     hwnas doctor --json\n",
        ),
        (
            ["--vrsion"],
            "error: option '--vrsion' is not known\n  got     --vrsion\n"
            "  known   --version, -v, --verbose, -q, --quiet, --log-file, -h, --help\n  try     hwnas --version\n",
        ),
        (["doctor", "x"], "error: got unexpected extra argument (x)\n  try     hwnas doctor --help\n"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_right_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], err: str
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr() == ("", err)


def test_no_command_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: hwnas [OPTIONS] COMMAND")


def test_a_shell_is_given_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_HWNAS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "hwnas d")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run([]) == 0
    assert capsys.readouterr().out.split() == ["plain,doctor", "plain,describe", "plain,demo"]


@pytest.mark.parametrize(
    "variables",
    [
        {"_HWNAS_COMPLETE": "bash_complete"},
        {"_HWNAS_COMPLETE": "bash_complete", "COMP_WORDS": "hwnas d"},
        {"_HWNAS_COMPLETE": "bash_complete", "COMP_WORDS": "hwnas d", "COMP_CWORD": "one"},
        {"_HWNAS_COMPLETE": "zsh_complete"},
        {"_HWNAS_COMPLETE": "fish_complete"},
        {"_HWNAS_COMPLETE": "1"},
        {"_HWNAS_COMPLETE": "bash_nonsense"},
        {"_HWNAS_COMPLETE": "nonsense_complete"},
    ],
)
def test_completion_without_its_script_is_an_error_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    for name in ("COMP_WORDS", "COMP_CWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: _HWNAS_COMPLETE is set by completion scripts only")


@pytest.mark.parametrize(
    ("words", "index"), [("hwnas 'x", "1"), ("", "0"), ("hwnas d", "-9"), ("hwnas nothing --x", str(10**30))]
)
def test_completion_of_nonsense_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, index: str
) -> None:
    monkeypatch.setenv("_HWNAS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", index)
    assert run([]) == 0
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------- output


def test_doctor_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["environment", "machine", "default_device", "packages", "gpus", "findings"]
    assert document["environment"]["hwnas"] == __version__


def test_doctor_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^torch +", out, flags=re.MULTILINE)
    assert "(--device auto)" in out


@dataclass(frozen=True)
class Result:
    path: Path
    values: tuple[float, ...]
    missing: int | None = None


def test_json_keeps_absent_values_and_plain_paths(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"result": Result(Path("a/b"), (1.5, 2.0))})
    document = json.loads(capsys.readouterr().out)
    assert document == {"result": {"path": "a/b", "values": [1.5, 2.0], "missing": None}}


def test_json_refuses_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        print_json(float("nan"))
    assert capsys.readouterr().out == ""


def test_a_table_in_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60 + "[bold]end"
    rows = [(long, 1234567, None), ("b", True, "x")]
    print_table(["name", Column("params", numeric=True), "note"], rows, title="All")
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert title == "All"
    assert header.split() == ["name", "params", "note"]
    assert first == f"{long}   1,234,567   -"
    assert second.split() == ["b", "yes", "x"]


def hwnas_process(arguments: list[str], *, stdout: int, environ: dict[str, str] | None = None) -> tuple[int, str]:
    command = [sys.executable, "-m", "hwnas", *arguments]
    env = {**os.environ, **(environ or {})}
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env)
    return done.returncode, done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    for arguments in (["doctor"], ["spaces", "--json"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        ended = hwnas_process(arguments, stdout=writing)
        os.close(writing)
        assert ended == (app.EXIT_BROKEN_PIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("arguments", [["spaces"], ["spaces", "--json"], ["--help"]])
def test_a_full_disk_is_told(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = hwnas_process(arguments, stdout=full.fileno())
    code, text = ended
    assert code == 1
    if "--json" in arguments:
        error = json.loads(text)["error"]
        assert (error["message"], error["got"]) == ("the output cannot be written", "No space left on device")
    else:
        assert text.startswith("error: the output cannot be written\n  got     No space left on device\n")


def test_a_terminal_that_knows_only_ascii_will_do() -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    assert hwnas_process(["spaces"], stdout=subprocess.DEVNULL, environ=ascii_only) == (0, "")


@pytest.mark.parametrize("arguments", [["spaces"], ["describe", "nowhere", "max"]])
def test_a_closed_stderr_will_do(arguments: list[str]) -> None:
    code = f"import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-m', 'hwnas', *{arguments!r}])"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == (0 if arguments == ["spaces"] else 1)
    assert ("autoformer-tiny" in done.stdout) == (arguments == ["spaces"])


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_names_with_umlauts_work_in_any_locale(tmp_path: Path, locale: str) -> None:
    environ = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "ü.json").write_text("{}")
    code, errors = hwnas_process(
        ["describe", "autoformer-micro", str(tmp_path / "ü.json")], stdout=subprocess.DEVNULL, environ=environ
    )
    assert code in (1, 2)
    assert "Traceback" not in errors


def test_a_closed_stdout_will_do() -> None:
    code = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'hwnas', 'doctor'])"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
