"""The command line: thin, it parses, calls the pipeline and prints."""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    from hwnas.cli.app import run
    from hwnas.devices.thread_waits import wait_briefly

    wait_briefly()
    # Text must be printable where stdout or stderr is closed or cannot encode it.
    if sys.stdout is None:  # started with `>&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:], exiting=True))
