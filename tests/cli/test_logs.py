"""`-v`, `-q` and `--log-file`: which records, messages and errors of a command are seen, and where."""

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from hwnas.cli.app import run
from hwnas.cli.logs import CommandLog
from hwnas.cli.options import add_log_options
from hwnas.cli.progress import console_reporter
from hwnas.errors import InputError
from hwnas.profile.worker import Worker
from hwnas.progress import StageStarted
from tests.profile.test_worker import task

STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ ")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """Replace `hwnas doctor` by a command that logs at every level, reports, prints, and may end with an error."""

    def replace(error: BaseException | None = None) -> None:
        @click.command()
        def speaking() -> None:
            log = logging.getLogger("hwnas.profile.worker")
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                log.log(level, "a record of level %d", level)
            with console_reporter() as reporter:
                reporter.update(StageStarted(number=1, total=1, title="the stage"))
                reporter.message("a message")
            click.echo("the result")
            if error is not None:
                raise error

        monkeypatch.setattr("hwnas.cli.group.load", lambda _: add_log_options(speaking))

    replace()
    return replace


def lines(path: Path) -> list[str]:
    """The lines of a log file without time and process."""
    text = path.read_text(encoding="utf-8").splitlines()
    return [STAMP.sub("", line) for line in text]


@pytest.mark.usefixtures("command")
def test_warnings_and_messages_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert err.splitlines() == [
        "warning: a record of level 30",
        "error: a record of level 40",
        "1/1 the stage (0 s so far)",
        "a message",
    ]


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (["-v"], ["20", "30", "40"]),
        (["-vv"], ["10", "20", "30", "40"]),
        (["-v", "-v"], ["10", "20", "30", "40"]),
    ],
)
def test_verbose_shows_records_with_level_and_logger(
    capsys: pytest.CaptureFixture[str], options: list[str], levels: list[str]
) -> None:
    assert run(["doctor", *options]) == 0
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert (
        re.findall(r"^[\d:]{8} [A-Z]+ hwnas\.profile\.worker: a record of level (\d+)$", err, re.M)[: len(levels)]
        == levels
    )
    assert err.count("a message") == 1


@pytest.mark.usefixtures("command")
def test_quiet_shows_results_and_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--quiet"]) == 0
    assert capsys.readouterr() == ("the result\n", "error: a record of level 40\n")


def test_quiet_keeps_the_error_that_ends_a_command(
    command: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(InputError("must hold", got=3))
    assert run(["-q", "doctor"]) == 1
    assert capsys.readouterr().err.endswith("error: must hold\n  got     3\n")


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("arguments", [["-v", "doctor"], ["doctor", "-v"]])
def test_the_options_may_stand_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 0
    assert "INFO hwnas.profile.worker: a record of level 20" in capsys.readouterr().err


@pytest.mark.usefixtures("command")
def test_verbosity_before_and_after_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-v", "doctor", "-v"]) == 0
    assert "DEBUG hwnas.profile.worker: a record of level 10" in capsys.readouterr().err


@pytest.mark.usefixtures("command")
def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-v", "doctor", "-q"]) == 2
    assert capsys.readouterr() == ("", "error: --quiet and --verbose exclude each other\n")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("more", [[], ["-q"]])
def test_the_log_file_holds_everything_and_is_appended_to(
    command: Callable[[BaseException], None], tmp_path: Path, before: bool, more: list[str]
) -> None:
    path = tmp_path / "hwnas.log"
    options = ["--log-file", str(path), *more]
    arguments = [*options, "doctor"] if before else ["doctor", *options]
    assert run(arguments) == 0
    assert lines(path) == [
        f"INFO hwnas.cli.logs: command: hwnas {' '.join(arguments)}",
        "DEBUG hwnas.profile.worker: a record of level 10",
        "INFO hwnas.profile.worker: a record of level 20",
        "WARNING hwnas.profile.worker: a record of level 30",
        "ERROR hwnas.profile.worker: a record of level 40",
        "INFO hwnas.cli.progress: 1/1 the stage (0 s so far)",
        "INFO hwnas.cli.progress: a message",
    ]
    size = path.stat().st_size
    command(InputError("must hold", got=3))
    assert run(["doctor", "--log-file", str(path)]) == 1
    assert path.stat().st_size > size
    assert "ERROR hwnas.cli.app: must hold\n  got     3\n" in path.read_text(encoding="utf-8")


def test_the_log_file_holds_the_traceback_of_a_bug(
    command: Callable[[BaseException], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(ZeroDivisionError("by zero"))
    assert run(["doctor", "--log-file", str(tmp_path / "log")]) == 70
    assert capsys.readouterr().err.count("Traceback") == 1
    assert (tmp_path / "log").read_text(encoding="utf-8").count("Traceback") == 1


def test_a_log_file_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no-such-folder" / "log"
    assert run(["doctor", "--log-file", str(path)]) == 1
    assert capsys.readouterr() == (
        "",
        f"error: the log file {path} must be writable\n  got     No such file or directory\n",
    )


@pytest.mark.usefixtures("command")
def test_nothing_is_left_of_a_command(tmp_path: Path) -> None:
    logger = logging.getLogger("hwnas")
    before = (logger.level, list(logger.handlers))
    assert run(["doctor", "-vv", "--log-file", str(tmp_path / "log")]) == 0
    assert (logger.level, logger.handlers) == before


def test_subcommands_have_the_options_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert run(["profiles", "show", "nowhere/at-all", "--log-file", str(path), "-q"]) == 1
    assert lines(path)[0].startswith("INFO hwnas.cli.logs: command: hwnas profiles show nowhere/at-all")


def test_records_go_to_the_stderr_of_the_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = io.StringIO()  # as a bar on a terminal does, to print lines above itself
    with CommandLog() as log:
        log.add_verbosity(1)
        monkeypatch.setattr(sys, "stderr", replaced)
        logging.getLogger("hwnas.search").info("above the bar")
    assert replaced.getvalue().endswith(" INFO hwnas.search: above the bar\n")
    assert capsys.readouterr().err == ""


def test_records_of_a_worker_process_are_in_the_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-m", "tests.profile.faulty")
    with CommandLog() as log, Worker(command=command) as worker:
        log.write_to(tmp_path / "log")
        assert worker.measure(task("logs")).failure is None
    records = [line for line in lines(tmp_path / "log") if "hwnas.profile.faulty" in line]
    assert records == [
        "DEBUG hwnas.profile.faulty: a record of level 10",
        "INFO hwnas.profile.faulty: a record of level 20",
        "WARNING hwnas.profile.faulty: a record of level 30",
    ]
    assert capsys.readouterr().err == "warning: a record of level 30\n"


def test_a_library_user_sees_no_records() -> None:
    code = "import hwnas, logging; logging.getLogger('hwnas.profile').warning('unseen')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_log_file_on_a_full_disk_costs_one_warning(
    command: Callable[[BaseException | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(None)
    assert run(["doctor", "--log-file", "/dev/full"]) == 0
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert err.count("the log file /dev/full is no longer written: No space left on device") == 1
    assert "Traceback" not in err


def test_a_named_pipe_is_no_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run(["doctor", "--log-file", str(tmp_path / "pipe")]) == 1
    assert "must be an ordinary file" in capsys.readouterr().err
    assert run(["doctor", "--log-file", str(tmp_path)]) == 1
    assert "must be an ordinary file" in capsys.readouterr().err
