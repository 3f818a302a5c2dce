import io
from types import SimpleNamespace

import click
import pytest

from hwnas.cli.output import Column, note_start_time, print_footer, print_line, print_table, wrapped
from hwnas.progress import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.06, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_next_command_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("hwnas")) as root:
        note_start_time(root)
        with click.Context(click.Command("train"), parent=root):
            print_footer(("hwnas", "evaluate", "my runs/a"))
            print_footer()
            print_footer((), ("hwnas", "fit"), ("hwnas", "search"))
    shown = "took 0 s\nnext: hwnas evaluate 'my runs/a'\ntook 0 s\ntook 0 s\nnext: hwnas fit\nor: hwnas search\n"
    assert capsys.readouterr().out == shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LONG = "note: the accuracy of the predictions is unknown, because the run contains no predictor card at all"


@pytest.fixture(params=[40, 20, 1])
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Terminal:
    """A narrow terminal in place of stdout."""
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(request.param))
    # The module, not `sys.stdout`: pytest puts its own stream there when the test begins.
    monkeypatch.setattr("hwnas.cli.output.sys", SimpleNamespace(stdout=stream))
    return stream


def test_long_lines_are_broken_at_spaces_on_a_terminal(terminal: Terminal) -> None:
    print_line(LONG)
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 40
    assert " ".join(line.strip() for line in lines) == LONG


def test_a_pipe_gets_long_lines() -> None:
    assert wrapped(LONG, io.StringIO()) == LONG


def test_rows_of_an_error_keep_their_column_and_commands_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    command = "  try     hwnas search --resume runs/search-of-a-space-with-a-long-name"
    known = "  known   " + ", ".join(f"name{number}" for number in range(20))
    lines = wrapped(f"it must hold\n{known}\n{command}", Terminal()).split("\n")
    assert lines[-1] == command
    assert {line[:10] for line in lines[2:-1]} == {" " * 10}
    assert max(map(len, lines[:-1])) <= 40


def test_a_table_wider_than_the_terminal_becomes_a_list(terminal: Terminal) -> None:
    columns = [Column("network"), *(Column(name, numeric=True) for name in ("params", "macs", "latency"))]
    print_table(columns, [["abcdef0123456789", 5_867_944, 1_283_236_352, None]], title="All")
    lines = terminal.getvalue().splitlines()
    assert lines[0] == "All"
    text = " ".join(" ".join(lines).split())
    assert text == "All network abcdef0123456789 params 5,867,944 macs 1,283,236,352 latency -"
