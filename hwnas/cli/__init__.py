"""The command line: thin, it parses, calls the pipeline and prints."""

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hwnas.errors import EXIT_SIGNAL, STOP_SIGNALS, Interrupted, signal_number


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    try:
        _interrupt_on_signals()
        _prepare_stdout()
        from hwnas.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt as interrupt:  # before the command began, or while it reported an error
        code = EXIT_SIGNAL + signal_number(interrupt)
    sys.exit(code)


def _interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; one that is ignored, as under nohup, stays ignored."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number=number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)


def _prepare_stdout() -> None:
    """Let text be printed where stdout is closed or cannot encode it."""
    if sys.stdout is None:  # started with `>&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
