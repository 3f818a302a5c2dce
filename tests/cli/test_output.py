import click
import pytest

from hwnas.cli.output import format_duration, note_start_time, print_footer


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
    assert capsys.readouterr().out == "took 0 s\nnext: hwnas evaluate 'my runs/a'\ntook 0 s\n"
