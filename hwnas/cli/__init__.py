"""The command line: thin, it parses, calls the pipeline and prints."""

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hwnas.errors import STOP_SIGNALS, Interrupted


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    _interrupt_on_signals()
    _prepare_stdout()
    from hwnas.cli.app import run

    sys.exit(run(sys.argv[1:]))


def _interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; one that is ignored, as under nohup, stays ignored."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number=number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # Python has a handler of its own for SIGINT
            signal.signal(number, interrupt)


def _prepare_stdout() -> None:
    """Let text be printed where stdout is closed or cannot encode it."""
    if sys.stdout is None:  # started with `>&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
