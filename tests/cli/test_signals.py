"""Signals end a command in good order: 128 and the number, and what was kept."""

import os
import signal
import subprocess
import sys

import pytest

from hwnas.cli.app import run
from hwnas.errors import Interrupted

WAITING = """
import sys, time
import click
from hwnas.cli import group, main
@click.command()
def waiting():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("all is kept") from error
group.load = lambda row: waiting
sys.argv = ["hwnas", "doctor"]
main()
"""
"""A command that waits, and says what it kept when it is stopped."""


def stopped_by(number: int, *, before: str = "") -> tuple[int, str]:
    """The exit code and the errors of a waiting command that gets a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGINT, "interrupted: all is kept\n"),
        (signal.SIGTERM, "stopped by SIGTERM: all is kept\n"),
        (signal.SIGHUP, "stopped by SIGHUP: all is kept\n"),
    ],
)
def test_a_signal_ends_a_command_with_128_and_its_number(number: int, text: str) -> None:
    assert stopped_by(number) == (128 + number, text)


def test_a_command_under_nohup_goes_on_without_its_terminal() -> None:
    ignoring = "import signal, threading, os\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    ending = "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
    assert stopped_by(signal.SIGHUP, before=ignoring + ending) == (143, "stopped by SIGTERM: all is kept\n")


def test_a_signal_whose_terminal_is_gone_ends_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    def hung_up(_: object) -> None:
        raise Interrupted(number=signal.SIGHUP)

    monkeypatch.setattr("hwnas.cli.group.load", hung_up)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert run(["doctor"]) == 129


def test_a_second_signal_does_not_disturb_the_report_of_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hwnas.cli import app

    real = app._report_interrupt

    def signalled_again(interrupt: BaseException) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        code = real(interrupt)
        os.kill(os.getpid(), signal.SIGHUP)
        return code

    def hung_up(_: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr("hwnas.cli.app._report_interrupt", signalled_again)
    monkeypatch.setattr("hwnas.cli.group.load", hung_up)
    before = signal.getsignal(signal.SIGTERM)
    assert run(["doctor"]) == 129
    assert capsys.readouterr().err == "stopped by SIGHUP\n"
    assert signal.getsignal(signal.SIGTERM) is before
