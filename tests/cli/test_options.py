"""The types of all options of all commands: every number has bounds, every path can exist."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hwnas.cli.app import COMMANDS, run
from hwnas.cli.group import load
from hwnas.cli.options import BATCH, BatchesOrPeak, BatchOrAuto, BatchOrDynamic, Names, Number, PathText, Whole

NUMERIC = (Whole, Number, BatchesOrPeak, BatchOrAuto, BatchOrDynamic)

CHECKED_TEXTS = {
    "arch": "looked up in a space, or read as a JSON file",
    "archs": "looked up in a space, or read as a JSON file",
    "extra_models": "looked up among the models of timm",
    "overrides": "parsed as KEY=VALUE of a recipe",
    "constraints": "parsed as a constraint",
    "data": "resolved by the sources of images",
    "device": "looked up among devices",
    "devices": "split and looked up among GPUs",
    "elastic": "looked up among the models of timm, or a path",
    "entry": "looked up in the checkpoint",
    "host": "listened on",
    "gpus": "split and looked up among the GPUs of the machine",
    "family": "looked up among families",
    "match": "compiled as a regular expression",
    "metrics": "parsed as metrics",
    "model": "looked up among the models of timm",
    "name": "looked up among profiles",
    "named": "looked up in a space, or read as a JSON file",
    "evaluate_on": "parsed as local:N or ray",
    "pick": "parsed as a rule of choice",
    "objectives": "parsed as metrics",
    "on": "parsed as names of hosts",
    "order": "looked up among orders",
    "precision": "looked up among precisions",
    "recipe": "looked up among recipes",
    "repo": "checked by the Hub",
    "remote_python": "the path of a program on a host, quoted for its shell",
    "runtime": "looked up among runtimes",
    "slurm": "parsed as KEY=VALUE of a job",
    "sources": "looked up among devices",
    "space": "looked up among spaces, or opened as a run",
    "strategy": "looked up among strategies",
    "targets": "looked up in a space or among the models of timm",
    "teacher": "looked up among the models of timm, or opened as a run",
    "until": "parsed as a goal",
}
"""How each option without a type of its own is checked. A new one belongs here, or gets a type."""


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """All commands and subcommands, with the words that call them."""
    for row in COMMANDS:
        command = load(row)
        yield [row.name], command
        for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
            yield [row.name, name], inner


PARAMETERS = [(words, item) for words, command in commands() for item in command.params]


def test_every_parameter_has_a_type_that_checks_it() -> None:
    for words, item in PARAMETERS:
        checked = isinstance(item.type, (*NUMERIC, Names, PathText, click.Choice)) or item.type is click.BOOL
        counted = isinstance(item, click.Option) and (item.is_flag or item.count)
        assert checked or counted or (item.type is click.STRING and item.name in CHECKED_TEXTS), (words, item.name)


def test_every_number_has_an_upper_bound() -> None:
    for words, item in PARAMETERS:
        kind = BATCH if isinstance(item.type, BatchesOrPeak) else item.type
        if isinstance(kind, (Whole, Number)):
            assert kind.min is not None, (words, item.name)
            assert kind.max is not None, (words, item.name)


NUMBERS = [(words, item) for words, item in PARAMETERS if isinstance(item.type, NUMERIC)]


def test_the_numbers_are_found() -> None:
    assert len(NUMBERS) > 40


@pytest.mark.parametrize(
    "value", [str(10**20), "9" * 5000, "-1", "nan", "inf", "-inf", "1e400", "", "x", "0x10", "1,-1", "\0"]
)
def test_every_number_out_of_bounds_is_refused_with_the_bounds(capsys: pytest.CaptureFixture[str], value: str) -> None:
    for words, item in NUMBERS:
        assert run([*words, f"{item.opts[0]}={value}"]) == 2, (words, item.name)
        error = capsys.readouterr().err
        assert error.startswith(f"error: invalid value for '{item.opts[0]}'"), error
        assert "in the range" in error, error
        assert len(error) < 400


@pytest.mark.parametrize("value", ["", "x" * 256, "a/" * 2200, "ü" * 128])
def test_a_path_that_no_system_holds_is_refused(capsys: pytest.CaptureFixture[str], value: str) -> None:
    paths = [(words, item) for words, item in PARAMETERS if isinstance(item.type, PathText)]
    assert len(paths) > 20
    for words, item in paths:
        if isinstance(item, click.Option):
            assert run([*words, item.opts[0], value]) == 2
            assert "path" in capsys.readouterr().err


def test_a_path_at_the_limit_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    assert PathText().convert(str(path), None, None) == path


@pytest.mark.parametrize("argument", ["\udcff", "photos-\udce4"])
def test_an_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    for words, item in PARAMETERS:
        assert run([*words, item.opts[0], argument]) == 2
        assert "arguments must be valid text" in capsys.readouterr().err


def test_batches_and_open_batches_are_parsed() -> None:
    assert BatchesOrPeak().convert("1,8", None, None) == (1, 8)
    assert BatchesOrPeak().convert("1,peak", None, None) == (1, None)
    assert BatchOrDynamic().convert("dynamic", None, None) is None
    assert BatchOrDynamic().convert("8", None, None) == 8
    assert BatchOrAuto().convert("auto", None, None) == "auto"
    assert BatchOrAuto().convert("8", None, None) == 8
