"""Running one command of the command line, by its name or by its row."""

import pytest

from hwnas.cli.app import hwnas, run
from hwnas.cli.group import CommandRow

ROWS = (
    CommandRow("profile", "hwnas.cli.profile:profile", "Networks timed on a device."),
    CommandRow("profiles", "hwnas.cli.profiles:profiles", "What was measured, and how good it is."),
    CommandRow("explain", "hwnas.cli.explain:explain", "Where the time of a network goes."),
    CommandRow("export", "hwnas.cli.export_network:export_network", "A network in a file."),
)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "CommandLine":
    """The command line with the commands of this folder in it."""
    for row in ROWS:
        monkeypatch.setitem(hwnas.rows, row.name, row)
    return CommandLine(capsys)


class CommandLine:
    """Runs commands and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = run(arguments)
        self.out, self.err = self._capsys.readouterr()
        return code
